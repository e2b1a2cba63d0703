"""Encoding a data set once: frames and actions -> a token store on disk."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.fingerprint import origins
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.data.renewal import drop_set_aside, renew
from wfm_ar.data.shards import TokenClip, TokenStore, write_store
from wfm_ar.errors import BadData, WfmError
from wfm_ar.schema import Schema
from wfm_ar.tokenizers.action import ActionVocabulary
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.tokenizers.video.model import EARLIER_TOKENIZER
from wfm_ar.train.clips import Clips, to_float
from wfm_ar.train.metrics import Progress
from wfm_ar.train.whole_run import WholeRun


def tokenize(
    tokenizer: VideoTokenizer,
    episodes: EpisodeSet,
    out: Path,
    per_shard: int = 256,
    workers: int = 1,
    images: bool = False,
    cache: FrameCache | None = None,
    whole: WholeRun | None = None,
) -> TokenStore:
    """Encode every clip of `episodes` (frames beyond the last whole latent are left out) into the store `out`; resumable.

    Where the store holds clips of earlier frames, actions or texts, those are made anew, and a line says what changed.
    Memory does not grow with a clip's length. images: the last frame of each latent too, alone, as a prompt that is an image has it.
    workers: threads that decode and encode a clip each; torch's kernels run outside Python's lock, so they do run side by side.
    cache: where decoded frames are kept. whole: the run that this is a part of, where how long that takes is known.
    """
    tokenizer.eval()
    config, actions = tokenizer.config, action_vocabulary(episodes.schema)
    clips = Clips(episodes, config, cache)
    kind = np.uint16 if tokenizer.codebook_size <= 2**16 else np.int32
    wanted = origins(episodes, workers)
    about = {
        "actions": actions is not None,
        "codebook_size": tokenizer.codebook_size,
        "tokenizer": encoder_hash(tokenizer),
        "config": asdict(config),
        "schema": episodes.schema.to_json() if episodes.schema else None,
        "origins": hashlib.sha256(json.dumps(wanted).encode()).hexdigest(),
        "view": episodes.view,
        "images": images,
    }
    about, aside, changes = renew(out, about, wanted, per_shard, partial(same_tokenizer, about))
    if changes:
        print(changes, flush=True)

    device = next(tokenizer.parameters()).device

    @torch.inference_mode()
    def encode_frames(i: int) -> tuple[np.ndarray, np.ndarray | None]:
        rate, stream, video, alone = config.temporal_compression, tokenizer.encode_stream(), [], []
        for frames in clips.whole_latents(i):
            video_1CTHW = to_float(frames.to(device)).permute(3, 0, 1, 2)[None]
            if about["images"]:
                last_nC1HW = video_1CTHW[:, :, rate - 1 if video else 0 :: rate].transpose(0, 2)
                alone.append(tokenizer.encode(last_nC1HW)[:, 0])
            video.append(stream.push(video_1CTHW)[0])
        images = torch.cat(alone).cpu().numpy().astype(kind) if alone else None
        return torch.cat(video).cpu().numpy().astype(kind), images

    def encode(i: int) -> TokenClip:
        before, rate = aside.find(wanted[i].frames), config.temporal_compression
        video, alone = encode_frames(i) if before is None else (before.video, before.images)
        bins = bins_of(episodes, i, rate * (len(video) - 1), actions) if actions else None
        bins = None if bins is None or actions is None else bins.reshape(len(video) - 1, rate, len(actions.bins))
        first_frames = np.maximum(0, 1 + rate * (np.arange(len(video), dtype=np.int32) - 1))
        return TokenClip(episodes[i].id, video, bins, episodes[i].text, first_frames, alone if about["images"] else None, wanted[i])

    progress = Progress(f"encoding {out.name}", 0, len(episodes), whole=whole)
    with ThreadPoolExecutor(workers) as pool:
        tell = partial(progress.update, numbers={})
        store = write_store(out, about, len(episodes), lambda part: pool.map(encode, part), per_shard, tell)
    progress.close()
    if store.origins != wanted:
        raise BadData(f"{out}: another process writes other data into it, expected one data set; fix: choose another folder, run again")
    drop_set_aside(out)
    return store


def same_tokenizer(about: dict, found: dict) -> bool:
    """Whether the store that says `found` of itself was made by the tokenizer of `about`; an earlier version may say less."""
    try:
        return _made_by(found) == _made_by(about)
    except (WfmError, KeyError, TypeError, AttributeError):
        return False


def _made_by(about: dict) -> tuple:
    config: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in about["config"].items()}
    return about["tokenizer"], about["codebook_size"], VideoTokenizerConfig(**EARLIER_TOKENIZER | config)


def action_vocabulary(schema: Schema | None) -> ActionVocabulary | None:
    """The vocabulary of a data set's actions; None without actions, or where every channel is constant."""
    vocabulary = ActionVocabulary(schema) if schema else None
    return vocabulary if vocabulary and vocabulary.bins else None


def bins_of(episodes: EpisodeSet, i: int, count: int, actions: ActionVocabulary) -> np.ndarray:
    """int16 [count, all columns] of episode i: -1 in the columns of other robots, and everywhere if it has no actions."""
    values, episode = episodes.load_actions(i), episodes[i]
    if values is None:
        return actions.absent(count).numpy().astype(np.int16)
    return actions.encode(values[:count], episode.embodiment, f"{episode.actions} ({episode.id})").numpy().astype(np.int16)


def encoder_hash(tokenizer: VideoTokenizer) -> str:
    """SHA-256 over names and values of what decides the tokens: everything but the decoder, which may be polished later."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        if not name.startswith(("decoder.", "post_quant_conv.", "latent_norm.seen")):
            digest.update(name.encode() + str(tensor.dtype).encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
