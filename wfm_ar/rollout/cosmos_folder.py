"""A converted Cosmos world on disk: written whole or not at all, tensor by tensor, and mapped when it is read.

    world.json                      version, settings of every part, size and SHA-256 of every other file
    world_model.safetensors         our names, one dtype
    video_tokenizer.safetensors     the discrete tokenizer
    latent_tokenizer.safetensors    optional: the continuous tokenizer whose latents the diffusion decoder makes
    diffusion_decoder.safetensors   optional, with it
    decoder_context.safetensors     optional: the text embedding that the decoder is given where there is no text

The networks are the ones every world has; only sizes differ (gigabytes), so nothing is held in memory twice. What such a world
does is world.py's.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wfm_ar.data.json_files import read_json
from wfm_ar.diffusion_decoder.dit import DiT, DiTConfig
from wfm_ar.errors import BadCheckpoint, BadConfig, BadData, nearest
from wfm_ar.rollout.find_world import SETTINGS, SETTINGS_BYTES
from wfm_ar.rollout.int8 import put_int8, quantisable
from wfm_ar.rollout.placement import Placement
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world_files import check_keys, listed_file, open_tensors, shapes_of, verify_files, write_world
from wfm_ar.rollout.world_folder import ClipDefaults, WorldParts, config_of
from wfm_ar.schema import ActionSchema
from wfm_ar.tokenizers.action import ActionVocabulary
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizer, ContinuousTokenizerConfig
from wfm_ar.tokenizers.video.fsq import FSQ
from wfm_ar.tokenizers.video.model import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.without_memory import without_memory
from wfm_ar.world_model.rotary import rotary_frequencies
from wfm_ar.world_model.sequence import SequenceConfig, published_sequence
from wfm_ar.world_model.transformer import Decoding, WorldModel, WorldModelConfig

COSMOS_FORMAT, VERSION = "wfm-ar cosmos world", 1
DECODER_CONTEXT = "decoder_context.safetensors"
MOST = 1 << 16  # latents of a window, rows of a text: memory is taken for all of them
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_SAFE = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# The text encoder is loaded for one text and let go, so "text" is always off the device.
OFFLOAD = {"text": (), "tokenizer": ("video_tokenizer",), "decoder": ("latent_tokenizer", "diffusion_decoder"), "model": ("world_model",)}
NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "world_model": (WorldModelConfig, WorldModel),
    "video_tokenizer": (VideoTokenizerConfig, VideoTokenizer),
    "latent_tokenizer": (ContinuousTokenizerConfig, ContinuousTokenizer),
    "diffusion_decoder": (DiTConfig, DiT),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosmosSettings:
    """world.json but its list of files. Raises BadCheckpoint where two parts do not fit each other."""

    release: str  # the published name, or "" for other widths
    fps: float
    clip_latents: int  # trained length; longer clips roll on from the last latents
    text_tokens: int  # rows of the text context, zeros behind the text; all are attended to
    top_p: float  # recommended
    dtype: str  # of the stored weights
    decoding: str = Decoding.EXACT  # of a CPU, where nobody chooses another; folders from before there was a choice say nothing
    world_model: WorldModelConfig
    video_tokenizer: VideoTokenizerConfig
    latent_tokenizer: ContinuousTokenizerConfig | None
    diffusion_decoder: DiTConfig | None
    action_schema: dict[str, Any] | None = None  # of a world that was tuned on actions: their ids are the last of the world model's

    def __post_init__(self) -> None:
        tokenizer, model, latent, decoder = self.video_tokenizer, self.world_model, self.latent_tokenizer, self.diffusion_decoder
        codebook = math.prod(tokenizer.levels)
        self._fits("world model's output ids", model.out_vocab, "the tokenizer's codebook", codebook)
        if model.vocab < codebook + bool(model.context_dim):
            raise BadCheckpoint(
                f"cosmos world: got {model.vocab} input ids, expected at least the codebook of {codebook} and BOV; fix: other parts"
            )
        if (latent is None) != (decoder is None):
            raise BadCheckpoint(
                "cosmos world: got one of diffusion decoder and its continuous tokenizer, expected both or neither; fix: add the other"
            )
        if decoder is not None and latent is not None:
            self._fits("diffusion decoder's tokens", decoder.token_vocab, "the tokenizer's codebook", codebook)
            self._fits("diffusion decoder's latents", decoder.latent_channels, "its tokenizer's", latent.latent_channels)
            self._fits("temporal rates", latent.temporal_compression, "the tokenizer's", tokenizer.temporal_compression)
            if tokenizer.spatial_compression % latent.spatial_compression:
                raise BadCheckpoint("cosmos world: the tokenizers' spatial rates do not divide; fix: parts of one release")
            if model.context_dim:
                self._fits("diffusion decoder's text width", decoder.context_dim, "the world model's", model.context_dim)
        sound = (
            self.dtype in DTYPES and self.decoding in list(Decoding) and 2 <= self.clip_latents <= MOST and 1 <= self.text_tokens <= MOST
        )
        if not (sound and 0 < self.fps < 1e6 and 0 < self.top_p <= 1):
            raise BadCheckpoint(
                f"cosmos world: got {self.dtype}, decoding {self.decoding!r}, {self.clip_latents} latents, {self.text_tokens} text tokens, "
                f"{self.fps} fps, which cannot be; fix: convert it again"
            )

    def sequence(self, action_bins: Sequence[int]) -> SequenceConfig:
        """The order of tokens; action_bins: of each channel of the action schema."""
        tokenizer, model = self.video_tokenizer, self.world_model
        return published_sequence(
            video_vocab=math.prod(tokenizer.levels),
            vocab=model.vocab,
            bov=bool(model.context_dim),
            grid=tokenizer.grid,
            rate=tokenizer.temporal_compression,
            max_latents=self.clip_latents,
            action_bins=action_bins,
        )

    @staticmethod
    def of(parts: WorldParts) -> "CosmosSettings":
        """What world.json says of these parts."""
        there: dict[str, Any] = parts.modules()
        configs: dict[str, Any] = {name: there[name].config if name in there else None for name in NETWORKS}
        return CosmosSettings(
            release=parts.release,
            fps=parts.fps,
            clip_latents=parts.sequence.max_latents,
            text_tokens=parts.text_tokens,
            top_p=(parts.sampling or SamplingConfig()).top_p,
            dtype=parts.stored_dtype,
            decoding=parts.world_model.decoding.value,
            action_schema=parts.action_schema.to_json() if parts.action_schema else None,
            **configs,
        )

    @staticmethod
    def _fits(name: str, got: object, other: str, expected: object) -> None:
        if got != expected:
            raise BadCheckpoint(
                f"cosmos world: {name}: got {got}, expected {expected} ({other}); fix: parts of one release belong together"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A tensor to be stored, made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    dtype: torch.dtype | None = None  # None: as the file's other tensors


def materialise(module: nn.Module, tensor_of: Callable[[str], Tensor], device: torch.device | str = "cpu") -> nn.Module:
    """A network on the meta device with real weights and buffers in place, evaluation mode; buffers stay float32."""
    for name, _ in list(module.named_parameters()):
        place, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(place), leaf, nn.Parameter(tensor_of(name), requires_grad=False))
    for part in module.modules():
        for leaf, buffer in _buffers(part).items():
            part._buffers[leaf] = buffer.to(device)
    left = [name for name, tensor in [*module.named_parameters(), *module.named_buffers()] if tensor.is_meta]
    assert not left, left
    return module.eval()


def _buffers(part: nn.Module) -> dict[str, Tensor]:
    """The buffers of a module that follow from its configuration."""
    if isinstance(part, FSQ):
        return dict(FSQ(part.levels).named_buffers())
    if isinstance(part, WorldModel):
        return {"frequencies": rotary_frequencies(part.config.head_dim, part.config.theta, part.config.yarn_shape)}
    if isinstance(part, ContinuousTokenizer):
        shape = (part.config.latent_channels, part.config.chunk)
        return {"mean": torch.zeros(shape), "std": torch.ones(shape)}
    return {}


def write_tensors(path: Path, sources: Sequence[Source], dtype: torch.dtype) -> None:
    """A safetensors file, one tensor after the other: at most one is in memory. Raises BadCheckpoint for numbers that are not finite."""
    header, offset = {}, 0
    for one in sources:
        kind = one.dtype or dtype
        size = math.prod(one.shape) * kind.itemsize
        header[one.name] = {"dtype": _SAFE[kind], "shape": list(one.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in sources:
            tensor = one.make().to("cpu", one.dtype or dtype).contiguous()
            assert tuple(tensor.shape) == one.shape, one.name
            if not all(part.isfinite().all() for part in tensor.flatten().split(2**20)):  # of pieces: it makes copies
                raise BadCheckpoint(
                    f"{path.stem}: tensor {one.name}: got values that are not finite in {dtype}; fix: dtype=float32, or copy it again"
                )
            file.write(tensor.flatten().view(torch.uint8).numpy().data)


def save_cosmos(
    folder: str | Path,
    settings: CosmosSettings,
    parts: dict[str, Sequence[Source]],
    *,
    decoder_context: Tensor | None = None,
    card: str = "",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write a world folder: whole, or not at all. Raises OutputExists, NoSpace, BadCheckpoint."""

    def write(temporary: Path) -> None:
        for name, sources in parts.items():
            if progress is not None:
                progress(name)
            write_tensors(temporary / f"{name}.safetensors", sources, DTYPES[settings.dtype])
        if decoder_context is not None:
            context = decoder_context.float()
            source = Source(name="context", shape=tuple(context.shape), make=lambda: context)
            write_tensors(temporary / DECODER_CONTEXT, [source], torch.float32)

    written = {"format": COSMOS_FORMAT, "version": VERSION, **dataclasses.asdict(settings)}
    return write_world(folder, written, write, card=card, overwrite=overwrite)


