"""The public world: a clip, an instruction and actions in, an imagined clip out.

    video --video_tokenizer.encode--> tokens --engine (+ text ids, action bins)--> tokens
          --video_tokenizer.decode--> frames --diffusion_decoder--> refined frames

Promises: the same prompt, seed and settings give the same tokens, alone, in any batch, and through a stream (tested in float32 and
bfloat16; rows that share a long past are read together, and then the logits agree up to rounding); every mistake in a prompt is one
clear line before any work is done. Frames that were given come back as they were (`keep_detail`).
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wfm_ar.errors import BadClip, BadConfig, BadPrompt, WfmError
from wfm_ar.rollout.action_codec import ActionCodec
from wfm_ar.rollout.cosmos_folder import is_cosmos
from wfm_ar.rollout.cosmos_world import CosmosWorld, load_cosmos
from wfm_ar.rollout.detail import POOR_COPY
from wfm_ar.rollout.engine import Actions, Job, Row, Rows, roll, shared_threads
from wfm_ar.rollout.painter import Painter, Painting, to_uint8
from wfm_ar.rollout.prompt import Clock, Prompt, Rollout, counter, given_frames
from wfm_ar.rollout.sampling import SamplingConfig, Stream, draws
from wfm_ar.rollout.stream import WorldStream
from wfm_ar.rollout.world_folder import WorldParts, find_world, read_world, save_world
from wfm_ar.schema import Schema
from wfm_ar.shapes import latent_frames
from wfm_ar.world_model.sequence import Sequence as TokenSequence

__all__ = ["Prompt", "Rollout", "World", "WorldParts", "WorldStream", "load_world", "save_world"]


_ENCODE_AT_ONCE = 4  # latents of a given clip that are encoded in one pass; bounds the memory of long clips


class World:
    """A loaded world. `parts` holds the networks and tokenizers; all methods leave it unchanged."""

    def __init__(self, parts: WorldParts, name: str = "", embodiment: str | None = None) -> None:
        """`embodiment` names the robot that acts in a world of several; without it such a world takes and imagines no actions.

        Raises BadConfig for a name that is none of them.
        """
        self.parts, self.name, self.embodiment = parts, name, embodiment
        self.actions = ActionCodec(parts.action_schema, parts.sequence.rate, embodiment)
        self.action_schema, self.action_tokenizer = self.actions.schema, self.actions.tokenizer
        self.sequence = TokenSequence(parts.sequence, self.actions.columns)
        several = self.action_schema is not None and embodiment is not None  # each robot acts at its own rate
        self.rate, self.fps = parts.sequence.rate, self.action_schema.rate_hz if several else parts.fps
        self.height, self.width = parts.video_tokenizer.config.height, parts.video_tokenizer.config.width
        self.crop = parts.video_tokenizer.config.crop  # how pictures of other sizes became ones of its own in training

    def generate(
        self,
        video: np.ndarray | None = None,
        text: str | None = None,
        actions: np.ndarray | None = None,
        num_frames: int = 49,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 0.9,
        top_k: int | None = None,
        action_temperature: float | None = None,
        text_guidance: float = 1.0,
        action_guidance: float = 1.0,
        refine: bool = True,
        refine_steps: int = 2,
        keep_detail: bool = True,
        imagine: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Rollout:
        """One clip; see Prompt for the inputs, SamplingConfig for the settings. `progress` is told (latents made, of how many).

        keep_detail: given frames come out as they were, and what stands still is shown as given (detail.py), but for a tokenizer whose
        own copy of the given picture is poor; False: all is decoded. `raw_frames` never keep anything.

        Raises BadClip, BadPrompt, BadActions or BadConfig, before any work, for what cannot be.
        """
        prompt = Prompt(video=video, text=text, actions=actions, num_frames=num_frames, seed=seed, imagine=imagine)
        settings = dict(
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            action_temperature=action_temperature,
            text_guidance=text_guidance,
            action_guidance=action_guidance,
            refine=refine,
            refine_steps=refine_steps,
            keep_detail=keep_detail,
        )
        return self.generate_batch([prompt], progress=progress, **settings)[0]

    @torch.inference_mode()
    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        refine: bool = True,
        refine_steps: int = 2,
        keep_detail: bool = True,
        progress: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> list[Rollout]:
        """A clip a prompt, each with the tokens it would get alone. `sampling`: settings of SamplingConfig, by name.

        Raises as `generate`; the message names the prompt.
        """
        config = SamplingConfig(**sampling)
        clock = Clock()
        painters = [self._painter(prompt.seed, refine, refine_steps) for prompt in prompts]
        jobs = [self._job(prompt, f"prompt {i}: " if len(prompts) > 1 else "") for i, prompt in enumerate(prompts)]
        for prompt, painter in zip(prompts, painters, strict=True):
            if keep_detail and prompt.video is not None:
                painter.keep_detail(prompt.video)
        clock.lap("encode")
        latents = sum(job.num_latents - len(job.row.tokens) for job in jobs)
        model, tell = self.parts.world_model, counter(progress, latents)
        with Painting(painters, shared_threads(model, len(jobs))[1]) as painting:

            def made(i: int, tokens_hw: Tensor) -> None:
                painting.add(i, tokens_hw)
                tell(1)

            for i, job in enumerate(jobs):
                painting.add(i, *job.row.tokens)
            rows = roll(model, self.sequence, jobs, config, made)
            clock.lap("roll")
            painted = painting.finish()
            clock.lap("paint")
        _say_poor_copies(painters)
        imagined = sum(len(frames) - given_frames(prompt.video) for (frames, _), prompt in zip(painted, prompts, strict=True))
        timings = clock.summary(tokens=latents * self.sequence.latent_size, frames=imagined)
        timings |= {f"{name}_s": value for name, value in painting.seconds.items()}
        return [
            Rollout(
                frames=frames,
                raw_frames=raw_frames,
                tokens=row.tokens.stacked().numpy(),
                actions=_given(prompt.actions, len(frames)) if prompt.actions is not None else self.actions.decode(row.bins),
                given_frames=given_frames(prompt.video),
                clipped_actions=0 if prompt.actions is None else self.bins_of(prompt.actions[: len(frames) - 1])[1],
                seed=prompt.seed,
                fps=self.fps,
                refined=refine,
                kept_detail=painter.keeps_detail,
                timings=timings,
            )
            for prompt, painter, row, (frames, raw_frames) in zip(prompts, painters, rows, painted, strict=True)
        ]

    def start(
        self,
        video: np.ndarray | None = None,
        text: str | None = None,
        actions: np.ndarray | None = None,
        seed: int = 0,
        refine: bool = False,
        refine_steps: int = 2,
        keep_detail: bool = True,
        imagine: bool = True,
        **sampling: Any,
    ) -> WorldStream:
        """A rollout that is driven step by step. `actions`: those between the given frames, [T - 1, A] or more, if they are known.
        `sampling`: settings of SamplingConfig, by name.

        Raises as `generate`.
        """
        config = SamplingConfig(**sampling)
        painter = self._painter(seed, refine, refine_steps)
        num_frames = 1 if video is None else len(video)
        prompt = Prompt(video=video, text=text, actions=actions, num_frames=num_frames, seed=seed, imagine=imagine)
        row = self._job(prompt).row
        if keep_detail and video is not None:
            painter.keep_detail(video)
        rows = Rows(self.parts.world_model, self.sequence, [row], config)
        stream = WorldStream(rows, self.actions, painter, imagine, (self.height, self.width))
        _say_poor_copies([painter])
        return stream

    def defaults(self, top_k: int | None = None) -> dict[str, float]:
        """What a caller who has no wish gets."""
        return {"top_p": 0.9, "refine_steps": 2}

    def at_size(self, height: int, width: int) -> "World":
        """This world at another picture size, which only its own can be. Raises BadConfig."""
        if (height, width) != (self.height, self.width):
            raise BadConfig(f"height, width: got {width}x{height}, expected {self.width}x{self.height}, as trained; fix: leave them out")
        return self

    @torch.inference_mode()
    def encode(self, video: np.ndarray) -> np.ndarray:
        """uint8 [1 + r*n, H, W, 3] -> tokens int64 [1 + n, h, w]. Raises BadClip."""
        return self._encode(video, "video").numpy()

    @torch.inference_mode()
    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens int64 [1 + n, h, w] -> uint8 [1 + r*n, H, W, 3], not refined. Raises BadPrompt."""
        config = self.parts.sequence
        tokens_thw = np.asarray(tokens)
        if tokens_thw.ndim != 3 or tokens_thw.shape[1:] != (config.grid_h, config.grid_w) or not len(tokens_thw):
            expected = f"[t, {config.grid_h}, {config.grid_w}]"
            raise BadPrompt(f"tokens: got shape {list(tokens_thw.shape)}, expected {expected}; fix: take them from encode or a rollout")
        if tokens_thw.dtype.kind not in "iu" or tokens_thw.min() < 0 or tokens_thw.max() >= config.video_vocab:
            got = f"{tokens_thw.dtype} from {tokens_thw.min()} to {tokens_thw.max()}"
            raise BadPrompt(f"tokens: got {got}, expected whole numbers from 0 to {config.video_vocab - 1}; fix: use this world's tokens")
        painter = self._painter(seed=0)
        return np.concatenate([to_uint8(painter.decode(torch.from_numpy(one.astype(np.int64)))) for one in tokens_thw])

    def check_schema(self, schema: Schema, where: str = "actions") -> None:
        """Raises BadActions, with the difference, unless `schema` (of a data set, say) is the world's own."""
        self.actions.check_schema(schema, where)

    def _painter(self, seed: int, refine: bool = False, refine_steps: int = 2) -> Painter:
        denoiser = self.parts.diffusion_decoder
        if refine and denoiser is None:
            raise BadConfig(f"refine: got true, but world {self.name!r} has no diffusion decoder, expected false; fix: refine=false")
        return Painter(self.parts.video_tokenizer, denoiser, seed, refine_steps if refine else None)

    def _job(self, prompt: Prompt, name: str = "") -> Job:
        """Checks and encodes one prompt; errors begin with `name`."""
        try:
            draws(prompt.seed, 0, Stream.VIDEO, 0)  # refuses a seed that cannot be
            num_latents = _latents(prompt.num_frames, self.rate, "num_frames")
            text_ids = self._text_ids(prompt.text)
            tokens = () if prompt.video is None else tuple(self._encode(prompt.video, "video"))
            if len(tokens) > num_latents:
                raise BadPrompt(
                    f"num_frames: got {prompt.num_frames}, expected at least the {len(prompt.video)} given frames; "
                    "fix: ask for more, or give a shorter video"
                )
            bins_nrA, kind = None, Actions.IMAGINED if prompt.imagine and self.action_tokenizer else Actions.ABSENT
            if prompt.actions is not None:
                bins_nrA, kind = self.actions.encode_clip(prompt.actions, prompt.num_frames), Actions.GIVEN
        except WfmError as error:
            raise type(error)(f"{name}{error}") from None
        known = [None] * len(tokens) if bins_nrA is None else [None, *bins_nrA[: max(0, len(tokens) - 1)]][: len(tokens)]
        row = Row(seed=prompt.seed, text_ids=text_ids, tokens=tokens, bins=tuple(known))
        return Job(row=row, num_latents=num_latents, actions=kind, bins_nrA=bins_nrA)

    def _text_ids(self, text: str | None) -> list[int]:
        if text is None:
            return []
        if self.parts.text_tokenizer is None:
            raise BadPrompt(f"text: got {text!r}, expected none: this world was trained without texts; fix: leave the text out")
        return self.parts.text_tokenizer.encode(text)

    def bins_of(self, actions: np.ndarray, where: str = "actions") -> tuple[Tensor, int]:
        """Values [N, A] -> (int64 bins [N, A], how many were clipped). Raises BadActions."""
        return self.actions.encode(actions, where)

    def _encode(self, video: np.ndarray, where: str) -> Tensor:
        video = np.asarray(video)
        if video.ndim != 4 or video.shape[1:] != (self.height, self.width, 3) or video.dtype != np.uint8:
            raise BadClip(
                f"{where}: got {video.dtype} {list(video.shape)}, expected uint8 [T, {self.height}, {self.width}, 3]; "
                "fix: wfm_ar.data.video.resize_crop makes the size, image[None] a clip of one frame"
            )
        _latents(len(video), self.rate, where)
        weight = next(self.parts.video_tokenizer.parameters())
        stream, tokens, chunk = self.parts.video_tokenizer.encode_stream(), [], _ENCODE_AT_ONCE * self.rate
        for start in range(1 - chunk, len(video), chunk):  # the first piece is the first frame alone, or it and a chunk
            piece = torch.from_numpy(video[max(0, start) : start + chunk]).to(weight.device)
            if len(piece):
                tokens.append(stream.push(piece.permute(3, 0, 1, 2)[None].to(weight.dtype) / 127.5 - 1)[0].cpu())
        return torch.cat(tokens)


