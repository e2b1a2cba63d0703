"""What a training run is fitted to: how long it may take, what the data allow, and which sizes there are to choose from.

Pure arithmetic over numbers that others measured (data_facts.py, rehearsal.py). Steps follow the data: beyond some passes over them a
network learns the clips by heart, so a budget that is longer than the data can use is not used up. What is left of a budget after the
work that has to be done once (decoding, encoding, looking ahead) is shared out among the stages.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from wfm_ar.errors import BadConfig

NO_LIMIT = "none"
UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}  # seconds
LEAST_BUDGET = 60.0  # seconds
SHARES = {  # of the time for steps
    "video_tokenizer": 0.09,
    "frame_predictor": 0.16,
    "world_model": 0.63,
    "diffusion_decoder": 0.07,
    "inverse_dynamics": 0.05,
}
RECIPE = {
    "video_tokenizer": 6000,
    "frame_predictor": 8000,
    "world_model": 8000,
    "diffusion_decoder": 4000,
    "inverse_dynamics": 4000,
}  # steps for RECIPE_FRAMES
RECIPE_FRAMES = 30_000  # training frames for which the recipe's steps were found good
LEAST_STEPS = {
    "video_tokenizer": 400,
    "frame_predictor": 400,
    "world_model": 800,
    "diffusion_decoder": 200,
    "inverse_dynamics": 300,
}  # for whatever data
MOST_TIMES = 4.0  # the recipe's steps at most, however many frames there are
ENOUGH = 0.1  # share of the wanted steps of a world model below which a smaller size does better
SENSIBLE = 0.3  # share of the wanted steps that a short budget is advised to have room for
ONCE = 0.3  # share of a budget that decoding, encoding and looking ahead may take; more, and fewer clips are used
SPARE = 0.06  # share of a budget that is kept back: starting, packing, the verdict
VALIDATIONS = 8  # of a stage, where they take no more than LOOKING of its time
LOOKING = 0.15
ROOM = 0.9  # share of the memory there is that a run may be foretold to take
PATIENCE = 2  # validations in a row no better than the best one, after which a stage ends
FEWEST_JUDGES = 4  # held-out clips without which no stage ends early: what fewer say goes up and down by chance
MULTIPLE = 8  # pixels that both sides of a picture are a multiple of: a token's side
THINNED_TO = 10.0  # frames a second that faster clips are thinned to, about
FAST = 12.5  # frames a second from which on clips are thinned
FEWEST_FRAMES = 9  # of a median clip that thinning leaves
STILL = 0.6  # share of the pixels like the median picture from which on the camera counts as fixed


@dataclass(frozen=True, kw_only=True)
class Size:
    """A row of the table of sizes."""

    name: str
    pixels: int  # of a picture, about
    keys: Mapping[str, object]  # settings of `wfm train`


def _size(name: str, pixels: int, encoder: int, decoder: int, predictor: tuple[int, int], model: tuple[int, int, int], hidden: int) -> Size:
    layers, dim, heads = model
    keys = {
        "tokenizer.encoder_channels": encoder,
        "tokenizer.decoder_channels": decoder,
        "predictor.channels": predictor,
        "model.layers": layers,
        "model.dim": dim,
        "model.heads": heads,
        "model.kv_heads": heads // 2,
        "model.hidden": hidden,
        "model.hint_hidden": hidden,
    }
    return Size(name=name, pixels=pixels, keys=keys)


SIZES = (
    _size("tiny", 64 * 64, 16, 24, (32, 48), (2, 128, 2), 384),
    _size("small", 96 * 96, 24, 32, (64, 96), (2, 256, 4), 512),
    _size("base", 128 * 128, 32, 48, (96, 128), (3, 256, 4), 768),
    _size("large", 160 * 160, 48, 64, (128, 192), (6, 512, 8), 1536),
)


def parse_budget(text: str) -> float | None:
    """ "2h", "90m", "1.5h", "1h30m" -> seconds; "none" -> None: as long as the data ask for. Raises BadConfig."""
    if text == NO_LIMIT:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|s|m|h|d)", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if re.sub(r"\s", "", text) != "".join(number + unit for number, unit in parts) or not LEAST_BUDGET <= seconds <= 365 * UNITS["d"]:
        raise BadConfig(f"budget: got {text!r:.40}, expected a time of a minute or more such as 30m, 2h or 8h, or none; fix: budget=2h")
    return seconds


def first_size(budget_s: float | None, cuda: bool) -> int:
    """The place in SIZES that is tried first."""
    if budget_s is None:
        return 3 if cuda else 2
    limits = (0.0, 600.0, 2400.0) if cuda else (900.0, 5400.0)  # seconds up to which a size is tried first
    return sum(budget_s > limit for limit in limits)


def picture_size(height: int, width: int, pixels: int) -> tuple[int, int]:
    """(height, width) in multiples of MULTIPLE, about `pixels` in all and no larger than the source, of nearly its shape."""
    most_h, most_w = (max(MULTIPLE, side // MULTIPLE * MULTIPLE) for side in (height, width))
    wanted, best, least = min(pixels, most_h * most_w), (MULTIPLE, MULTIPLE), math.inf
    for h in range(MULTIPLE, min(most_h, 1024) + 1, MULTIPLE):
        for w in range(MULTIPLE, min(most_w, 1024) + 1, MULTIPLE):
            shape, area = abs(math.log(h * width / (w * height))), abs(math.log(h * w / wanted))
            if area < 0.35 and shape + 0.25 * area < least:
                best, least = (h, w), shape + 0.25 * area
    if least < math.inf:
        return best
    side = math.sqrt(wanted)  # a source so long and narrow that no picture of its shape has so many pixels
    height, width = (max(MULTIPLE, min(most, round(side / MULTIPLE) * MULTIPLE)) for most in (most_h, most_w))
    return height, width


def thinned_rate(fps: float, median_frames: float) -> float | None:
    """Frames a second that clips are thinned to; None where they are slow, or short, enough as they are."""
    every = 1 if fps < FAST else round(fps / THINNED_TO)
    while every > 1 and median_frames / every < FEWEST_FRAMES:
        every -= 1
    return None if every <= 1 else fps / every


def wanted_steps(frames: int) -> dict[str, int]:
    """Steps a stage that so many training frames can use."""
    times = min(MOST_TIMES, math.sqrt(frames / RECIPE_FRAMES))
    return {name: max(LEAST_STEPS[name], round(steps * times)) for name, steps in RECIPE.items()}


def fit_steps(
    seconds: float | None, step_s: Mapping[str, float], wanted: Mapping[str, int], looking_s: Mapping[str, float]
) -> dict[str, int]:
    """Steps a stage, of those in `step_s`, that together take about `seconds` with all their validations (`looking_s`, by stage), and no
    more than are wanted.

    seconds None: all that are wanted. What one stage cannot use is shared out among the others.
    """
    if seconds is None:
        return {name: wanted[name] for name in step_s}
    left, open_stages, steps = seconds - sum(looking_s[name] for name in step_s), dict(step_s), {}
    while open_stages:
        total = sum(SHARES[name] for name in open_stages)
        fitting = {name: left * SHARES[name] / total / each for name, each in open_stages.items()}
        full = [name for name in open_stages if fitting[name] >= wanted[name]]
        for name in full or list(open_stages):
            steps[name] = wanted[name] if full else max(1, int(fitting[name]))
            left -= steps[name] * open_stages.pop(name)
    return {name: steps[name] for name in step_s}


def validations(seconds: float | None, validation_s: Mapping[str, float]) -> dict[str, int]:
    """How often each of these stages is validated, where one validation takes so long and all stages together have `seconds`."""
    total = sum(SHARES[name] for name in validation_s)
    return {
        name: VALIDATIONS if seconds is None else max(1, min(VALIDATIONS, int(LOOKING * seconds * SHARES[name] / total / max(1e-9, each))))
        for name, each in validation_s.items()
    }


def sensible_budget(step_s: Mapping[str, float], wanted: Mapping[str, int], looking_s: Mapping[str, float], once_s: float) -> float:
    """Seconds of a budget in which every stage has SENSIBLE of the steps that the data can use, beside `once_s` of other work."""
    steps = sum(SENSIBLE * wanted[name] * each for name, each in step_s.items())
    return (steps + sum(looking_s.values()) + once_s) / (1 - SPARE)


def usable_clips(clips: int, frames: int, once_s: float, budget_s: float | None) -> int:
    """How many clips are used, where each frame costs `once_s` seconds before the world model can begin."""
    if budget_s is None or frames * once_s <= ONCE * budget_s:
        return clips
    return max(1, int(clips * ONCE * budget_s / (frames * once_s)))


def patience(held_out: int) -> int:
    """Validations in a row no better than the best one after which a stage ends; 0 = it never does."""
    return PATIENCE if held_out >= FEWEST_JUDGES else 0


def schedule(name: str, steps: int, ema: float, warmup: int, looks: int = VALIDATIONS) -> dict[str, object]:
    """What of a stage's settings goes with its number of steps and of validations."""
    own = f"stages.{name}"
    return {
        f"{own}.steps": steps,
        f"{own}.log_every": max(1, min(20, steps // 20)),
        f"{own}.val_every": max(1, math.ceil(steps / looks)),
        f"{own}.checkpoint_every": max(1, min(250, steps // 4)),
        f"{own}.optimizer.warmup_steps": max(1, min(warmup, steps // 10)),
        f"{own}.optimizer.ema": round(min(ema, max(0.0, 1 - 10 / steps)), 4),
    }


def told_time(seconds: float) -> str:
    """Seconds as a person says them: "50 s", "12 min", "2 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