def save_cosmos_parts(folder: str | Path, parts: WorldParts, *, card: str = "", overwrite: bool = False) -> Path:
    """Write a world whose networks are in memory. Raises as `save_cosmos`."""
    sources = {}
    for name, module in parts.modules().items():
        sources[name] = [
            Source(name=key, shape=tuple(one.shape), make=lambda one=one: one, dtype=torch.float32 if key in ("mean", "std") else None)
            for key, one in module.state_dict().items()
        ]
    return save_cosmos(folder, CosmosSettings.of(parts), sources, decoder_context=parts.decoder_context, card=card, overwrite=overwrite)


def read_cosmos_settings(folder: Path) -> tuple[CosmosSettings, dict[str, dict[str, Any]]]:
    """-> (settings, files). Raises BadCheckpoint."""
    where = folder / SETTINGS
    try:
        values: Any = read_json(where, SETTINGS_BYTES)
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{where}: cannot be read ({error}), expected JSON; fix: convert it again") from None
    if not isinstance(values, dict) or values.get("format") != COSMOS_FORMAT or values.get("version") != VERSION:
        raise BadCheckpoint(f"{where}: expected a {COSMOS_FORMAT} of version {VERSION}; fix: convert it again with this wfm-ar")
    values = {"decoding": Decoding.EXACT.value} | values
    fields = {field.name for field in dataclasses.fields(CosmosSettings)}
    check_keys(values, fields | {"format", "version", "files"}, str(where))
    plain = {key: values[key] for key in fields - NETWORKS.keys()}
    parts: dict[str, Any] = {
        name: values[name] and config_of(kind, values[name], f"{where}: {name}") for name, (kind, _) in NETWORKS.items()
    }
    kinds = {
        "decoding": str,
        "release": str,
        "dtype": str,
        "clip_latents": int,
        "text_tokens": int,
        "fps": (int, float),
        "top_p": (int, float),
    }
    for key, kind in kinds.items():
        if not isinstance(plain[key], kind) or isinstance(plain[key], bool):
            raise BadCheckpoint(f"{where}: {key}: got {plain[key]!r}; fix: convert it again")
    files: Any = values["files"]
    sound = isinstance(files, dict) and all(isinstance(one, dict) and one.keys() == {"bytes", "sha256"} for one in files.values())
    if not sound or not all(type(one["bytes"]) is int for one in files.values()):
        raise BadCheckpoint(f"{where}: files: expected an object of names with bytes and sha256; fix: convert it again")
    if parts["world_model"] is None or parts["video_tokenizer"] is None:
        raise BadCheckpoint(f"{where}: world_model or video_tokenizer is missing; fix: convert it again")
    return CosmosSettings(**plain, **parts), files


