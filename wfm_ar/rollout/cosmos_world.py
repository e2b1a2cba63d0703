"""A converted Cosmos world, used like our own: frames and text in, an imagined clip out.

    video --video_tokenizer.encode--> tokens --cosmos_roll (+ text context)--> tokens
          --video_tokenizer.decode--> frames, or
          --diffusion_decoder (+ text context)--> latents --latent_tokenizer.decode--> refined frames

Any number of given frames 1 + r*n, any number made: beyond the trained length a clip rolls on from its last latents. Any picture
size: it is padded to what the networks take and cropped back, with a warning that the weights were trained at another.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wfm_ar.diffusion_decoder.dit_sampler import CHUNK, blend_chunks, dit_noise, dit_sample, overlap_frames, split_chunks
from wfm_ar.errors import BadCheckpoint, BadClip, BadConfig, BadData, BadPrompt, WfmError, nearest
from wfm_ar.rollout.action_codec import ActionCodec
from wfm_ar.rollout.cosmos_folder import CosmosSettings, read_cosmos
from wfm_ar.rollout.cosmos_roll import CosmosJob, CosmosRows, roll_cosmos
from wfm_ar.rollout.cosmos_stream import CosmosStream
from wfm_ar.rollout.painter import to_uint8
from wfm_ar.rollout.prompt import Clock, Prompt, Rollout, counter, given_frames
from wfm_ar.rollout.sampling import SamplingConfig, Stream, draws
from wfm_ar.rollout.text_context import ENCODER, TextReader
from wfm_ar.schema import ActionSchema
from wfm_ar.shapes import latent_frames
from wfm_ar.tokenizers.video.model import DecodeStream

# The text encoder is loaded for one text and let go, so "text" is always off the device.
OFFLOAD = {"text": (), "tokenizer": ("video_tokenizer",), "decoder": ("latent_tokenizer", "diffusion_decoder"), "model": ("world_model",)}
SIDE = 16384  # pixels a side, as of tokenizers
_ENCODE_AT_ONCE = 4  # latents of a given clip encoded in one pass


class CosmosWorld:
    """A loaded Cosmos world: settings, networks by part. Its methods leave it unchanged."""

    def __init__(
        self,
        settings: CosmosSettings,
        modules: dict[str, nn.Module],
        decoder_context: Tensor | None = None,
        name: str = "",
        device: torch.device | str = "cpu",
        stay: frozenset[str] = frozenset(),
        text_encoder: str = ENCODER,
    ) -> None:
        """Parts in `stay` lie on the CPU and come to `device` only while they work."""
        self.text_encoder = text_encoder
        self.settings, self.modules, self.name, self.device, self.stay = settings, modules, name, torch.device(device), stay
        self.decoder_context = decoder_context
        tokenizer = settings.video_tokenizer
        self.rate, self.fps, self.height, self.width = tokenizer.temporal_compression, settings.fps, tokenizer.height, tokenizer.width
        self.crop = tokenizer.crop  # how pictures of other sizes become ones of its own
        self.codebook = modules["video_tokenizer"].codebook_size
        try:
            schema = settings.action_schema and ActionSchema.from_json(settings.action_schema)
            self.actions = ActionCodec(schema, self.rate, no_actions="the published Cosmos models take no actions without fine-tuning")
        except BadData as error:
            raise BadCheckpoint(f"cosmos world {name}: action schema: {error}") from None
        self.action_schema, self.action_tokenizer, self.action_starts = self.actions.schema, self.actions.tokenizer, None
        if self.action_tokenizer is not None:
            first = settings.world_model.vocab - self.action_tokenizer.vocab_size
            self.action_starts = torch.tensor(self.action_tokenizer.offsets) + first

    def generate(self, video=None, text=None, actions=None, num_frames: int = 33, seed: int = 0, imagine: bool = True, **settings):
        """One clip, a Rollout; see generate_batch for the settings."""
        prompt = Prompt(video=video, text=text, actions=actions, num_frames=num_frames, seed=seed, imagine=imagine)
        return self.generate_batch([prompt], **settings)[0]

    @torch.inference_mode()
    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        temperature: float = 1.0,
        top_p: float | None = None,
        top_k: int | None = None,
        refine: bool = True,
        refine_steps: int = 15,
        guidance: float = 1.8,
        published: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Rollout]:
        """A Rollout a Prompt. `Prompt.text` is a file of T5 embeddings (or words, with the encoder installed).

        top_p: None takes the one recommended for the release, without top_k. published: the blend of overlapping chunks as the
        published code does it (see overlap_frames). Raises BadClip, BadPrompt, BadActions or BadConfig before any work.
        """
        top_p = self.defaults(top_k)["top_p"] if top_p is None else top_p
        sampling, clock = SamplingConfig(temperature=temperature, top_p=top_p, top_k=top_k), Clock()
        if refine and "diffusion_decoder" not in self.modules:
            raise BadConfig(f"refine: got true, but world {self.name!r} has no diffusion decoder, expected false; fix: refine=false")
        if refine and (refine_steps < 2 or guidance < 0):
            raise BadConfig(
                f"refine_steps, guidance: got {refine_steps}, {guidance}, expected at least 2 and 0; fix: 15 and 1.8, as published"
            )
        texts, checked, jobs = self._reader(), [], []
        for i, prompt in enumerate(prompts):
            try:
                checked.append(self._checked(prompt, texts))
            except WfmError as error:
                raise type(error)(f"prompt {i}: {error}" if len(prompts) > 1 else str(error)) from None
        del texts
        totals, sizes = [total for total, *_ in checked], [size for _, size, *_ in checked]
        for prompt, (_, size, context, bins_nrA) in zip(prompts, checked, strict=True):
            tokens = self._encode(prompt.video, size) if prompt.video is not None else torch.empty(0, *self._grid(size), dtype=torch.int64)
            jobs.append(CosmosJob(tokens_ghw=tokens, seed=prompt.seed, context_SC=context, bins_nrA=bins_nrA))
        clock.lap("encode")
        latents = sum(total - len(job.tokens_ghw) for total, job in zip(totals, jobs, strict=True))
        with self._placed("world_model"):
            model = self.modules["world_model"]
            rows = roll_cosmos(model, jobs, totals, sampling, **self._window(), progress=counter(progress, latents))
        clock.lap("roll")
        raw = [self._decode(tokens, size) for tokens, size in zip(rows, sizes, strict=True)]
        clock.lap("decode")
        refined = raw
        if refine:
            with self._placed("diffusion_decoder", "latent_tokenizer"):
                refined = [
                    self._refine(tokens, job, size, refine_steps, guidance, published)
                    for tokens, job, size in zip(rows, jobs, sizes, strict=True)
                ]
            clock.lap("refine")
        made = sum(len(frames) - given_frames(prompt.video) for frames, prompt in zip(raw, prompts, strict=True))
        made_tokens = sum(
            (total - len(job.tokens_ghw)) * rows_thw[0].numel() for total, job, rows_thw in zip(totals, jobs, rows, strict=True)
        )
        timings = clock.summary(tokens=made_tokens, frames=made)
        return [
            Rollout(
                frames=frames,
                raw_frames=raw_frames,
                tokens=tokens.numpy(),
                actions=None if prompt.actions is None else np.asarray(prompt.actions, np.float32)[: len(raw_frames) - 1],
                given_frames=given_frames(prompt.video),
                clipped_actions=0 if prompt.actions is None else self.bins_of(prompt.actions[: len(raw_frames) - 1])[1],
                seed=prompt.seed,
                fps=self.fps,
                refined=refine,
                timings=timings,
            )
            for prompt, tokens, frames, raw_frames in zip(prompts, rows, refined, raw, strict=True)
        ]

    def start(self, video=None, text=None, actions=None, seed: int = 0, temperature: float = 1.0, top_p=None, top_k=None) -> "CosmosStream":
        """A rollout driven one latent at a time; frames come as the tokenizer decodes them.

        `actions`: those between the given frames, [T - 1, A] or more, if they are known. Raises as generate.
        """
        prompt = Prompt(video=video, text=text, actions=actions, num_frames=1 if video is None else len(video), seed=seed)
        _, size, context, bins_nrA = self._checked(prompt, self._reader())
        tokens = torch.empty(0, *self._grid(size), dtype=torch.int64) if video is None else self._encode(video, size)
        top_p = self.defaults(top_k)["top_p"] if top_p is None else top_p
        sampling = SamplingConfig(temperature=temperature, top_p=top_p, top_k=top_k)
        job = CosmosJob(tokens_ghw=tokens, seed=seed, context_SC=context, bins_nrA=bins_nrA)
        rows = CosmosRows(self.modules["world_model"], [job], sampling, **self._window())
        return CosmosStream(rows, self.actions, self.modules["video_tokenizer"], size, self._placed)

    def defaults(self, top_k: int | None = None) -> dict[str, float]:
        """What a caller who has no wish gets: what the release recommends; top_p and top_k were not meant to go together."""
        return {"top_p": self.settings.top_p if top_k is None else 1.0, "refine_steps": 15}

    def at_size(self, height: int, width: int) -> "CosmosWorld":
        """This world at another picture size, with the same networks. Raises BadConfig for one without pixels, or too many."""
        if min(height, width) < 1 or max(height, width) > SIDE:
            raise BadConfig(f"height, width: got {width}x{height}, expected sides of 1 to {SIDE} pixels; fix: leave them out")
        other = copy(self)
        other.height, other.width = height, width
        return other

    def encode(self, video: np.ndarray) -> np.ndarray:
        """uint8 [1 + r*n, H, W, 3] -> tokens int64 [1 + n, h, w]. Raises BadClip."""
        return self._encode(video, self._size(video)).numpy()

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens int64 [1 + n, h, w] -> uint8 [1 + r*n, H, W, 3], not refined. Raises BadPrompt."""
        tokens = np.asarray(tokens)
        if tokens.ndim != 3 or not tokens.size or tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= self.codebook:
            raise BadPrompt(
                f"tokens: got {tokens.dtype} {list(tokens.shape)}, expected ids below {self.codebook}, [t, h, w]; fix: encode makes them"
            )
        side = self.settings.video_tokenizer.spatial_compression
        return self._decode(torch.from_numpy(tokens.astype(np.int64)), (tokens.shape[1] * side, tokens.shape[2] * side))

    def check_schema(self, schema: ActionSchema, where: str = "actions") -> None:
        """Raises BadActions, with the difference, unless `schema` is the world's own; the published models take no actions."""
        self.actions.check_schema(schema, where)

    def bins_of(self, actions: np.ndarray, where: str = "actions") -> tuple[Tensor, int]:
        """Values [N, A] -> (int64 bins [N, A], how many were clipped). Raises BadActions."""
        return self.actions.encode(actions, where)

    def _window(self) -> dict[str, Any]:
        """What rows need to know beside the network."""
        return dict(
            clip_latents=self.settings.clip_latents, codebook=self.codebook, action_starts_A=self.action_starts, rate=self.rate
        )  # fmt: skip

    def _reader(self) -> TextReader:
        return TextReader(self.settings.text_tokens, self.settings.world_model.context_dim, self.text_encoder)

    def _checked(self, prompt, texts: TextReader) -> tuple[int, tuple[int, int], Tensor | None, Tensor | None]:
        """(latents of the finished clip, picture size, text context, action bins) of a prompt that can be."""
        draws(prompt.seed, 0, Stream.VIDEO, 0)
        config = self.settings.world_model
        total = latent_frames(int(prompt.num_frames), self.rate)
        bins_nrA = None
        if prompt.actions is not None:
            bins_nrA = self.actions.encode_clip(prompt.actions, prompt.num_frames)
        if prompt.video is not None and len(prompt.video) > prompt.num_frames:
            raise BadPrompt(f"num_frames: got {prompt.num_frames}, expected at least the {len(prompt.video)} given; fix: ask for more")
        size = (self.height, self.width) if prompt.video is None else self._size(prompt.video)
        if prompt.video is None:
            self._warn_of(size)
        if prompt.video is None and not config.context_dim:
            raise BadPrompt(
                f"prompt: got no frames, expected a picture or a video: {self.settings.release or self.name} goes on from one; "
                "fix: give one"
            )
        if not config.context_dim:
            if prompt.text is not None:
                raise BadPrompt("text: got some, expected none: this model takes no text (5B and 13B do); fix: leave the text out")
            return total, size, None, bins_nrA
        if prompt.text is None:
            raise BadPrompt(
                f"text: got none, expected a file of T5 embeddings [tokens, {config.context_dim}] (.safetensors or .npy): this model "
                "attends to a text; fix: text=FILE, or words where the package transformers is installed"
            )
        return total, size, texts.read(prompt.text), bins_nrA

    def _size(self, video: np.ndarray) -> tuple[int, int]:
        if not isinstance(video, np.ndarray) or video.ndim != 4 or video.shape[3] != 3 or video.dtype != np.uint8 or not video.size:
            got = f"{getattr(video, 'dtype', type(video).__name__)} {list(getattr(video, 'shape', ()))}"
            raise BadClip(f"video: got {got}, expected uint8 [T, H, W, 3]; fix: wfm_ar.data.video reads clips so")
        latent_frames(len(video), self.rate)
        self._warn_of(video.shape[1:3])
        return video.shape[1:3]

    def _warn_of(self, size: tuple[int, int]) -> None:
        trained = self.settings.video_tokenizer
        if size != (trained.height, trained.width):
            line = f"{size[1]}x{size[0]} pixels: the weights were trained at {trained.width}x{trained.height}; expect less of other sizes"
            warnings.warn(line, stacklevel=5)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Tokens (rows, columns) of a picture, padded to what every part takes."""
        side, multiple = self.settings.video_tokenizer.spatial_compression, self._multiple()
        return tuple(-(-one // multiple) * multiple // side for one in size)

    def _multiple(self) -> int:
        decoder, latent = self.settings.diffusion_decoder, self.settings.latent_tokenizer
        side = self.settings.video_tokenizer.spatial_compression
        return side if decoder is None else max(side, decoder.patch * latent.spatial_compression)

    @contextmanager
    def _placed(self, *parts: str) -> Iterator[None]:
        """Parts that stay on the CPU come to the device while they work."""
        moved = [self.modules[part] for part in parts if part in self.stay]
        for module in moved:
            module.to(self.device)
        try:
            yield
        finally:
            for module in moved:
                module.to("cpu")

    @torch.inference_mode()
    def _encode(self, video: np.ndarray, size: tuple[int, int]) -> Tensor:
        """uint8 [T, H, W, 3] -> int64 [t, h, w], padded at the right and below by the picture's own edge."""
        tokenizer, side = self.modules["video_tokenizer"], self.settings.video_tokenizer.spatial_compression
        (h, w), (H, W) = self._grid(size), size
        with self._placed("video_tokenizer"):
            weight = next(tokenizer.parameters())
            stream, tokens, chunk = tokenizer.encode_stream(), [], _ENCODE_AT_ONCE * self.rate
            for start in range(1 - chunk, len(video), chunk):
                piece = torch.from_numpy(video[max(0, start) : start + chunk])
                if len(piece):
                    piece = piece.to(weight.device).permute(3, 0, 1, 2)[None].to(weight.dtype) / 127.5 - 1
                    padding = (0, w * side - W, 0, h * side - H)
                    piece = F.pad(piece.flatten(1, 2), padding, mode="replicate").unflatten(1, piece.shape[1:3])
                    tokens.append(stream.push(piece)[0].cpu())
        return torch.cat(tokens)

    @torch.inference_mode()
    def _decode(self, tokens_thw: Tensor, size: tuple[int, int]) -> np.ndarray:
        with self._placed("video_tokenizer"):
            stream = DecodeStream(self.modules["video_tokenizer"])
            device = next(stream.tokenizer.parameters()).device
            frames = [to_uint8(stream.push(one[None, None].to(device)).float()) for one in tokens_thw]
        return np.concatenate(frames)[:, : size[0], : size[1]]

    @torch.inference_mode()
    def _refine(
        self, tokens_thw: Tensor, job: CosmosJob, size: tuple[int, int], steps: int, guidance: float, published: bool
    ) -> np.ndarray:
        """The clip as the diffusion decoder sees its tokens, chunk by chunk."""
        dit, latent = self.modules["diffusion_decoder"], self.modules["latent_tokenizer"]
        ratio = self.settings.video_tokenizer.spatial_compression // latent.config.spatial_compression
        context = job.context_SC if job.context_SC is not None else self.decoder_context
        if context is None:
            context = torch.zeros(1, dit.config.context_dim)
        shape = (latent.config.latent_channels, CHUNK, tokens_thw.shape[1] * ratio, tokens_thw.shape[2] * ratio)
        clips = []
        for number, places in enumerate(split_chunks(len(tokens_thw))):
            noise = dit_noise([job.seed], shape, number)
            x = dit_sample(dit, tokens_thw[None, places], context[None], noise, steps=steps, guidance=guidance, fps=self.fps)
            clips.append(latent.decode(x / dit.config.sigma_data).float().cpu())
        video = blend_chunks(clips, overlap_frames(self.rate, published=published))
        frames = 1 + self.rate * (len(tokens_thw) - 1)
        return to_uint8(video[:, :, :frames])[:, : size[0], : size[1]]


