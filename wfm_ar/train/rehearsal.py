"""A short rehearsal of a whole run, with untrained networks and a few clips: what each part of it takes on this machine and these data.

Everything a run does is done, in a folder that is thrown away: steps of every stage, validations, encoding, looking ahead. Untrained
networks cost what trained ones do, but for the world model's sparse rows, whose length follows from how many tokens change: its steps
are timed once more before its stage begins.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.diffusion_decoder.denoiser import DenoiserConfig
from wfm_ar.frame_predictor.network import FramePredictorConfig
from wfm_ar.inverse_dynamics.network import InverseDynamicsConfig
from wfm_ar.machine import forget_peak_memory, free_memory, peak_memory
from wfm_ar.rollout.lookahead import Lookahead
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train.data_facts import some_clips
from wfm_ar.train.diffusion_decoder_stage import DiffusionDecoderStage
from wfm_ar.train.frame_predictor_stage import FramePredictorStage
from wfm_ar.train.inverse_dynamics_stage import InverseDynamicsStage, InverseDynamicsTraining
from wfm_ar.train.look_ahead import look_ahead
from wfm_ar.train.loop import step_seconds
from wfm_ar.train.settings import LoopConfig
from wfm_ar.train.stage_protocol import Stage
from wfm_ar.train.stages import DIFFUSION_DECODER, FRAME_PREDICTOR, VIDEO_TOKENIZER, sequence_config
from wfm_ar.train.tokens import action_vocabulary, tokenize
from wfm_ar.train.video_tokenizer_stage import VideoTokenizerStage
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import WorldModelConfig

CANDIDATES, CLIPS = 12, 3  # of so many clips the shortest are rehearsed with
KEPT = 1e9  # bytes of their frames


@dataclass(frozen=True, kw_only=True)
class Networks:
    """What the stages of a run are made of."""

    tokenizer: VideoTokenizerConfig
    predictor: FramePredictorConfig | None
    model: WorldModelConfig
    decoder: DenoiserConfig
    inverse_dynamics: InverseDynamicsConfig | None
    reading: InverseDynamicsTraining
    windows: Mapping[str, Any]  # Windows, or what a stage makes of them; of the stages that learn from pixels
    world_model: WorldModelTraining
    loops: Mapping[str, LoopConfig]
    max_latents: int
    max_text: int
    text_vocab: int
    action_sums: bool
    hint_latents: int


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds, but for the last."""

    step_s: dict[str, float]  # of each stage
    validation_s: dict[str, float]  # of one, of each stage
    encode_s: float  # a frame, decoding included
    look_ahead_s: float  # a frame
    peak_bytes: int  # of this process (CPU) or of the device


def rehearse(
    networks: Networks, train_set: EpisodeSet, *, seconds: float, workers: int = 1, precision: torch.dtype | None = None
) -> Timings:
    """`seconds`: of steps, for each stage, about. Raises what the stages raise for data or settings that cannot be."""
    candidates = some_clips(train_set, CANDIDATES)
    shortest = sorted(range(len(candidates)), key=candidates.num_frames)[:CLIPS]
    few = replace(candidates, episodes=tuple(candidates[i] for i in sorted(shortest)))
    frames = sum(few.num_frames(i) for i in range(len(few)))
    cuda = any(_on_cuda(loop) for loop in networks.loops.values())
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    forget_peak_memory()
    step_s, validation_s = {}, {}
    # what the parts say of a few clips would be taken for the run's own words
    with tempfile.TemporaryDirectory(prefix="wfm-rehearsal-") as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        cache = FrameCache(folder / "frames", KEPT)

        def timed(stage: Stage) -> None:
            loop = networks.loops[stage.name]
            step_s[stage.name] = step_seconds(stage, loop, seconds)
            device = torch.device("cuda" if _on_cuda(loop) else "cpu")
            model = stage.model.to(device).eval()
            taken = _seconds(lambda: stage.validate(model, device))
            validation_s[stage.name] = taken * max(1.0, _validated(stage) / len(few))

        windows = networks.windows
        first = VideoTokenizerStage(networks.tokenizer, windows[VIDEO_TOKENIZER], few, few, cache)
        timed(first)
        tokenizer = first.model.eval().requires_grad_(False)
        encode = lambda: tokenize(tokenizer, few, folder / "tokens", workers=workers)  # noqa: E731 - without the cache: it decodes
        encode_s = _seconds(encode) / frames
        store, text = encode(), None  # which finds it done
        ahead: dict[str, Any] | None = None
        looking, look_ahead_s = None, 0.0
        if networks.predictor is not None:
            second = FramePredictorStage(networks.predictor, windows[FRAME_PREDICTOR], tokenizer, few, few, cache)
            timed(second)
            looking = second.lookahead
            _move(looking, "cuda" if cuda else "cpu")
            second.model.eval().requires_grad_(False)
            how = {"own": True, "workers": workers, "precision": precision}
            look_ahead_s = _seconds(lambda: look_ahead(looking, store, folder / "ahead", **how)) / frames
            ahead = dict.fromkeys(("train", "val"), look_ahead(looking, store, folder / "ahead", **how))
        if texts := sorted({episode.text for episode in train_set if episode.text}):
            text = TextTokenizer.train(texts, vocab_size=networks.text_vocab, max_tokens=networks.max_text)
        told = {name: getattr(networks, name) for name in ("max_latents", "max_text", "action_sums", "hint_latents")}
        sequence = sequence_config(tokenizer.config, text, train_set.schema, lookahead=looking is not None, **told)
        timed(
            WorldModelStage(
                networks.model,
                sequence,
                networks.world_model,
                store,
                store,
                text,
                train_set.schema,
                tokenizer,
                lookahead=looking,
                ahead=ahead,
            )
        )
        timed(DiffusionDecoderStage(networks.decoder, windows[DIFFUSION_DECODER], tokenizer, few, few, cache=cache))
        if networks.inverse_dynamics is not None and action_vocabulary(train_set.schema) is not None:
            timed(InverseDynamicsStage(networks.inverse_dynamics, networks.reading, tokenizer, few, few, cache))
    peak = torch.cuda.max_memory_allocated() if cuda else peak_memory()
    return Timings(step_s=step_s, validation_s=validation_s, encode_s=encode_s, look_ahead_s=look_ahead_s, peak_bytes=peak)


def _validated(stage: Stage) -> int:
    """Clips that a validation looks at."""
    whole: Any = stage
    return whole.training.val_clips


def room_for_training(cuda: bool) -> int | None:
    """Bytes that `peak_bytes` may be: what this process holds and what is free, of the device (CUDA) or of the machine; None: not told."""
    if cuda:
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    free = free_memory()
    forget_peak_memory()
    return None if free is None else free + peak_memory()


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _on_cuda(loop: LoopConfig) -> bool:
    return loop.device == "cuda" or (loop.device == "auto" and torch.cuda.is_available())


def _move(looking: Lookahead, device: str) -> None:
    for module in (looking.tokenizer, looking.predictor):
        module.to(device)
