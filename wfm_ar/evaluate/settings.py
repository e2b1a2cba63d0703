"""How an evaluation is run: the settings of `wfm evaluate` that decide what is measured, and on what."""

from dataclasses import dataclass

from wfm_ar.errors import BadConfig
from wfm_ar.rollout.sampling import SamplingConfig

SAMPLING = ("temperature", "top_p", "top_k", "action_temperature", "image_temperature", "image_top_p")  # how tokens are drawn
GUIDANCE = ("text_guidance", "action_guidance")  # by what a rollout is told to do: one of these


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How an evaluation is run; all of it is written into the report."""

    split: str = "val"  # held-out split of the data set
    camera: str | None = None  # of several: one by name, or "tile"; None: the first
    fps: float | None = None  # frames a second: data that do not say have so many, data of more are thinned to it
    flip: str | None = None  # "vertical": pictures are stored bottom row first, and are turned
    text: str = "first"  # where the texts of an RLDS episode change: "first" or "frame", as it was trained
    embodiment: str | None = None  # in a world of several robots: the one that acted, where the data set has one and does not name it
    episodes: int = 96  # the first of the split (of each robot's), for rollouts and action following
    listen_episodes: int = 16  # the first of the split (of each robot's) for what any data with actions tell; 0: that is not measured
    text_episodes: int = 96  # the first of the split whose text is a push, for text following
    tokenizer_episodes: int | None = None  # None: the whole split
    frames: int = 33  # of every clip, 1 + r*n; longer episodes are cut, shorter ones left out
    batch: int = 16  # rollouts at once; changes no number but the time
    workers: int = 1  # processes, on a CPU; changes no number but the time
    seed: int = 0  # of episode 0; episode k has seed + k
    temperature: float | None = None  # None, here and below: the world's own, as a user without a wish has it
    top_p: float | None = None
    top_k: int | None = None
    action_temperature: float | None = None  # of imagined actions
    image_temperature: float | None = None  # of the first picture of clips from a text alone
    image_top_p: float | None = None
    text_guidance: float | None = None  # text following: how much the text counts; 1 as the model has it
    action_guidance: float | None = None  # rollouts under given actions: how much these count; 1 as the model has it
    refine_steps: int = 2
    imagine: bool = True  # text following: the model imagines actions as it goes; False: it leaves them out
    speed_runs: int = 3  # 0: speed is not measured
    demo: bool = True  # run `wfm demo` and measure its memory
    free_runs: int = 0  # rollouts of free_frames frames under wandering actions, from the first clips; 0: none
    free_frames: int = 3000  # 3,000 are five minutes
    examples: int = 4  # contact sheets, of the first episodes

    def __post_init__(self) -> None:
        for guidance in GUIDANCE:
            chosen = {name: getattr(self, name) for name in (*SAMPLING, guidance)}
            SamplingConfig(**{name: value for name, value in chosen.items() if value is not None})
        low = {
            "episodes": 2,
            "text_episodes": 1,
            "frames": 2,
            "batch": 1,
            "workers": 1,
            "seed": 0,
            "refine_steps": 1,
            "speed_runs": 0,
            "examples": 0,
        }
        low |= {"listen_episodes": 0}
        low |= {"free_runs": 0, "free_frames": 2}
        for name, least in low.items():
            if getattr(self, name) < least:
                raise BadConfig(f"evaluate: {name} is {getattr(self, name)}, expected {least} or more; fix: set {name}={least} or more")
        if self.tokenizer_episodes is not None and self.tokenizer_episodes < 1:
            got = self.tokenizer_episodes
            raise BadConfig(f"evaluate: tokenizer_episodes is {got}, expected 1 or more, or null for the whole split; fix: leave it out")