def read_cosmos(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    offload: Sequence[str] = (),
    int8: Sequence[str] = (),
    decoding: str | None = None,
) -> tuple[WorldParts, Placement]:
    """The parts of a converted world, and where they lie. Every file is hashed first. See `load_world` for the settings.

    Raises BadCheckpoint for anything missing, changed or misfitting, BadConfig for an unknown part.
    """
    for key, given, known in (("offload", offload, sorted(OFFLOAD)), ("int8", int8, ["decoder", "model"])):
        if unknown := [part for part in given if part not in known]:
            raise BadConfig(f"{key}: got {unknown[0]!r}{nearest(unknown[0], known)}, expected some of {known}; fix: {key}=[{known[0]}]")
    stay = frozenset(name for part in offload for name in OFFLOAD[part])
    small = {"model": "world_model", "decoder": "diffusion_decoder"}
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    settings, files = read_cosmos_settings(folder)
    chosen = _decoding(decoding, settings, "model" in int8)
    if "decoder" in int8 and settings.diffusion_decoder is None:
        raise BadConfig(f"int8: got decoder, but world {folder.name!r} has no diffusion_decoder, expected model at most; fix: int8=[model]")
    try:
        schema = ActionSchema.from_json(settings.action_schema) if settings.action_schema else None
        sequence = settings.sequence(ActionVocabulary(schema).bins if schema else ())
    except (BadData, BadConfig) as error:
        raise BadCheckpoint(f"cosmos world {folder.name}: action schema: {error}") from None
    verify_files(folder, files)
    built: dict[str, Any] = {}
    for name, (_, kind) in NETWORKS.items():
        if (config := getattr(settings, name)) is not None:
            place, rounded = "cpu" if name in stay else device, any(small[part] == name for part in int8)
            built[name] = _read_part(kind, config, listed_file(folder, f"{name}.safetensors", files), place, dtype, rounded)
    built["world_model"].decoding = chosen
    parts = WorldParts(
        **built,
        sequence=sequence,
        fps=settings.fps,
        action_schema=schema,
        decoder_context=_read_context(folder / DECODER_CONTEXT, settings) if DECODER_CONTEXT in files else None,
        text_tokens=settings.text_tokens,
        sampling=SamplingConfig(top_p=settings.top_p),
        defaults=ClipDefaults(
            num_frames=1 + sequence.rate * (sequence.max_latents - 1), refine_steps=15, keep_detail=False, top_k_alone=True
        ),
        release=settings.release,
        stored_dtype=settings.dtype,
    )
    return parts, Placement(parts.modules(), device, stay)


