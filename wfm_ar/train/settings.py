"""What a user may set about a training run, apart from the networks themselves."""

from dataclasses import dataclass, field

from wfm_ar.errors import BadConfig
from wfm_ar.sizes import check_sizes


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up, cosine decay, clipping and an exponential moving average of the weights."""

    lr: float = 1e-3  # peak, reached after warmup_steps
    min_lr_ratio: float = 0.05  # of the peak, at the last step
    warmup_steps: int = 100
    weight_decay: float = 0.01  # on matrices; never on norms, biases and embeddings
    betas: tuple[float, float] = (0.9, 0.95)
    grad_clip: float = 1.0  # global norm; 0 = off
    ema: float = 0.999  # decay of the averaged weights that validation and release use

    def __post_init__(self):
        if not self.lr > 0:
            raise BadConfig(f"optimizer.lr: got {self.lr}, expected a positive number")
        if not (0 <= self.ema < 1 and all(0 <= b < 1 for b in self.betas)):
            raise BadConfig(f"optimizer.ema/betas: got {self.ema}/{self.betas}, expected numbers in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """Seconds after which a section of the loop is taken to hang, which ends the run with its name; 0 = never."""

    data: float = 600.0  # waiting for a batch
    step: float = 1800.0  # the first one may compile
    validation: float = 7200.0
    checkpoint: float = 1800.0
    ranks: float = 20.0  # without a sign of life from another rank

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 0 or (name == "ranks" and value < 3):
                raise BadConfig(f"watchdog.{name}: got {value}, expected {'3 or more' if name == 'ranks' else '0 or more'} seconds")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The loop itself: how long, how much at once, how often to look, save and say."""

    steps: int = 1000
    batch_size: int = 16  # samples a step on one device
    accumulate: int = 1  # micro-batches a step, shared out among the ranks: samples a step = batch_size * accumulate
    seed: int = 0
    log_every: int = 20  # steps
    val_every: int = 1000  # steps; validation also runs at the end
    checkpoint_every: int = 500  # steps; also at the end and on SIGTERM
    keep: int = 2  # verified checkpoints kept
    num_workers: int = 1  # threads that prepare batches ahead; 0 = in the loop itself
    threads: int = 0  # torch threads; 0 = leave as is
    precision: str = "auto"  # auto = bf16 on CUDA, and on CPUs where it is timed to be faster (precision.py)
    device: str = "auto"  # auto = cuda when there is one
    activation_checkpointing: bool = False  # blocks keep their inputs alone and are computed again for gradients: less memory, more time
    compile: bool = False  # torch.compile the network: a minute or two at the start, then faster steps
    patience: int = 0  # validations in a row no better than the best one after which the stage ends; 0 = never
    max_bad_steps: int = 10  # consecutive steps with NaN/Inf before the run stops
    deterministic: bool = False  # torch's deterministic algorithms: the same bytes on every run, slower on CUDA
    logger: str = "tensorboard"  # or wandb beside it
    disk_full: str = "stop"  # when a checkpoint cannot be written: stop, or continue and try again at the next one
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate", "log_every", "val_every", "checkpoint_every", "keep", "max_bad_steps"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name}: got {getattr(self, name)}, expected at least 1")
        check_sizes(self, "training", steps=(1, 1 << 40), batch_size=(1, 1 << 20), accumulate=(1, 1 << 20), num_workers=(0, 1024))
        check_sizes(self, "training", threads=(0, 4096), patience=(0, 1 << 20))
        if self.precision not in ("auto", "fp32", "bf16"):
            raise BadConfig(f"precision: got {self.precision!r}, expected auto, fp32 or bf16")
        if self.logger not in ("tensorboard", "wandb"):
            raise BadConfig(f"logger: got {self.logger!r}, expected tensorboard or wandb")
        if self.disk_full not in ("stop", "continue"):
            raise BadConfig(f"disk_full: got {self.disk_full!r}, expected stop or continue")
