"""`budget=` of `wfm train`: what a run is made of and how long each part takes, chosen from the data and a rehearsal, and kept in the run.

`<run>/plan.json` holds what was chosen, key by key, and what each part is foretold to take; `plan.txt` says it for people. A run that is
gone on with keeps its plan. Before a stage begins its steps are timed once more, and their number is fitted to the time that is left.
Keys that the user sets go before all of this.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.files import write_atomic
from wfm_ar.data.formats import VIEW, open_episodes
from wfm_ar.data.json_files import read_json
from wfm_ar.errors import BadCheckpoint, BadConfig
from wfm_ar.framing import CENTRE
from wfm_ar.plain_text import print_lines
from wfm_ar.train import budget as fitting
from wfm_ar.train import stages
from wfm_ar.train.budget import SIZES, Size, told_time
from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint
from wfm_ar.train.data_facts import DataFacts, data_facts
from wfm_ar.train.early_stop import ended_early
from wfm_ar.train.loop import step_seconds
from wfm_ar.train.precision import FASTER, bf16_gain
from wfm_ar.train.rehearsal import Networks, Timings, rehearse, room_for_training
from wfm_ar.train.settings import LoopConfig
from wfm_ar.train.stage_protocol import Stage
from wfm_ar.train.whole_run import WholeRun
from wfm_ar.verbs.given_keys import given, not_given, with_chosen
from wfm_ar.verbs.train_settings import Settings, loop_config, sized
from wfm_ar.verbs.training_data import FEWEST_HELD_OUT, parted
from wfm_ar.verbs.training_plan_text import RECOMPUTE, block

PLAN, PLAN_TEXT = "plan.json", "plan.txt"
FORMAT = 1
ENCODING, LOOKING = "encoding", "looking ahead"  # parts of a run that are no stages, as their progress calls them
VAL_CLIPS = {
    stages.VIDEO_TOKENIZER: 8,
    stages.FRAME_PREDICTOR: 8,
    stages.WORLD_MODEL: 16,
    stages.DIFFUSION_DECODER: 4,
    stages.INVERSE_DYNAMICS: 8,
}
CUT = (stages.VIDEO_TOKENIZER, stages.FRAME_PREDICTOR, stages.DIFFUSION_DECODER)  # stages that learn from crops
MOST_TIMED = 3.0  # seconds of steps that a rehearsal times of each stage


class Plan:
    """What was chosen for a run, in its folder."""

    def __init__(self, run: Path, content: dict[str, Any]):
        self.path, self.content = run / PLAN, content
        self.whole = WholeRun(content["seconds"], content["spent"])
        self._part, self._began = "", time.monotonic()

    @classmethod
    def of(cls, run: Path) -> "Plan | None":
        """The plan that a run has. Raises BadCheckpoint."""
        path = run / PLAN
        if not path.exists():
            return None
        try:
            content = read_json(path)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
            return cls(run, content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadCheckpoint(f"{path}: cannot be read ({error}), expected a run's plan; fix: delete it, another is made") from None

    def keep(self) -> None:
        """Write it, with what people read."""
        write_atomic(self.path, json.dumps(self.content, indent=1).encode() + b"\n", overwrite=True)
        write_atomic(self.path.with_name(PLAN_TEXT), block(self.content).encode(), overwrite=True)

    def applied(self, settings: Settings) -> Settings:
        """The settings with what was chosen, but for keys that the user set."""
        return with_chosen(settings, self.content["chosen"])

    def begin(self, part: str) -> None:
        """A part of the run is at work from now on."""
        self._part, self._began = part, time.monotonic()

    def end(self) -> None:
        """It has ended: how long it took is kept."""
        spent = self.content["spent"]
        spent[self._part] = spent.get(self._part, 0.0) + time.monotonic() - self._began
        self.whole.finish(self._part, spent[self._part])
        self.keep()

    def end_stage(self, name: str, folder: Path) -> None:
        """A stage has ended, and this is its last checkpoint. The next one is fitted to the time that is left."""
        _, state = load_checkpoint(folder, groups=())
        self.content.setdefault("ended_early", {}).pop(name, None)
        if (ended := ended_early(state)) is not None:
            self.content["ended_early"][name] = asdict(ended)
        self.end()

    def told_end(self) -> str:
        """A line on what the run took."""
        return f"the run took {told_time(sum(self.content['spent'].values()))}, {told_time(self.content['foretold_s'])} were foretold"

    def refitted(self, settings: Settings, stage: Stage, run: Path) -> Settings:
        """The settings with the steps of `stage`, timed as it is, and of those after it fitted to what is left of the budget."""
        content = self.content
        if content["budget_s"] is None or newest_checkpoint(run / stage.name) is not None:
            return settings  # its schedule is what it was begun with
        names = [name for name in stages.STAGES if name in content["step_s"]]
        later = names[names.index(stage.name) :]
        content["step_s"][stage.name] = step_seconds(stage, _loops(settings)[stage.name], timed_for(content["budget_s"]))
        left = content["budget_s"] * (1 - fitting.SPARE) - sum(content["spent"].values())
        if stages.WORLD_MODEL in later[1:]:
            left -= sum(content["seconds"].get(part, 0.0) for part in (ENCODING, LOOKING))
        step_s = {name: content["step_s"][name] for name in later}
        steps = fitting.fit_steps(max(1.0, left), step_s, content["wanted"], content["looking_s"])
        content["chosen"] |= not_given(settings, _schedules(settings, steps, content["validations"]))
        settings = self.applied(settings)
        for name in later:
            content["steps"][name] = _loops(settings)[name].steps
            content["seconds"][name] = content["steps"][name] * content["step_s"][name] + content["looking_s"][name]
            self.whole.foretell(name, content["seconds"][name])
        self.keep()
        return settings


def planned(settings: Settings, ranks: int) -> tuple[Settings, Plan]:
    """The settings fitted to the data and to `settings.budget`, and the plan, made or found in the run."""
    plan = Plan.of(settings.run)
    if plan is None:
        plan = _made(settings, ranks)
        plan.keep()
        print_lines(block(plan.content), flush=True)
    else:
        assert settings.budget is not None, "planned only with one"
        wish = fitting.parse_budget(settings.budget)
        note = "" if wish == plan.content["budget_s"] else f"; budget={settings.budget} does not change it (another run= makes another)"
        print(f"{plan.path}: the run keeps its plan{note}", flush=True)
    return plan.applied(settings), plan


def _made(settings: Settings, ranks: int) -> Plan:
    assert settings.budget is not None, "planned only with one"
    wish, began = fitting.parse_budget(settings.budget), time.monotonic()
    cuda = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    view = {key: getattr(settings, key) for key in VIEW}
    facts = data_facts(*parted(open_episodes(settings.data, **view)))
    keys, why = _from_data(settings, facts)
    settings = with_chosen(settings, keys)
    train_set, val_set = parted(open_episodes(settings.data, **{key: getattr(settings, key) for key in VIEW}))
    keys |= _machine(settings, cuda, ranks, len(val_set))
    keys["patience"] = fitting.patience(facts.held_out)
    frames, val_frames = (sum(one.num_frames(i) for i in range(len(one))) for one in (train_set, val_set))
    at, room = fitting.first_size(wish, cuda), room_for_training(cuda)
    if room is not None and not cuda:
        room //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # of torchrun: these processes share it
    while True:
        at, sizes, timings = _with_room(settings, keys, train_set, facts, at, None if room is None else fitting.ROOM * room)
        once = timings.encode_s + timings.look_ahead_s
        clips = settings.episodes or fitting.usable_clips(len(train_set), frames + val_frames, once, wish)
        clips = min(clips, len(train_set))
        used = round(frames * clips / len(train_set))
        encoded = used + round(val_frames * min(1.0, max(FEWEST_HELD_OUT, clips // 10) / len(val_set)))
        wanted = fitting.wanted_steps(used)
        left = None if wish is None else max(1.0, wish * (1 - fitting.SPARE) - encoded * once - (time.monotonic() - began))
        looks = fitting.validations(left, timings.validation_s)
        looking_s = {name: looks[name] * timings.validation_s[name] for name in looks}
        steps = fitting.fit_steps(left, timings.step_s, wanted, looking_s)
        if at == 0 or steps[stages.WORLD_MODEL] >= fitting.ENOUGH * wanted[stages.WORLD_MODEL]:
            break
        at -= 1
    keys |= sizes | _schedules(settings, steps, looks)
    if clips < len(train_set):
        keys["episodes"] = clips
    loops = _loops(with_chosen(settings, keys))
    seconds: dict[str, float] = {}
    for name in stages.STAGES:
        if name == stages.WORLD_MODEL:
            seconds |= {ENCODING: encoded * timings.encode_s}
            seconds |= {LOOKING: encoded * timings.look_ahead_s} if timings.look_ahead_s else {}
        if name in timings.step_s:
            seconds[name] = loops[name].steps * timings.step_s[name] + looking_s[name]
    content = {
        "format": FORMAT,
        "budget_s": wish,
        "size": SIZES[at].name,
        "machine": _told_machine(cuda, ranks),
        "facts": asdict(facts),
        "used": {"clips": clips, "frames": used},
        "why": why,
        "given": [one for one in settings.given if any(given(key, (one,)) for key in keys)],
        "chosen": not_given(settings, keys),
        "steps": {name: loops[name].steps for name in timings.step_s},
        "wanted": wanted,
        "step_s": timings.step_s,
        "validations": looks,
        "looking_s": looking_s,
        "seconds": seconds,
        "peak_bytes": timings.peak_bytes,
        "room_bytes": room,
        "spent": {"rehearsal": time.monotonic() - began},
    }
    content["sensible_s"] = fitting.sensible_budget(
        timings.step_s, wanted, looking_s, (frames + val_frames) * once + content["spent"]["rehearsal"]
    )
    content["foretold_s"] = sum(seconds.values()) + content["spent"]["rehearsal"]
    return Plan(settings.run, json.loads(json.dumps(content)))


def timed_for(budget_s: float | None) -> float:
    """Seconds of steps that are timed of a stage."""
    return MOST_TIMED if budget_s is None else min(MOST_TIMED, budget_s / 120)


def _with_room(
    settings: Settings, keys: Mapping[str, Any], train_set: EpisodeSet, facts: DataFacts, at: int, room: float | None
) -> tuple[int, dict[str, Any], Timings]:
    """A place in SIZES, `at` or before, its keys, and a rehearsal that found room: activations are recomputed before pictures and
    networks become smaller. The smallest is taken also where there is no room for it. Raises BadConfig where it cannot even be rehearsed.
    """
    assert settings.budget is not None, "planned only with one"
    wish, sizes, way, timings = fitting.parse_budget(settings.budget), {}, {}, None
    ways = ({},) if given(RECOMPUTE, settings.given) else ({}, {RECOMPUTE: True})
    for place in range(at, -1, -1):
        sizes = _of_size(settings, SIZES[place], facts)
        for way in ways:
            timings = _rehearsed(with_chosen(settings, {**keys, **sizes, **way}), train_set, wish)
            if timings is not None and (room is None or timings.peak_bytes <= room):
                return place, sizes | way, timings
    if timings is None:
        raise BadConfig(
            f"budget: the {SIZES[0].name} size needs more memory than the GPU has free, expected less; fix: batch_size=1, or device=cpu"
        )
    return 0, sizes | way, timings


def _rehearsed(settings: Settings, train_set: EpisodeSet, wish: float | None) -> Timings | None:
    """None where the GPU's memory did not suffice."""
    own = settings.stages
    networks = Networks(
        tokenizer=sized(settings.tokenizer, settings),
        predictor=settings.predictor,
        model=settings.model,
        decoder=settings.decoder,
        inverse_dynamics=settings.inverse_dynamics,
        reading=own.inverse_dynamics.training,
        windows={name: getattr(own, name).training for name in CUT},
        world_model=own.world_model.training,
        loops=_loops(settings),
        **vars(settings.sequence),
    )
    half = torch.bfloat16 if settings.precision == "bf16" else None
    try:
        return rehearse(networks, train_set, seconds=timed_for(wish), workers=max(1, settings.num_workers), precision=half)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def _from_data(settings: Settings, facts: DataFacts) -> tuple[dict[str, Any], dict[str, str]]:
    """-> (what follows from the data alone, a reason for each line of the block)."""
    chosen: dict[str, Any] = {}
    fixed = facts.still_share >= fitting.STILL
    chosen["tokenizer.background"] = fixed
    share = f"{100 * facts.still_share:.0f} % of the pixels are those of the median picture"
    why = {"camera": f"stands still ({share}): what it always sees is subtracted" if fixed else f"moves, or scenes differ ({share})"}
    rate = None if settings.fps is not None else fitting.thinned_rate(facts.fps, facts.median_frames)
    why["rate"] = f"{settings.fps or facts.fps:g} frames a second"
    if rate is not None:
        try:
            view: dict[str, Any] = {key: getattr(settings, key) for key in VIEW} | {"fps": rate}
            open_episodes(settings.data, **view)
            chosen["fps"] = rate
            why["rate"] = f"{facts.fps:g} frames a second are thinned to {rate:g}: neighbours hardly differ"
        except BadConfig as error:  # actions that do not say whether they add up
            why["rate"] = f"{facts.fps:g} frames a second, not thinned: {error.where}: {error.got}"
    acting = ", ".join(facts.channels) or "none"
    why["actions"] = acting + (f"; dropped, as they never change: {', '.join(facts.constant)}" if facts.constant else "")
    if not facts.channels:
        chosen["stages.world_model.training.policy_share"] = 0.0
    if not facts.texts:
        chosen["stages.world_model.training.image_share"] = 0.0
    return chosen, why