def load_cosmos(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    offload: Sequence[str] = (),
    int8: Sequence[str] = (),
    text_encoder: str | None = None,
) -> CosmosWorld:
    """A converted world. dtype: None = float32 on the CPU, bfloat16 elsewhere. offload: parts of OFFLOAD kept on the CPU while idle.
    int8: of "model" and "decoder", those whose linear layers keep 8-bit weights. text_encoder: see TextReader; None = T5-11B.

    Raises BadCheckpoint, and BadConfig for an unknown part.
    """
    for key, given, known in (("offload", offload, sorted(OFFLOAD)), ("int8", int8, ["decoder", "model"])):
        if unknown := [part for part in given if part not in known]:
            raise BadConfig(f"{key}: got {unknown[0]!r}{nearest(unknown[0], known)}, expected some of {known}; fix: {key}=[{known[0]}]")
    stay = frozenset(name for part in offload for name in OFFLOAD[part])
    small = frozenset({"model": "world_model", "decoder": "diffusion_decoder"}[part] for part in int8)
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    settings, modules, context = read_cosmos(folder, device, dtype, stay, small)
    if absent := small - modules.keys():
        raise BadConfig(f"int8: got decoder, but world {folder.name!r} has no {absent.pop()}, expected model at most; fix: int8=[model]")
    return CosmosWorld(settings, modules, context, folder.name, device, stay, text_encoder or ENCODER)
