"""The settings of `wfm train`: the keys of conf/train.yaml as dataclasses, and what of them one stage's loop has."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from wfm_ar.diffusion_decoder.denoiser import DenoiserConfig
from wfm_ar.errors import BadConfig
from wfm_ar.frame_predictor.network import FramePredictorConfig
from wfm_ar.inverse_dynamics.network import InverseDynamicsConfig
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train import stages
from wfm_ar.train.budget import parse_budget
from wfm_ar.train.cosmos_stage import CosmosTraining
from wfm_ar.train.diffusion_decoder_stage import DiffusionDecoderTraining
from wfm_ar.train.frame_predictor_stage import FramePredictorTraining
from wfm_ar.train.inverse_dynamics_stage import InverseDynamicsTraining
from wfm_ar.train.settings import LoopConfig, OptimizerConfig, WatchdogConfig
from wfm_ar.train.video_tokenizer_stage import VideoTokenizerTraining
from wfm_ar.train.wandb_log import need_wandb
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.world_model import WorldModelConfig

COMMON = (
    "seed",
    "device",
    "precision",
    "activation_checkpointing",
    "compile",
    "threads",
    "num_workers",
    "keep",
    "deterministic",
    "logger",
    "disk_full",
    "patience",
    "max_bad_steps",
    "watchdog",
)  # keys of the loop that belong to the run
SIZES = ("height", "width", "crop")  # keys that go before the tokenizer's own


@dataclass(frozen=True, kw_only=True)
class OptimizerOverrides:
    """What goes before every stage's own optimizer settings; None leaves them."""

    lr: float | None
    min_lr_ratio: float | None
    warmup_steps: int | None
    weight_decay: float | None
    betas: tuple[float, float] | None
    grad_clip: float | None
    ema: float | None


@dataclass(frozen=True, kw_only=True)
class StageLoop:
    """The keys of the loop that each stage has of its own."""

    steps: int
    batch_size: int
    accumulate: int
    log_every: int
    val_every: int
    checkpoint_every: int
    optimizer: OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class VideoTokenizerSettings(StageLoop):
    training: VideoTokenizerTraining


@dataclass(frozen=True, kw_only=True)
class FramePredictorSettings(StageLoop):
    training: FramePredictorTraining


@dataclass(frozen=True, kw_only=True)
class WorldModelSettings(StageLoop):
    training: WorldModelTraining


@dataclass(frozen=True, kw_only=True)
class DiffusionDecoderSettings(StageLoop):
    training: DiffusionDecoderTraining


@dataclass(frozen=True, kw_only=True)
class InverseDynamicsSettings(StageLoop):
    training: InverseDynamicsTraining


@dataclass(frozen=True, kw_only=True)
class StagesSettings:
    """`stages` of conf/train.yaml."""

    video_tokenizer: VideoTokenizerSettings
    frame_predictor: FramePredictorSettings
    world_model: WorldModelSettings
    diffusion_decoder: DiffusionDecoderSettings
    inverse_dynamics: InverseDynamicsSettings


@dataclass(frozen=True, kw_only=True)
class SequenceSettings:
    """`sequence` of conf/train.yaml; the rest of a SequenceConfig follows from the tokenizers and the data."""

    max_latents: int
    max_text: int
    text_vocab: int
    action_sums: bool
    hint_latents: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/train.yaml, which explains them."""

    stage: Literal["video_tokenizer", "frame_predictor", "world_model", "diffusion_decoder", "inverse_dynamics", "world", "all"]
    init: Path | None
    budget: str | None
    given: tuple[str, ...]
    episodes: int | None
    verdict: bool
    finetune: CosmosTraining
    name: str
    data: Path
    dynamics_data: Path | None
    camera: str | None
    fps: float | None
    flip: str | None
    text: str
    height: int | None
    width: int | None
    crop: str | None
    frame_cache: float
    run: Path
    overwrite: bool
    resume: str
    seed: int
    device: str
    precision: str
    activation_checkpointing: bool
    compile: bool
    threads: int
    num_workers: int
    keep: int
    deterministic: bool
    logger: Literal["tensorboard", "wandb"]
    disk_full: Literal["stop", "continue"]
    patience: int
    max_bad_steps: int
    watchdog: WatchdogConfig
    steps: int | None
    batch_size: int | None
    accumulate: int | None
    log_every: int | None
    val_every: int | None
    checkpoint_every: int | None
    optimizer: OptimizerOverrides
    sequence: SequenceSettings
    sampling: SamplingConfig
    stages: StagesSettings
    tokenizer: VideoTokenizerConfig
    predictor: FramePredictorConfig | None
    model: WorldModelConfig
    decoder: DenoiserConfig
    inverse_dynamics: InverseDynamicsConfig | None

    def __post_init__(self) -> None:
        sized(self.tokenizer, self)  # which raises
        if self.logger == "wandb":
            need_wandb()  # which raises
        if self.budget is not None:
            parse_budget(self.budget)  # which raises
            if self.stage != "all" or self.init is not None:
                got = f"stage={self.stage}" if self.init is None else "init="
                raise BadConfig(f"budget: got {self.budget} with {got}, expected stage=all and no init=; fix: budget=null")
        if self.episodes is not None and self.episodes < 1:
            raise BadConfig(f"episodes: got {self.episodes}, expected 1 or more, or null for all; fix: leave it out")
        if self.predictor is None and self.stage == stages.FRAME_PREDICTOR:
            raise BadConfig("stage: got frame_predictor, expected another with predictor=null; fix: predictor=tabletop")
        if self.inverse_dynamics is None and self.stage == stages.INVERSE_DYNAMICS:
            raise BadConfig("stage: got inverse_dynamics, expected another with inverse_dynamics=null; fix: inverse_dynamics=small")
        if not 0 <= self.frame_cache < 1e9:
            raise BadConfig(f"frame_cache: got {self.frame_cache:g}, expected a number of GB, 0 or more; fix: frame_cache=16")
        for name in stages.STAGES:
            loop_config(self, name)  # a wrong value is told before the first step, not hours later at its stage
        if self.stage == "all" and self.resume not in ("auto", "never"):
            raise BadConfig(f"resume: got {self.resume!r} with stage=all, expected auto or never; fix: name the stage it belongs to")


def sized(tokenizer: VideoTokenizerConfig, settings: Settings) -> VideoTokenizerConfig:
    """The tokenizer's settings with the picture size and crop that the user set for all. Raises BadConfig."""
    return replace(tokenizer, **{key: value for key in SIZES if (value := getattr(settings, key)) is not None})


def loop_config(settings: Settings, name: str) -> LoopConfig:
    """The loop of one stage: the run's keys, the stage's own, and before them what the user set for all stages."""
    own: StageLoop = getattr(settings.stages, name)
    values: dict[str, Any] = {key: getattr(settings, key) for key in COMMON}
    for field in fields(StageLoop):
        forall = getattr(settings, field.name) if field.name != "optimizer" else None
        values[field.name] = getattr(own, field.name) if forall is None else forall
    forall = {key: value for key, value in vars(settings.optimizer).items() if value is not None}
    values["optimizer"] = OptimizerConfig(**vars(own.optimizer) | forall)
    return LoopConfig(**values)