def load_world(
    name: str | Path = "tabletop",
    device: torch.device | str = "cpu",
    *,
    embodiment: str | None = None,
    offload: Sequence[str] = (),
    int8: Sequence[str] = (),
    text_encoder: str | None = None,
) -> "World | CosmosWorld":
    """A shipped world by its name, or a world folder, a converted Cosmos world among them; the rest: see load_cosmos.

    `embodiment`: see World. Raises BadCheckpoint, before any weights are parsed, if a file was changed.
    """
    folder = find_world(name)
    if is_cosmos(folder):
        if embodiment is not None:
            raise BadConfig(f"embodiment: got {embodiment!r}, expected none: a Cosmos world has at most one robot; fix: leave it out")
        return load_cosmos(folder, device, offload=offload, int8=int8, text_encoder=text_encoder)
    if offload or int8 or text_encoder:
        key = "offload" if offload else "int8" if int8 else "text_encoder"
        raise BadConfig(f"{key}: got some, expected none: world {folder.name!r} is small; fix: leave it out, it is for Cosmos worlds")
    return World(read_world(folder, device), name=folder.name, embodiment=embodiment)


def _say_poor_copies(painters: Sequence[Painter]) -> None:
    poor = [painter.detail.copy_db for painter in painters if painter.detail is not None and not painter.keeps_detail]
    if poor:
        line = f"keep_detail is off: the tokenizer's own copy of the given picture has {min(poor):.1f} dB, expected {POOR_COPY:.0f} or more"
        warnings.warn(f"{line}; what is shown is what was decoded", stacklevel=4)


def load_own_world(name: str | Path, device: torch.device | str = "cpu", *, embodiment: str | None = None) -> World:
    """`load_world` for what only our own worlds do. Raises BadConfig for a converted Cosmos world too."""
    if is_cosmos(find_world(name)):
        raise BadConfig(f"world: got {name}, a converted Cosmos world, expected one of our own; fix: wfm generate and wfm tokenize take it")
    return load_world(name, device, embodiment=embodiment)


def _given(actions: np.ndarray, num_frames: int) -> np.ndarray:
    return np.asarray(actions, np.float32)[: num_frames - 1]


def _latents(num_frames: int, rate: int, where: str) -> int:
    if isinstance(num_frames, bool) or not isinstance(num_frames, (int, np.integer)):
        raise BadPrompt(f"{where}: got {num_frames!r}, expected a whole number, 1 + {rate}*n; fix: such as {1 + 4 * rate}")
    try:
        return latent_frames(int(num_frames), rate)
    except BadClip as error:
        raise BadClip(f"{where}: {error}") from None
