"""Token shards: a data set encoded once, memory-mapped ever after.

A store is a folder with `store.json` (what made it) and shards `shard-00000/`, each with `video.npy` (uint16 or int32
[latents, h, w]), `actions.npy` (int16 bins [latents, r, A]; row k holds the actions that lead to latent k, the first row of
a clip is zero) and `episodes.json` (id, text, first latent, latents; SHA-256 of the arrays). A shard is written under a
temporary name and renamed, so an interrupted encoding goes on at the first missing shard.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wfm_ar.data.files import as_wfm_error, sha256_of
from wfm_ar.errors import BadData


class TokenClip(NamedTuple):
    """One clip in tokens: video int [n, h, w], bins int16 [n - 1, r, A] or None, text or None."""

    id: str
    video: np.ndarray
    bins: np.ndarray | None
    text: str | None


class TokenStore:
    """Random access to the clips of a store; arrays stay on disk, memory-mapped."""

    def __init__(self, root: Path, verify: bool = False):
        self.root = Path(root)
        try:
            self.about = json.loads((self.root / "store.json").read_text())
            shards = sorted(self.root.glob("shard-*"))
            indices = [json.loads((s / "episodes.json").read_text()) for s in shards]
            self.video = [np.load(s / "video.npy", mmap_mode="r", allow_pickle=False) for s in shards]
            self.bins = [np.load(s / "actions.npy", mmap_mode="r", allow_pickle=False) for s in shards]
        except (OSError, ValueError) as error:
            raise BadData(f"{root}: not a readable token store ({error}); fix: delete it and encode again") from error
        if len(shards) != self.about["shards"]:
            raise BadData(f"{root}: got {len(shards)} shards, expected {self.about['shards']}; fix: run the encoding again, it goes on")
        self.clips = [(i, clip) for i, index in enumerate(indices) for clip in index["clips"]]
        if verify:
            for shard, index in zip(shards, indices, strict=True):
                _verify(shard, index["sha256"])

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> TokenClip:
        shard, clip = self.clips[i]
        part = slice(clip["first"], clip["first"] + clip["latents"])
        bins = self.bins[shard][part][1:] if self.about["actions"] else None
        return TokenClip(clip["id"], self.video[shard][part], bins, clip["text"])

    @property
    def num_tokens(self) -> int:
        """Video tokens in the whole store."""
        return sum(v.size for v in self.video)


def write_store(
    root: Path, about: dict, count: int, encode: Callable[[range], Iterable[TokenClip]], per_shard: int, done: Callable[[int], None]
) -> TokenStore:
    """Encode clips 0..count-1 into a store at `root`; goes on where an earlier try with the same `about` ended.

    encode(range) yields the clips of a shard in order. about: JSON that pins what made it (tokenizer hash, clip ids ...).
    done(n) is told how many clips are finished.
    Raises BadData when the folder holds a store of something else.
    """
    root = Path(root)
    shards = -(-count // per_shard)
    about = json.loads(json.dumps(about | {"shards": shards, "clips": count}))
    root.mkdir(parents=True, exist_ok=True)
    described = root / "store.json"
    try:
        if described.exists() and json.loads(described.read_text()) != about:
            raise BadData(f"{root}: holds tokens of another tokenizer or data set; fix: delete it or choose another folder")
        described.write_text(json.dumps(about, indent=1))
        for shard in range(shards):
            clips = range(shard * per_shard, min(count, (shard + 1) * per_shard))
            final = root / f"shard-{shard:05d}"
            if not final.exists():
                _write_shard(final, encode(clips), about["actions"])
            done(clips.stop)
    except OSError as error:
        raise as_wfm_error(error, root) from error
    return TokenStore(root)


def _write_shard(final: Path, clips: Iterable[TokenClip], actions: bool) -> None:
    temporary = final.with_name(f".tmp-{final.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    videos, bins, index, first = [], [], [], 0
    for clip in clips:
        videos.append(clip.video)
        if actions:
            bins.append(np.concatenate((np.zeros_like(clip.bins[:1]), clip.bins)))
        index.append({"id": clip.id, "text": clip.text, "first": first, "latents": len(clip.video)})
        first += len(clip.video)
    np.save(temporary / "video.npy", np.concatenate(videos))
    np.save(temporary / "actions.npy", np.concatenate(bins) if actions else np.zeros(0, np.int16))
    hashes = {name: sha256_of(temporary / name) for name in ("video.npy", "actions.npy")}
    (temporary / "episodes.json").write_text(json.dumps({"sha256": hashes, "clips": index}))
    os.rename(temporary, final)


def _verify(shard: Path, hashes: dict[str, str]) -> None:
    for name, digest in hashes.items():
        if sha256_of(shard / name) != digest:
            raise BadData(f"{shard / name}: content differs from its recorded hash; fix: delete the shard and encode again")
