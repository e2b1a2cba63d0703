"""The public world: a clip, an instruction and actions in, an imagined clip out.

    video --video_tokenizer.encode--> tokens --engine (+ text, action ids)--> tokens
          --video_tokenizer.decode--> frames --diffusion_decoder--> refined frames
    last two frames --frame_predictor (+ actions)--> next frame --video_tokenizer.encode--> a hint for the engine

Promises: the same prompt, seed and settings give the same tokens, alone, in any batch, and through a stream (tested in float32 and
bfloat16; rows that share a long past are read together, and the rows of a published model always, and then the logits agree up to
rounding); every mistake in a prompt is one clear line before any work is done. Our own worlds and converted Cosmos worlds differ in
their parts alone: a published model has no picture size of its own, attends to its text, and refines whole clips.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from wfm_ar.errors import BadConfig
from wfm_ar.rollout.action_codec import ActionCodec
from wfm_ar.rollout.clip_refiner import GUIDANCE, ClipRefiner
from wfm_ar.rollout.cosmos_folder import COSMOS_FORMAT, OFFLOAD, read_cosmos
from wfm_ar.rollout.engine import Batch, Request, Row, roll
from wfm_ar.rollout.find_world import find_world, format_of
from wfm_ar.rollout.frame_decoder import BackgroundDecoder, FrameDecoder, note_poor_copies, to_uint8
from wfm_ar.rollout.given import prompt_of, sampling_of
from wfm_ar.rollout.placement import Placement
from wfm_ar.rollout.prompt import Clock, Prompt, Rollout, counter, given_frames
from wfm_ar.rollout.request import check_prompt, request_of, text_inputs
from wfm_ar.rollout.sampling import SamplingConfig, Stream, draws
from wfm_ar.rollout.stream import Mark, WorldStream
from wfm_ar.rollout.text_context import ENCODER, TextReader
from wfm_ar.rollout.threads import shared_threads
from wfm_ar.rollout.video_codec import Size, VideoCodec
from wfm_ar.rollout.world_folder import WorldParts, read_world, save_world
from wfm_ar.schema import Schema
from wfm_ar.world_model.sequence import Sequence as TokenSequence

__all__ = ["OFFLOAD", "Prompt", "Rollout", "World", "WorldParts", "WorldStream", "load_world", "save_world"]

MEASURED = {
    "temperature": 0.0,
    "action_temperature": 1.0,
    "image_temperature": 1.0,
    "text_guidance": 3.0,
    "action_guidance": 1.5,
}  # see World.measured
SIDE = 16384  # pixels a side, as of tokenizers
SAME = "\0"  # in the place of a text: the one that is there


class World:
    """A loaded world. `parts` holds the networks and tokenizers; all methods leave it unchanged."""

    def __init__(
        self,
        parts: WorldParts,
        name: str = "",
        embodiment: str | None = None,
        *,
        placement: Placement | None = None,
        text_encoder: str | None = None,
    ) -> None:
        """`embodiment` names the robot that acts in a world of several; without it such a world takes and imagines no actions.

        placement: parts that wait on the CPU; None: all stay where they are. text_encoder: see TextReader, of a model that attends
        to its text; None = T5-11B. Raises BadConfig for an embodiment that is none of them.
        """
        self.parts, self.name, self.embodiment, self.text_encoder = parts, name, embodiment, text_encoder or ENCODER
        self.placement = placement or Placement(parts.modules(), parts.device)
        self.actions = ActionCodec(parts.action_schema, parts.sequence.rate, embodiment)
        self.action_schema, self.action_tokenizer = self.actions.schema, self.actions.tokenizer
        several = embodiment is not None  # each robot acts at its own rate
        self.rate, self.fps = parts.sequence.rate, self.action_schema.rate_hz if self.action_schema is not None and several else parts.fps
        self.height, self.width = parts.video_tokenizer.config.height, parts.video_tokenizer.config.width
        self.crop = parts.video_tokenizer.config.crop  # how pictures of other sizes became ones of its own in training
        self._refiner, multiple = None, None
        if parts.latent_tokenizer is not None:
            self._refiner = ClipRefiner(cast("Any", parts.diffusion_decoder), parts.latent_tokenizer, parts.decoder_context, self.placement)
        if not parts.sequence.hints:  # hints name the places of the trained grid
            side = parts.video_tokenizer.config.spatial_compression
            multiple = side if self._refiner is None else max(side, self._refiner.multiple)
        self.codec = VideoCodec(parts.video_tokenizer, self.placement, multiple)
        self.sequence, self.lookahead = self._sequence(parts.video_tokenizer.config.grid), parts.lookahead()

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """The networks by the name of their file."""
        return self.parts.modules()

    def __repr__(self) -> str:
        millions = sum(p.numel() for module in self.modules.values() for p in module.parameters()) / 1e6
        takes = ["text"] * self.takes_text + ([f"actions of {len(schema.channels)} channels"] if (schema := self.action_schema) else [])
        about = [f"{self.width}x{self.height} pixels", f"{self.fps:g} frames/s", f"{millions:.1f}M parameters", *takes]
        return f"<World {self.name!r}: {', '.join(about)}, on {self.parts.device}>"

    def generate(
        self,
        video: Any = None,
        text: str | None = None,
        actions: np.ndarray | None = None,
        num_frames: int | None = None,
        seed: int = 0,
        imagine: bool = True,
        *,
        image: Any = None,
        crop: str | None = None,
        sampling: SamplingConfig | None = None,
        **settings: Any,
    ) -> Rollout:
        """One clip; see `given.prompt_of` for the inputs and `generate_batch` for the settings.

        video, image: one of them, a file, a PIL image or an array of any size. num_frames: None = 49, or as many as a published model
        was trained on. Raises BadClip, BadPrompt, BadActions or BadConfig, before any work, for what cannot be.
        """
        given = {"video": video, "image": image, "crop": crop, "text": text, "actions": actions, "seed": seed, "imagine": imagine}
        return self.generate_batch([given | {"num_frames": num_frames}], sampling=sampling, **settings)[0]

    @torch.inference_mode()
    def generate_batch(
        self,
        prompts: Sequence[Prompt | Mapping[str, Any]],
        *,
        refine: bool = True,
        refine_steps: int | None = None,
        guidance: float | None = None,
        published: bool = False,
        keep_detail: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
        sampling: SamplingConfig | None = None,
        **settings: Any,
    ) -> list[Rollout]:
        """One clip for each prompt, with the tokens it would get alone.

        Args:
            prompts: what each clip starts from; a dict holds the inputs of `generate` by name. Of a model that attends to its text,
                `Prompt.text` is a file of T5 embeddings, or words where the encoder is installed.
            refine, refine_steps: show frames through the diffusion decoder; steps None = 2, or 15 of the published decoder.
            guidance: of the published decoder by its condition; None = 1.8.
            published: the blend of overlapping chunks as the published code does it (see `overlap_frames`).
            keep_detail: given frames come out as they were, and what stands still is shown as given (detail.py), but for a tokenizer
                whose own copy of the given picture is poor; False: all is decoded. None = True, but of a published model False.
                `raw_frames` never keep anything.
            progress: is told (latents made, of how many).
            sampling: how tokens are drawn; None = the world's own way (`defaults`).
            settings: of SamplingConfig by name, in place of those of `sampling`; None changes nothing.

        Raises:
            BadClip, BadPrompt, BadActions, BadConfig: before any work; the message names the prompt.
        """
        config = self._sampling(sampling, settings)
        refine_steps = self.parts.defaults.refine_steps if refine_steps is None else refine_steps
        keep_detail = self.parts.defaults.keep_detail if keep_detail is None else keep_detail
        if self._refiner is None and (published or guidance is not None):
            what = "published: got true, expected false" if published else f"guidance: got {guidance}, expected none"
            raise BadConfig(f"{what}: only a Cosmos world has a published way of refining; fix: leave it out")
        guidance = GUIDANCE if guidance is None else guidance
        if refine and self._refiner is not None:
            self._refiner.check(refine_steps, guidance)
        prompts = [prompt_of(prompt, self, i if len(prompts) > 1 else None) for i, prompt in enumerate(prompts)]
        clock, texts = Clock(), self._text_reader()
        checked = [check_prompt(prompt, self, texts, i if len(prompts) > 1 else None) for i, prompt in enumerate(prompts)]
        del texts  # and the encoder that it may hold
        decoders = [self._frame_decoder(one.size, prompt.seed, refine, refine_steps) for one, prompt in zip(checked, prompts, strict=True)]
        requests = [request_of(prompt, one, self.codec) for prompt, one in zip(prompts, checked, strict=True)]
        for prompt, decoder in zip(prompts, decoders, strict=True):
            if keep_detail and prompt.video is not None:
                decoder.keep_detail(prompt.video)
        clock.lap("encode")
        made_of = [(request.num_latents - len(request.row.tokens)) for request in requests]
        tell = counter(progress, sum(made_of))
        beside = 0 if self.placement.stay else shared_threads(self.parts.world_model, len(requests))[1]
        with BackgroundDecoder(decoders, beside) as background:
            for i, request in enumerate(requests):
                background.add(i, *request.row.tokens)

            def made(i: int, tokens_hw: Tensor) -> None:
                background.add(i, tokens_hw)
                tell(1)

            rows = self._roll(requests, [one.size for one in checked], config, made)
            clock.lap("roll")
            with self.placement.at_work("video_tokenizer"):
                shown_and_raw = background.finish()
            clock.lap("paint")
        note_poor_copies(decoders, self.parts.copies)
        tokens = [cast("Any", row.tokens).stacked() for row in rows]
        if refine and self._refiner is not None:
            shown_and_raw = [
                (self._refined(tokens_thw, request.row, one.size, refine_steps, guidance, published), raw)
                for tokens_thw, request, one, (_, raw) in zip(tokens, requests, checked, shown_and_raw, strict=True)
            ]
            clock.lap("refine")
        imagined = sum(len(raw) - given_frames(prompt.video) for (_, raw), prompt in zip(shown_and_raw, prompts, strict=True))
        made_tokens = sum(count * tokens_thw[0].numel() for count, tokens_thw in zip(made_of, tokens, strict=True))
        timings = {f"{name}_s": value for name, value in background.seconds.items()}
        timings |= clock.summary(tokens=made_tokens, frames=imagined)
        return [
            Rollout(
                frames=frames,
                raw_frames=raw_frames,
                tokens=tokens_thw.numpy(),
                actions=self.actions.decode(row.bins) if prompt.actions is None else np.array(prompt.actions, "f4")[: len(frames) - 1],
                given_frames=given_frames(prompt.video),
                clipped_actions=0 if prompt.actions is None else self.bins_of(prompt.actions[: len(frames) - 1])[1],
                seed=prompt.seed,
                fps=self.fps,
                refined=refine,
                kept_detail=decoder.keeps_detail,
                timings=timings | row.pass_rates(count),
            )
            for prompt, decoder, row, count, tokens_thw, (frames, raw_frames) in zip(
                prompts, decoders, rows, made_of, tokens, shown_and_raw, strict=True
            )
        ]

    def start(
        self,
        video: Any = None,
        text: str | None = None,
        actions: np.ndarray | None = None,
        seed: int = 0,
        refine: bool = False,
        refine_steps: int | None = None,
        keep_detail: bool | None = None,
        imagine: bool = True,
        *,
        image: Any = None,
        crop: str | None = None,
        sampling: SamplingConfig | None = None,
        **settings: Any,
    ) -> WorldStream:
        """A rollout that is driven step by step. `actions`: those between the given frames, [T - 1, A] or more, if they are known.

        video, image, crop: as `generate` takes them. The other settings are those of `generate_batch`; a published decoder refines whole
        clips, and no streams. Raises as it does.
        """
        config = self._sampling(sampling, settings)
        if refine and self._refiner is not None:
            raise BadConfig("refine: got true, expected false: this world's diffusion decoder refines whole clips; fix: refine=false")
        given = {"video": video, "image": image, "crop": crop, "text": text, "actions": actions, "seed": seed, "imagine": imagine}
        prompt = prompt_of(given, self)
        video = prompt.video
        prompt = replace(prompt, num_frames=1 if video is None else len(video))
        checked = check_prompt(prompt, self, self._text_reader())
        decoder = self._frame_decoder(
            checked.size, seed, refine, self.parts.defaults.refine_steps if refine_steps is None else refine_steps
        )
        row = request_of(prompt, checked, self.codec).row
        if video is not None and (self.parts.defaults.keep_detail if keep_detail is None else keep_detail):
            decoder.keep_detail(video)
        with self.placement.at_work("world_model"):
            rows = Batch(self.parts.world_model, self._sequence(self.codec.grid(checked.size)), [row], config, self.lookahead)
        stream = WorldStream(rows, self.actions, decoder, imagine, checked.size, self.placement)
        note_poor_copies([decoder], self.parts.copies)
        return stream

    def resume(
        self,
        stream: WorldStream,
        mark: Mark,
        before: Mark | None = None,
        *,
        text: str | None = SAME,
        seed: int | None = None,
        sampling: SamplingConfig | None = None,
        **settings: Any,
    ) -> WorldStream:
        """Goes on from a point of a stream of this world (WorldStream.resume), under another text, seed or settings where they are given.

        text: None for none. sampling: None = as at the mark; settings: those of SamplingConfig that change. Raises BadPrompt, BadConfig.
        """
        changed = {} if seed is None else {"seed": seed}
        if seed is not None:
            draws(seed, 0, Stream.VIDEO, 0)  # refuses one that cannot be
        if text is not SAME:
            ids, context_SC = text_inputs(text, self.parts, self._text_reader())
            changed |= {"text_ids": ids, "context_SC": context_SC}
        return stream.resume(mark, before, row=replace(mark.row, **changed), sampling=replace(sampling or mark.sampling, **settings))

    def defaults(self, top_k: int | None = None) -> dict[str, Any]:
        """The settings of a caller who has no wish, or no other than `top_k`."""
        own = asdict(self.parts.sampling or SamplingConfig()) | {"refine_steps": self.parts.defaults.refine_steps}
        return own | {"top_p": 1.0} if top_k is not None and self.parts.defaults.top_k_alone else own

    def measured(self, top_k: int | None = None) -> dict[str, Any]:
        """The settings of `wfm evaluate` and `wfm demo`: the world's own. Worlds that do not say them were measured by the likeliest
        tokens and with guidance, by text where that commands and by actions where these do."""
        return self.defaults(top_k) | ({} if self.parts.sampling else MEASURED)

    @property
    def default_frames(self) -> int:
        """Of a clip that nobody gave a length."""
        return self.parts.defaults.num_frames

    def at_size(self, height: int, width: int) -> "World":
        """This world at another picture size, with the same networks, where it takes any. Raises BadConfig."""
        if self.parts.sequence.hints and (height, width) != (self.height, self.width):
            raise BadConfig(f"height, width: got {width}x{height}, expected {self.width}x{self.height}, as trained; fix: leave them out")
        if min(height, width) < 1 or max(height, width) > SIDE:
            raise BadConfig(f"height, width: got {width}x{height}, expected sides of 1 to {SIDE} pixels; fix: leave them out")
        other = copy(self)
        other.height, other.width = height, width
        return other

    @torch.inference_mode()
    def encode(self, video: np.ndarray) -> np.ndarray:
        """uint8 [1 + r*n, H, W, 3] -> tokens int64 [1 + n, h, w]. Raises BadClip."""
        self.codec.check(video)
        return self.codec.encode(video).numpy()

    @torch.inference_mode()
    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens int64 [1 + n, h, w] -> uint8 [1 + r*n, H, W, 3], not refined. Raises BadPrompt."""
        return self.codec.decode(tokens)

    @torch.inference_mode()
    def show(
        self, tokens: np.ndarray, seed: int = 0, refine_steps: int | None = None, given: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What tokens [1 + n, h, w] look like -> frames as decoded, and as shown, uint8 [T, H, W, 3] each.

        Shown: refined in `refine_steps` (None: not), with the detail of the first frames, uint8, `given` (None: of none). Raises BadConfig.
        """
        tokens_thw, side = torch.from_numpy(np.asarray(tokens)), self.parts.video_tokenizer.config.spatial_compression
        size = (tokens_thw.shape[1] * side, tokens_thw.shape[2] * side)
        decoder = self._frame_decoder(size, seed, refine_steps is not None, refine_steps or 0)
        if given is not None:
            decoder.keep_detail(given)
        raw, shown = [], []
        with self.placement.at_work("video_tokenizer"):
            for tokens_hw in tokens_thw:
                decoded = decoder.decode(tokens_hw)
                raw.append(to_uint8(decoded))
                shown.append(to_uint8(decoder.shown(tokens_hw, decoded)) if decoder.changes else raw[-1])
        if refine_steps is not None and self._refiner is not None:
            return np.concatenate(raw), self._refined(tokens_thw, Row(seed=seed), size, refine_steps, GUIDANCE, False)
        return np.concatenate(raw), np.concatenate(shown)

    def refuse_context(self, what: str) -> None:
        """Raises BadConfig for a model that attends to T5 embeddings, which `what` has no file of."""
        if self.parts.world_model.config.context_dim:
            why = "attends to T5 embeddings of a text, expected one that does not"
            raise BadConfig(f"{what}: world {self.name!r} {why}; fix: wfm generate takes it, with text=FILE")

    @property
    def imagines_actions(self) -> bool:
        """Whether the model can draw the actions too."""
        return self.sequence.predicts_actions

    def check_schema(self, schema: Schema, where: str = "actions") -> None:
        """Raises BadActions, with the difference, unless `schema` (of a data set, say) is the world's own."""
        self.actions.check_schema(schema, where)

    def bins_of(self, actions: np.ndarray, where: str = "actions") -> tuple[Tensor, int]:
        """Values [N, A] -> (int64 bins [N, A], how many were clipped). Raises BadActions."""
        return self.actions.encode(actions, where)

    @property
    def takes_text(self) -> bool:
        """Whether a prompt may have a text."""
        return self.parts.text_tokenizer is not None or bool(self.parts.world_model.config.context_dim)

    def _sampling(self, sampling: SamplingConfig | None, settings: dict[str, Any]) -> SamplingConfig:
        own = {name: value for name, value in self.defaults(settings.get("top_k")).items() if name != "refine_steps"}
        return sampling_of(sampling, settings, own)

    def _sequence(self, grid: tuple[int, int]) -> TokenSequence:
        """The order of tokens of pictures of this grid."""
        return TokenSequence(self.parts.sequence.at(grid), self.actions.columns)

    def _text_reader(self) -> TextReader:
        return TextReader(self.parts.text_tokens, self.parts.world_model.config.context_dim, self.text_encoder)

    def _frame_decoder(self, size: Size, seed: int, refine: bool, refine_steps: int) -> FrameDecoder:
        denoiser: Any = self.parts.diffusion_decoder
        if refine and denoiser is None:
            raise BadConfig(f"refine: got true, but world {self.name!r} has no diffusion decoder, expected false; fix: refine=false")
        steps = refine_steps if refine and self._refiner is None else None
        return FrameDecoder(self.parts.video_tokenizer, denoiser, seed, steps, size=size, placement=self.placement)

    def _roll(self, requests: list[Request], sizes: list[Size], config: SamplingConfig, made: Callable[[int, Tensor], None]) -> list[Row]:
        """Finishes every request; those of one grid run together."""
        grids: dict[tuple[int, int], list[int]] = {}
        for i, size in enumerate(sizes):
            grids.setdefault(self.codec.grid(size), []).append(i)
        rows: dict[int, Row] = {}
        with self.placement.at_work("world_model"):
            for grid, members in grids.items():
                told = lambda k, tokens_hw, members=members: made(members[k], tokens_hw)  # noqa: E731
                finished = roll(self.parts.world_model, self._sequence(grid), [requests[i] for i in members], config, told, self.lookahead)
                rows |= dict(zip(members, finished, strict=True))
        return [rows[i] for i in range(len(requests))]

    def _refined(self, tokens_thw: Tensor, row: Row, size: Size, steps: int, guidance: float, published: bool) -> np.ndarray:
        """The clip as a published decoder sees it, uint8 [T, H, W, 3]."""
        how: dict[str, Any] = dict(seed=row.seed, fps=self.fps, steps=steps, guidance=guidance, published=published)
        how |= {"spatial_compression": self.parts.video_tokenizer.config.spatial_compression, "context_SC": row.context_SC}
        return cast("Any", self._refiner).refine(tokens_thw, **how)[:, : size[0], : size[1]]


def load_world(
    name: str | Path = "tabletop",
    device: torch.device | str = "cpu",
    *,
    embodiment: str | None = None,
    offload: Sequence[str] = (),
    int8: Sequence[str] = (),
    text_encoder: str | None = None,
    dtype: torch.dtype | None = None,
    decoding: str | None = None,
) -> World:
    """A shipped world by its name, a world folder, a converted Cosmos world among them, or one of the hub, hf://owner/name[@revision].

    Args:
        embodiment: see World.
        offload: of a Cosmos world, parts of OFFLOAD that wait on the CPU while they are idle.
        int8: of "model" and "decoder" of a Cosmos world, those whose linear layers keep 8-bit weights.
        text_encoder: see World.
        dtype: of a Cosmos world's networks; None = float32 on the CPU, bfloat16 elsewhere.
        decoding: by which weights a CPU decodes with a Cosmos world: "half" rounds them to float16, which takes two more bytes a
            parameter and is up to twice as fast; "exact" takes them as they are; None = as its world.json says.

    Raises:
        BadCheckpoint: before any weights are parsed, if a file was changed.
        BadConfig: for settings that the world does not have.
        HubError: for an address whose world cannot be had.
    """
    folder = find_world(name)
    parts, placement = READERS.get(format_of(folder), read_small)(folder, device, dtype, offload, int8, decoding)
    if text_encoder and not parts.world_model.config.context_dim:
        raise BadConfig(f"text_encoder: got {text_encoder!r}, expected none: world {folder.name!r} attends to no text; fix: leave it out")
    return World(parts, folder.name, embodiment, placement=placement, text_encoder=text_encoder)


def read_small(
    folder: Path, device: torch.device | str, dtype: torch.dtype | None, offload: Sequence[str], int8: Sequence[str], decoding: str | None
) -> tuple[WorldParts, Placement | None]:
    """As `read_cosmos`, of a world of our own, whose networks all fit on the device in float32."""
    only = {"offload": offload, "int8": int8, "dtype": dtype, "decoding": decoding}
    if key := next((key for key, given in only.items() if given), ""):
        raise BadConfig(f"{key}: got some, expected none: world {folder.name!r} is small; fix: leave it out, it is for Cosmos worlds")
    return read_world(folder, device), None


READERS = {COSMOS_FORMAT: read_cosmos}  # by the format that world.json names; others are read, or refused, as our own