def _of_size(settings: Settings, size: Size, facts: DataFacts) -> dict[str, Any]:
    """The keys of a row of the table of sizes, for pictures of these data."""
    height, width = fitting.picture_size(facts.height, facts.width, size.pixels)
    chosen = dict(size.keys) | {"tokenizer.height": height, "tokenizer.width": width, "tokenizer.crop": CENTRE}
    if settings.predictor is None:
        chosen = {key: value for key, value in chosen.items() if not key.startswith("predictor.")}
    least = min(height if settings.height is None else settings.height, width if settings.width is None else settings.width)
    for name in CUT:
        crop = getattr(settings.stages, name).training.crop
        chosen[f"stages.{name}.training.crop"] = min(crop, least // 8 * 8)
    return chosen


def _machine(settings: Settings, cuda: bool, ranks: int, held_out: int) -> dict[str, Any]:
    """What follows from the machine: precision, and how a step's samples are dealt out."""
    chosen: dict[str, Any] = {}
    if settings.precision == "auto" and not cuda and bf16_gain() >= FASTER:
        chosen["precision"] = "bf16"
    for name in stages.STAGES:
        chosen[f"stages.{name}.training.val_clips"] = min(VAL_CLIPS[name], held_out)
        if ranks > 1:
            chosen[f"stages.{name}.accumulate"] = ranks
            chosen[f"stages.{name}.batch_size"] = max(1, getattr(settings.stages, name).batch_size // ranks)
    return chosen


def _told_machine(cuda: bool, ranks: int) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    place = torch.cuda.get_device_name() if cuda else f"{cores} CPU core{'s' * (cores != 1)}"
    return place + (f", {ranks} processes" if ranks > 1 else "")


def _schedules(settings: Settings, steps: Mapping[str, int], looks: Mapping[str, int]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for name, count in steps.items():
        optimizer = getattr(settings.stages, name).optimizer
        chosen |= fitting.schedule(name, count, optimizer.ema, optimizer.warmup_steps, looks[name])
    return chosen


def _loops(settings: Settings) -> dict[str, LoopConfig]:
    return {name: loop_config(settings, name) for name in stages.STAGES}