def _decoding(wanted: str | None, settings: CosmosSettings, int8: bool) -> Decoding:
    """How a CPU is to decode. Raises BadConfig."""
    known = [one.value for one in Decoding]
    if wanted is not None and wanted not in known:
        raise BadConfig(f"decoding: got {wanted!r}{nearest(wanted, known)}, expected one of {known}; fix: choose one")
    if wanted == Decoding.HALF and int8:
        raise BadConfig(
            "decoding: got half beside int8=[model], whose weights have a product of their own, expected one; fix: leave one out"
        )
    return Decoding.EXACT if int8 else Decoding(wanted or settings.decoding)


def _read_context(path: Path, settings: CosmosSettings) -> Tensor:
    """float [tokens, width] for the diffusion decoder. Raises BadCheckpoint."""
    width = settings.diffusion_decoder.context_dim if settings.diffusion_decoder else 0
    try:
        with safe_open(path, framework="pt") as file:
            context = file.get_tensor("context")
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error}), expected safetensors; fix: convert it again") from None
    if context.ndim != 2 or context.shape[1] != width or not context.is_floating_point():
        raise BadCheckpoint(f"{path}: got {context.dtype} {list(context.shape)}, expected floats [tokens, {width}]; fix: convert it again")
    return context


def _read_part(kind: type[nn.Module], config: Any, path: Path, device: torch.device | str, dtype: torch.dtype, int8: bool) -> nn.Module:
    with without_memory():
        module = kind(config)
    with open_tensors(path, shapes_of(kind, config, str(path))) as file:
        for name in quantisable(module) if int8 else ():
            put_int8(module, name, file.get_tensor(f"{name}.weight"), device, dtype)
        module = materialise(module, lambda name: file.get_tensor(name).to(device, dtype, copy=True), device)
        stored = set(file.keys())
        for name, buffer in module.named_buffers():
            if name in stored:
                buffer.copy_(file.get_tensor(name))
    return module
