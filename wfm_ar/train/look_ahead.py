"""What the frame predictor tells of every latent of a token store, worked out once, before the world model is trained.

A folder beside the store: `lookahead.json` (what made it), and a folder for each of its shards with

    ahead.npy   int8 [latents, h, w, K], see wfm_ar/rollout/lookahead.py
    seen.npy    like the shard's video.npy: the tokens that the world model sees as its past, which are not always the true ones

A rollout's past is the model's own work, so what is told of the next latent is made from frames that are a little off. A world model
that only ever saw what is told of true frames would take it at its word. So of half the clips stretches of up to LONGEST latents
are the predictor's own, each made from those before, and the targets remain the true ones: from there the model learns to lead back.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wfm_ar.data.files import as_wfm_error, remove_dead_parts, write_atomic
from wfm_ar.data.shards import TokenClip, TokenStore, locked, read_description
from wfm_ar.errors import BadData
from wfm_ar.rollout.lookahead import Lookahead, expected_tokens
from wfm_ar.train.metrics import Progress
from wfm_ar.train.whole_run import WholeRun
from wfm_ar.world_model.sequence import NOT_TOLD

ABOUT = "lookahead.json"
OWN_CLIPS = 0.5  # share of the clips with stretches of the predictor's own
LONGEST = 8  # latents of such a stretch
BETWEEN = 2  # true latents before the next one, so that it begins with true motion


class LookaheadStore:
    """What was told of the clips of a token store, by the same numbers. Raises BadData where a file is not what it should be."""

    def __init__(self, root: Path, tokens: TokenStore):
        self.root, self._tokens = root, tokens
        self._open: dict[int, Any] = {}

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """-> (seen [t, h, w], ahead int8 [t, h, w, K]) of clip i."""
        shard = int(self._tokens.shard_of[i])
        if shard not in self._open:
            folder = self.root / f"shard-{shard:05d}"
            try:
                arrays = tuple(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("seen", "ahead"))
            except (OSError, ValueError) as error:
                raise BadData(f"{folder}: cannot be read ({error}); fix: delete {self.root}, it is made again") from error
            shape = self._tokens.shard(shard).video.shape
            if arrays[0].shape != shape or arrays[1].shape[:-1] != shape or arrays[1].dtype != np.int8:
                raise BadData(f"{folder}: got other arrays than its token shard has; fix: delete {self.root}, it is made again")
            self._open[shard] = tuple(np.asarray(array) for array in arrays)
        rows = slice(int(self._tokens.first[i]), int(self._tokens.first[i] + self._tokens.latents[i]))
        seen, ahead = self._open[shard]
        return seen[rows], ahead[rows]


def look_ahead(
    lookahead: Lookahead,
    tokens: TokenStore,
    out: Path,
    *,
    own: bool,
    workers: int = 1,
    precision: torch.dtype | None = None,
    whole: WholeRun | None = None,
) -> LookaheadStore:
    """Fill `out` for every shard of `tokens`; resumable, and made anew where tokens or networks are others.

    own: with stretches of the predictor's own frames (training), or of true frames alone (validation). workers: threads, a clip each;
    another process that fills the same folder takes other shards.
    whole: the run that this is a part of, where how long that takes is known.
    """
    about = {"tokens": tokens.about, "networks": _hash(lookahead), "own": own}
    try:
        if (out / ABOUT).exists() and read_description(out / ABOUT) != json.loads(json.dumps(about)):
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        remove_dead_parts(out)
        if not (out / ABOUT).exists():
            write_atomic(out / ABOUT, json.dumps(about).encode())
        progress = Progress(f"looking ahead {out.name}", 0, len(tokens), whole=whole)
        with ThreadPoolExecutor(workers) as pool:
            for wait in (False, True):  # first what nobody works on, then wait for what another process has not finished
                done = 0
                for shard in range(int(tokens.about["shards"])):
                    final, clips = out / f"shard-{shard:05d}", np.flatnonzero(tokens.shard_of == shard)
                    with locked(out / f".lock-{shard:05d}", wait) as mine:
                        if mine and not final.exists():
                            tell = lambda n, before=done: progress.update(before + n, {})  # noqa: E731
                            _write(final, lookahead, tokens, clips, own, pool.map, precision, tell)
                    if final.exists():  # whoever wrote it
                        done += len(clips)
                        progress.update(done, {})
        progress.close()
        for lock in out.glob(".lock-*"):
            lock.unlink(missing_ok=True)
    except OSError as error:
        raise as_wfm_error(error, out) from error
    return LookaheadStore(out, tokens)


def _write(
    final: Path, lookahead: Lookahead, tokens: TokenStore, clips: np.ndarray, own: bool, pool: Callable, precision, tell: Callable
) -> None:
    temporary = final.with_name(f".tmp-{final.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    seen, ahead = [], []
    made = pool(lambda i: told_of_clip(lookahead, tokens[int(i)], np.random.default_rng((int(i), 5)) if own else None, precision), clips)
    for n, (seen_thw, ahead_thwK) in enumerate(made, 1):
        seen.append(seen_thw)
        ahead.append(ahead_thwK)
        tell(n)
    np.save(temporary / "seen.npy", np.concatenate(seen))
    np.save(temporary / "ahead.npy", np.concatenate(ahead))
    temporary.rename(final)


@torch.inference_mode()
def told_of_clip(
    lookahead: Lookahead, clip: TokenClip, rng: np.random.Generator | None, precision: torch.dtype | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens that are seen [t, h, w], what is told int8 [t, h, w, K]) of a clip. rng: draws the predictor's own stretches; None = none.

    precision: of the networks' work, where it is not their own.
    """
    tokenizer = lookahead.tokenizer
    device = next(tokenizer.parameters()).device
    true = torch.from_numpy(clip.video.astype(np.int64))
    bins = None if clip.bins is None else torch.from_numpy(clip.bins[:, 0].astype(np.int64))
    with torch.autocast(device.type, precision or torch.bfloat16, enabled=precision is not None):
        if rng is None or rng.random() >= OWN_CLIPS:
            return clip.video, lookahead.along(true, bins).numpy()
        seen, told, left = [true[0]], [lookahead.along(true[:1], None if bins is None else bins[:0])[0]], int(rng.integers(LONGEST + 1))
        frames, pause = {0: lookahead.decoded(true[:1])}, BETWEEN  # of the latents that are seen
        own: set[int] = set()  # of these, those that the predictor made
        for k in range(1, len(true)):
            if bins is not None and bool((bins[k - 1] < 0).all()):
                told.append(torch.full_like(told[0], NOT_TOLD))
                left = 0
            else:
                past = torch.stack([frames[max(0, i)] for i in lookahead.before(k)], 1)
                told.append(lookahead.of_frames(past, None if bins is None else lookahead.bins_behind(bins, k)[None])[0])
            if left > 0:
                left -= 1
                own.add(k)
                seen.append(expected_tokens(told[-1], seen[-1], tokenizer.config.levels))
                frames[k] = lookahead.decoded(seen[-1][None])
                continue
            seen.append(true[k])
            frames |= {i: lookahead.decoded(true[i : i + 1]) for i in (*own, k)}  # back to the truth, the past too
            own.clear()
            pause -= 1
            if pause <= 0:
                left, pause = int(rng.integers(1, LONGEST + 1)), BETWEEN
    return torch.stack(seen).numpy().astype(clip.video.dtype), torch.stack(told).numpy()


def _hash(lookahead: Lookahead) -> str:
    digest = hashlib.sha256()
    for module in (lookahead.tokenizer, lookahead.predictor):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
