"""A released world on disk: written whole or not at all, and never parsed before its hashes hold.

    world.json                      version, settings of every part, action schema, fps, size and SHA-256 of every other file
    video_tokenizer.safetensors     half precision; read back as float32
    world_model.safetensors
    frame_predictor.safetensors     optional
    diffusion_decoder.safetensors   optional
    inverse_dynamics.safetensors    optional: reads actions back from frames, nothing is rolled out with it
    text_tokenizer.model            optional: a world trained without texts has none
    README.md, samples/             the model card and a few held-out episodes

This file knows files, bytes and settings; `world.py` knows what a world does.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from wfm_ar.data.json_files import read_json
from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.diffusion_decoder.dit import DiT
from wfm_ar.errors import BadCheckpoint, BadConfig, BadData
from wfm_ar.frame_predictor.network import EARLIER_PREDICTOR, FramePredictor, FramePredictorConfig
from wfm_ar.inverse_dynamics.network import InverseDynamics, InverseDynamicsConfig
from wfm_ar.rollout.detail import TrainingCopies
from wfm_ar.rollout.find_world import SETTINGS
from wfm_ar.rollout.lookahead import Lookahead
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world_files import (
    Config,
    check_keys,
    check_listed_sizes,
    config_from,
    listed_file,
    read_tensors,
    shapes_of,
    stored_tensors,
    verify_files,
    write_world,
)
from wfm_ar.schema import Schema, schema_from_json
from wfm_ar.tokenizers.action import ActionVocabulary
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizer, ContinuousTokenizerConfig
from wfm_ar.tokenizers.video.model import EARLIER_TOKENIZER, VideoTokenizer, VideoTokenizerConfig
from wfm_ar.world_model.sequence import EARLIER, Sequence, SequenceConfig
from wfm_ar.world_model.transformer import EARLIER_MODEL, WorldModel, WorldModelConfig

VERSION = 1
TEXT_MODEL = "text_tokenizer.model"
_OPTIONAL = ("frame_predictor", "diffusion_decoder", "inverse_dynamics")  # networks
_MEASURED = {"sampling": SamplingConfig, "copies": TrainingCopies}  # null where nobody measured it
_KEYS = {"format", "version", "fps", "action_schema", "video_tokenizer", "sequence", "world_model", *_OPTIONAL, "text", *_MEASURED, "files"}
_FORMAT = "wfm-ar world"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipDefaults:
    """What a world makes of a clip whose caller has no wish; how tokens are drawn is `WorldParts.sampling`."""

    num_frames: int = 49
    refine_steps: int = 2
    keep_detail: bool = True  # given frames, and what stands still, are shown as given
    top_k_alone: bool = False  # with a top_k and no top_p, top_p keeps all


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldParts:
    """Everything a world is made of. Raises BadCheckpoint where two parts do not fit each other."""

    video_tokenizer: VideoTokenizer
    sequence: SequenceConfig
    world_model: WorldModel
    fps: float  # frames a second of the clips it was trained on
    text_tokenizer: TextTokenizer | None = None
    action_schema: Schema | None = None  # of several robots: a MixedSchema
    frame_predictor: FramePredictor | None = None  # of a sequence with a lookahead
    diffusion_decoder: Denoiser | DiT | None = None  # frames by frames, or, with a latent_tokenizer, whole clips
    inverse_dynamics: InverseDynamics | None = None  # reads actions back from frames
    latent_tokenizer: ContinuousTokenizer | None = None  # whose latents a DiT makes
    decoder_context: torch.Tensor | None = None  # [tokens, width], the text that a DiT is given where there is none
    text_tokens: int = 1  # rows of the text that a model with cross-attention attends to, zeros behind the text
    sampling: SamplingConfig | None = None  # of a caller who has no wish: what it was measured with; None in worlds that do not say
    copies: TrainingCopies | None = None  # how well the tokenizer copies held-out pictures; None in worlds that do not say
    defaults: ClipDefaults = ClipDefaults()
    release: str = ""  # the published name, where the networks have one
    stored_dtype: str = "float16"  # of the weights on disk

    def __post_init__(self) -> None:
        tokenizer, sequence, model = self.video_tokenizer.config, self.sequence, self.world_model.config
        self._fits("codebook", self.video_tokenizer.codebook_size, "sequence video_vocab", sequence.video_vocab)
        if sequence.levels:
            self._fits("tokenizer levels", tuple(tokenizer.levels), "sequence levels", tuple(sequence.levels))
        self._fits("tokenizer grid", tokenizer.grid, "sequence grid", (sequence.grid_h, sequence.grid_w))
        self._fits("tokenizer temporal_compression", tokenizer.temporal_compression, "sequence rate", sequence.rate)
        text_vocab = self.text_tokenizer.vocab_size if self.text_tokenizer else 0
        self._fits("text tokenizer's vocabulary", text_vocab, "sequence text_vocab", sequence.text_vocab)
        if self.text_tokenizer:
            self._fits("text tokenizer's max_tokens", self.text_tokenizer.max_tokens, "sequence max_text", sequence.max_text)
        bins = ActionVocabulary(self.action_schema).bins if self.action_schema else ()
        self._fits("action schema's bins", bins, "sequence action_bins", tuple(sequence.action_bins))
        for name, size in Sequence(sequence).model_vocabularies().items():
            if (name != "hint_width" or model.hint_width) and (not name.startswith("scene_") or model.scene_channels):
                self._fits(f"model {name}", getattr(model, name), f"the sequence's {name}", size)
        self._fits("frame predictor", self.frame_predictor is not None, "sequence lookahead", sequence.lookahead)
        if self.frame_predictor is not None:
            self._fits("frame predictor actions", self.frame_predictor.config.actions, "sequence action_bins", len(sequence.action_bins))
        if self.inverse_dynamics is not None:
            self._fits("inverse dynamics actions", self.inverse_dynamics.config.actions, "sequence action_bins", len(sequence.action_bins))
        if self.diffusion_decoder is not None and self.latent_tokenizer is None:
            denoiser: Any = self.diffusion_decoder.config
            for name in ("temporal_compression", "spatial_compression"):
                self._fits(f"diffusion decoder {name}", getattr(denoiser, name), f"tokenizer {name}", getattr(tokenizer, name))
            self._fits("diffusion decoder code_channels", denoiser.code_channels, "tokenizer levels", len(tokenizer.levels))
        if sequence.max_latents < 2:
            raise BadCheckpoint("world: max_latents: got 1, expected at least 2, or nothing can be rolled on; fix: train on longer clips")
        if not (isinstance(self.fps, (int, float)) and 0 < self.fps < 1e6):
            raise BadCheckpoint(f"world: fps is {self.fps!r:.80}, expected a number above 0; fix: give the frames a second of its clips")

    @staticmethod
    def _fits(name: str, got: Any, other: str, expected: Any) -> None:
        if got != expected:
            raise BadCheckpoint(f"world: {name}: got {got}, expected {expected} ({other}); fix: parts of one training run belong together")

    def modules(self) -> dict[str, nn.Module]:
        """The networks by the name of their file."""
        names = ("video_tokenizer", "frame_predictor", "world_model", "diffusion_decoder", "inverse_dynamics", "latent_tokenizer")
        return {name: module for name in names if (module := getattr(self, name)) is not None}

    @property
    def device(self) -> torch.device:
        return self.world_model.head.weight.device

    def lookahead(self) -> Lookahead | None:
        """What a sequence with a lookahead is asked with. Raises BadConfig where its parts do not fit."""
        if self.frame_predictor is None:
            return None
        return Lookahead(self.video_tokenizer, self.frame_predictor, self.sequence.action_bins)


def save_world(
    folder: str | Path,
    parts: WorldParts,
    *,
    card: str = "",
    samples: str | Path | None = None,
    dtype: torch.dtype = torch.float16,
    overwrite: bool = False,
) -> Path:
    """Write `parts` as a world folder: whole, or not at all. `card` becomes README.md, the folder `samples` is copied.

    Raises OutputExists when `folder` is there and `overwrite` was not asked for, NoSpace when it cannot be written, and
    BadCheckpoint for weights that are not finite in `dtype`. What was there before stays until the new one is whole.
    """

    def write(temporary: Path) -> None:
        for name, module in parts.modules().items():
            save_file(stored_tensors(name, module, dtype), temporary / f"{name}.safetensors")
        if parts.text_tokenizer is not None:
            (temporary / TEXT_MODEL).write_bytes(parts.text_tokenizer.model_bytes)
        if samples is not None:
            shutil.copytree(samples, temporary / "samples")

    return write_world(folder, _settings(parts), write, card=card, overwrite=overwrite)


def read_world(folder: Path, device: torch.device | str = "cpu") -> WorldParts:
    """The parts of a world folder, networks in float32 and evaluation mode. Raises BadCheckpoint for what is missing or does not fit.

    Every listed file is hashed before any is parsed, and its size is held against what the settings say before it is hashed.
    Memory for weights is taken only once the file is known to hold them.
    """
    settings = _read_settings(folder)
    for name, file in (*((name, f"{name}.safetensors") for name in _OPTIONAL), ("text", TEXT_MODEL)):
        if settings[name] is None and file in settings["files"]:
            raise BadCheckpoint(
                f"{folder / SETTINGS}: {name}: got null, expected the settings of {file}, which is listed; fix: copy it again"
            )
    configs = {
        name: config_of(kind, settings[name], f"{folder / SETTINGS}: {name}")
        for name, (kind, _) in _NETWORKS.items()
        if settings[name] is not None or name not in _OPTIONAL
    }
    shapes = {name: shapes_of(_NETWORKS[name][1], config, f"{folder / SETTINGS}: {name}") for name, config in configs.items()}
    check_listed_sizes(folder, settings["files"], {f"{name}.safetensors": expected for name, expected in shapes.items()})
    verify_files(folder, settings["files"])
    built: dict[str, Any] = {}
    for name, config in configs.items():
        tensors = read_tensors(listed_file(folder, f"{name}.safetensors", settings["files"]), shapes[name])
        module = _NETWORKS[name][1](config)
        module.load_state_dict(tensors)
        built[name] = module.to(device).eval().requires_grad_(False)
    if torch.device(device).type == "cpu":
        built["video_tokenizer"].to(memory_format=torch.channels_last_3d)  # tokenizers/video/causal_conv.py says why
    if settings["text"] is not None:
        where = f"{folder / SETTINGS}: text"
        text = config_of(_TextSettings, settings["text"], where)
        model_bytes = listed_file(folder, TEXT_MODEL, settings["files"]).read_bytes()
        built["text_tokenizer"] = TextTokenizer.from_bytes(
            model_bytes, settings["files"][TEXT_MODEL]["sha256"], max_tokens=text.max_tokens, words=text.words
        )
    try:
        schema = None if settings["action_schema"] is None else schema_from_json(settings["action_schema"])
    except BadData as error:
        raise BadCheckpoint(f"{folder / SETTINGS}: {error}") from None
    sequence = config_of(SequenceConfig, settings["sequence"], f"{folder / SETTINGS}: sequence")
    for name, kind in _MEASURED.items():
        values = settings[name]
        built[name] = None if values is None else config_of(kind, values, f"{folder / SETTINGS}: {name}")
    try:
        return WorldParts(**built, sequence=sequence, action_schema=schema, fps=settings["fps"])
    except BadData as error:  # actions that no tokenizer can tell apart
        raise BadCheckpoint(f"{folder / SETTINGS}: action_schema: {error}") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TextSettings:
    max_tokens: int
    words: tuple[str, ...] | None  # of the training texts; null: not known

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise BadConfig(f"max_tokens: got {self.max_tokens}, expected at least 1")


_EARLIER = {
    _TextSettings: {"words": None},
    SequenceConfig: EARLIER,
    FramePredictorConfig: EARLIER_PREDICTOR,
    WorldModelConfig: EARLIER_MODEL,
    VideoTokenizerConfig: EARLIER_TOKENIZER,
    ContinuousTokenizerConfig: EARLIER_TOKENIZER,
}
_NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "video_tokenizer": (VideoTokenizerConfig, VideoTokenizer),
    "frame_predictor": (FramePredictorConfig, FramePredictor),
    "world_model": (WorldModelConfig, WorldModel),
    "diffusion_decoder": (DenoiserConfig, Denoiser),
    "inverse_dynamics": (InverseDynamicsConfig, InverseDynamics),
}


def _settings(parts: WorldParts) -> dict[str, Any]:
    """world.json but its list of files."""
    modules: dict[str, Any] = parts.modules()
    return {
        "format": _FORMAT,
        "version": VERSION,
        "fps": parts.fps,
        "action_schema": parts.action_schema.to_json() if parts.action_schema else None,
        "text": _text_settings(parts.text_tokenizer) if parts.text_tokenizer else None,
        "sequence": dataclasses.asdict(parts.sequence),
        **{name: dataclasses.asdict(value) if (value := getattr(parts, name)) else None for name in _MEASURED},
        **{name: dataclasses.asdict(modules[name].config) if name in modules else None for name in _NETWORKS},
    }


def _text_settings(text: TextTokenizer) -> dict[str, Any]:
    return {"max_tokens": text.max_tokens, "words": None if text.words is None else sorted(text.words)}


def _read_settings(folder: Path) -> dict[str, Any]:
    where = folder / SETTINGS
    try:
        settings = read_json(where)
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{where}: cannot be read ({error}), expected JSON; fix: copy the world again") from None
    if not isinstance(settings, dict) or settings.get("format") != _FORMAT:
        raise BadCheckpoint(f'{where}: got no "format": "{_FORMAT}", expected a world\'s settings; fix: name a world folder')
    if settings.get("version") != VERSION:
        raise BadCheckpoint(f"{where}: got version {settings.get('version')!r}, expected {VERSION}; fix: a wfm-ar that knows this version")
    settings = {
        "frame_predictor": None,
        "inverse_dynamics": None,
        **dict.fromkeys(_MEASURED),
    } | settings  # older files leave them unsaid
    check_keys(settings, _KEYS, str(where))
    files = settings["files"]
    if not isinstance(files, dict) or not all(isinstance(f, dict) and f.keys() == {"bytes", "sha256"} for f in files.values()):
        raise BadCheckpoint(f"{where}: files: expected an object of names with bytes and sha256; fix: copy the world again")
    if not all(type(f["bytes"]) is int and isinstance(f["sha256"], str) for f in files.values()) or any("\0" in name for name in files):
        raise BadCheckpoint(f"{where}: files: expected whole numbers of bytes and sha256 in text; fix: copy the world again")
    return settings


def config_of(kind: type[Config], values: Any, where: str) -> Config:
    """As `config_from`, with what earlier worlds leave unsaid."""
    return config_from(kind, values, where, _EARLIER.get(kind))
