"""What is measured, section by section: each takes a Bench and gives the numbers of one part of the report, and its examples.

Every rollout starts from the first true frame alone. Control is measured on raw frames, so that it says what the world model
did and not what the diffusion decoder made of it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from wfm_ar.errors import BadConfig
from wfm_ar.evaluate import control, metrics, quality
from wfm_ar.evaluate.bench import Bench
from wfm_ar.evaluate.free_run import Watcher, free_run, free_run_summary
from wfm_ar.evaluate.heldout import Clip, HeldOut
from wfm_ar.evaluate.objects import ObjectTally, one_step_cuts, scored
from wfm_ar.evaluate.prediction import prediction_row, prediction_summary
from wfm_ar.evaluate.settings import SAMPLING
from wfm_ar.evaluate.sheets import Sheet
from wfm_ar.evaluate.speed import frames_per_second, measure_command, peak_bytes
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world import Prompt, World

STREAM_STEPS = 40


def tokenizer_section(bench: Bench, everything: HeldOut) -> dict[str, Any]:
    """Reconstructions and codes over `everything`."""
    config = bench.world.parts.video_tokenizer.config
    tally = quality.TokenizerTally(bench.world.parts.video_tokenizer.codebook_size)
    for clip in bench.track(everything, "tokenizer", len(everything)):
        tokens = bench.world.encode(clip.frames)
        tally.add(clip.frames, bench.world.decode(tokens), tokens)
    height, width = config.grid
    return tally.summary() | {"tokens_per_frame": height * width / config.temporal_compression}


def prediction_section(bench: Bench) -> dict[str, Any]:
    """Teacher-forced loss and accuracy with the clips' own texts and actions."""
    rows, robots = [], []
    for clip in bench.track(bench.clips, "next token", len(bench.clips)):
        world = bench.acting(clip)
        robots.append(clip.robot)
        text_ids = world.parts.text_tokenizer.encode(clip.text) if world.parts.text_tokenizer and clip.text else None
        bins = None
        if world.action_tokenizer and clip.actions is not None:
            bins = world.bins_of(clip.actions, str(clip.id))[0].unflatten(0, (-1, world.rate))
        tokens = torch.from_numpy(world.encode(clip.frames))
        rows.append(prediction_row(world.parts.world_model, world.sequence, tokens, text_ids, bins, world.lookahead))
    return prediction_summary(rows) | _by_robot(rows, robots, prediction_summary, ("episodes", "loss", "accuracy"))


def _by_robot(rows: Sequence[Any], robots: Sequence[str | None], summary: Callable[[list], dict], keys: Sequence[str]) -> dict[str, Any]:
    """{"by_robot": {robot: some numbers of the summary of its rows}} where there are several robots, else {}."""
    names = list(dict.fromkeys(robots))
    if len(names) < 2:
        return {}
    parts = {name: summary([row for row, robot in zip(rows, robots, strict=True) if robot == name]) for name in names}
    return {"by_robot": {name or "no robot": {key: part[key] for key in keys if key in part} for name, part in parts.items()}}


@dataclass(frozen=True, kw_only=True)
class TrueRollouts:
    """What came of rolling out every clip under its true actions. The lists of Sheets: the first episodes; the worst, median and best."""

    rollout: dict[str, Any]
    refined: dict[str, Any] | None
    trials: list[control.Trial] | None  # where the data set knows where the peg is
    sheets: list[Sheet]
    first: list[np.ndarray]  # raw frames of the first examples
    tally: ObjectTally | None  # where the data set knows what objects there are
    strips: list[Sheet]


def rollout_section(bench: Bench) -> TrueRollouts:
    """Picture quality against the horizon, raw against refined, objects, and the peg's way; under true actions where the world takes any.

    "raw" and "refined" hold no pixel of the given picture; "shown" keeps it where nothing moves, as `wfm generate` does.
    """
    refine = bench.world.parts.diffusion_decoder is not None
    rows, trials, sheets, tokens, first = [], [], [], [], []
    pairs: dict[str, list] = {where: [] for where in quality.REFINED}
    clips = list(bench.clips)
    tally = ObjectTally() if all(clip.names for clip in clips) and bench.world.height == bench.world.width else None
    acts = bench.world.parts.action_schema is not None
    prompts = [bench.prompt(k, clip, actions=clip.actions if acts else None) for k, clip in enumerate(clips)]
    rolls = bench.roll(clips, prompts, guidance="action_guidance", refine=refine, name="rollouts")
    for k, (clip, rolled) in enumerate(zip(clips, rolls, strict=True)):
        tokens.append(rolled.tokens)
        decoded, refined = _painted(bench, bench.world.encode(clip.frames), prompts[k].seed, refine)
        _, shown = _painted(bench, rolled.tokens, prompts[k].seed, refine, given=clip.frames[:1])
        made = {"tokenizer": decoded, "raw": rolled.raw_frames, "shown": shown} | ({"refined": rolled.frames} if refine else {})
        row = quality.rollout_row(clip.id, clip.frames, made)
        rows.append(row)
        if refine:
            whole = ((rolled.raw_frames, rolled.frames), (rolled.raw_frames, shown), (decoded, refined))
            for where, frames in zip(quality.REFINED, whole, strict=True):
                numbers = [quality.picture_numbers(each[1:], clip.frames[1:]) for each in frames]
                pairs[where].append(dict(zip(("raw", "refined"), numbers, strict=True)))
        if tally is not None:
            tally.add(clip, {"rollout": rolled.raw_frames, "shown": shown, "tokenizer": decoded})
        if clip.peg_xy is not None and clip.actions is not None:
            trials.append(control.watch(rolled.raw_frames, clip.actions, clip.peg_xy[0]))
        if k < bench.config.examples:
            sheets.append(_sheet_of(bench, clip, k, rolled.tokens))
            first.append(rolled.raw_frames)
    summary = quality.rollout_summary(rows)
    told = ("episodes", "psnr_raw_last", *(key for key in summary if key.startswith("gain_")))
    summary |= _by_robot(rows, [clip.robot for clip in clips], quality.rollout_summary, told)
    summary["by_episode"] = [{"id": row.id, "psnr_raw_last": float(row.psnr["raw"][-1])} for row in rows]
    strips = []
    for mark, k, iou in tally.ranked() if tally is not None else ():
        sheet = _sheet_of(bench, clips[k], k, tokens[k])
        strips.append(replace(sheet, mark=mark, note=f"{sheet.note}; moved objects' mean IoU {iou:.2f}"))
    return TrueRollouts(
        rollout=summary,
        refined=quality.refined_summary(pairs) if refine else None,
        trials=trials if len(trials) == len(rows) else None,
        sheets=sheets,
        first=first,
        tally=tally,
        strips=strips,
    )


def object_section(bench: Bench, tally: ObjectTally) -> dict[str, Any]:
    """The numbers of objects.py: those that rollout_section added up, and what is imagined one step ahead of the truth."""
    clips = list(bench.clips)
    acts = bench.world.parts.action_schema is not None
    jobs = [(k, cut) for cut in one_step_cuts(bench.world.rate, bench.config.frames) for k in range(len(clips))]
    prompts = [
        Prompt(
            video=clips[k].frames[:given],
            num_frames=count,
            seed=bench.config.seed + k,
            actions=cast("Any", clips[k].actions)[: count - 1] if acts else None,
        )
        for k, (given, count) in jobs
    ]
    made = [clip.frames.copy() for clip in clips]
    rolls = bench.roll([clips[k] for k, _ in jobs], prompts, guidance="action_guidance", refine=False, name="one step ahead")
    for (k, (given, count)), rolled in zip(jobs, rolls, strict=True):
        made[k][given:count] = rolled.raw_frames[given:]
    tally.scores["one_step"] = [scored(clip, frames) for clip, frames in zip(clips, made, strict=True)]
    return tally.summary()


def free_run_section(bench: Bench) -> tuple[dict[str, Any], list[Sheet]]:
    """Rollouts of config.free_frames frames from the first config.free_runs clips, and what they look like."""
    config, clips = bench.config, [bench.clips[k] for k in range(min(bench.config.free_runs, len(bench.clips)))]
    sampling = SamplingConfig(**{name: getattr(config, name) for name in (*SAMPLING, "action_guidance")})
    settings = {"frames": config.free_frames, "sampling": sampling}
    if bench.workers is None:
        watchers, kept = free_run(bench.world, clips, seeds=[config.seed + k for k in range(len(clips))], track=bench.track, **settings)
    else:
        runs = bench.workers.each(_free_run, [(clip, config.seed + k, settings) for k, clip in enumerate(clips)])
        watchers, kept = zip(*((one[0][0], one[1][0]) for one in bench.track(runs, "free run", len(clips))), strict=True)
    sheets = []
    for clip, watcher, frames in zip(clips, watchers, kept, strict=True):
        there = sum(watcher.looks[-1]["objects"].values())
        note = f"one frame a second, raw; {there} of {len(watcher.names)} objects there in the last"
        sheets.append(Sheet(title=f"free run from episode {clip.id}", note=note, rows=(("rollout, raw", frames),)))
    return free_run_summary(watchers), sheets


def _free_run(world: World, run: tuple[Clip, int, dict[str, Any]]) -> tuple[list[Watcher], list[np.ndarray]]:
    """One of the runs, in a worker."""
    clip, seed, settings = run
    return free_run(world, [clip], seeds=[seed], **settings)


def _sheet_of(bench: Bench, clip: Clip, k: int, tokens_thw: np.ndarray) -> Sheet:
    """The truth, the tokenizer's copy and the rollout `tokens_thw` of clip k, as decoded and as shown."""
    refine, seed = bench.world.parts.diffusion_decoder is not None, bench.config.seed + k
    decoded, _ = _painted(bench, bench.world.encode(clip.frames), seed, refine=False)
    raw, shown = _painted(bench, tokens_thw, seed, refine, given=clip.frames[:1])
    own, last = (float(metrics.psnr_frames(frames[-1:], clip.frames[-1:])[0]) for frames in (decoded, raw))
    note = f"{clip.text or 'no text'}; last frame {last:.1f} dB, the tokenizer's own {own:.1f} dB"
    rows = (("truth", clip.frames), ("tokenizer", decoded), ("rollout, raw", raw), ("as shown", shown))
    return Sheet(title=f"episode {clip.id}", note=note, rows=rows, fps=bench.acting(clip).fps)


def _painted(
    bench: Bench, tokens_thw: np.ndarray, seed: int, refine: bool, given: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What these tokens show, as decoded and as shown, uint8 [T, H, W, 3] each: refined or not, with the detail of `given` or none."""
    return bench.world.show(tokens_thw, seed, bench.config.refine_steps if refine else None, given)


def action_section(bench: Bench, true: TrueRollouts) -> tuple[dict[str, Any], list[Sheet]]:
    """Action following under all four kinds of actions, its gate, and the measure's own ceiling on the true frames."""
    clips = list(bench.clips)
    shown = [{"true": frames} for frames in true.first]

    def generate(kind: str, given: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        prompts = [bench.prompt(k, clip, actions=row) for k, (clip, row) in enumerate(zip(clips, given, strict=True))]
        for k, rolled in enumerate(bench.roll(clips, prompts, guidance="action_guidance", refine=False, name=f"{kind} actions")):
            if k < len(shown):
                shown[k][kind] = rolled.raw_frames
            yield rolled.raw_frames

    actions, paths = [cast("Any", clip.actions) for clip in clips], [cast("Any", clip.peg_xy) for clip in clips]  # which all have
    size, step = bench.world.height, min(control.STEP, bench.config.frames - 1)
    numbers = control.measure_actions(generate, actions, paths, size=size, step=step, true_trials=true.trials)
    numbers["gate"] = control.action_gate(numbers)
    truth = [control.watch(clip.frames, own, path[0]) for clip, own, path in zip(clips, actions, paths, strict=True)]
    numbers["r_of_truth_xy"] = control.follow([t.peg_px for t in truth], [t.commanded_px for t in truth], step)
    sheets = [
        Sheet(
            title=f"episode {clips[k].id}, four kinds of actions",
            rows=(("truth", clips[k].frames), *((f"{kind} actions", shown[k][kind]) for kind in control.DRIVES)),
            fps=bench.acting(clips[k]).fps,
        )
        for k in range(min(2, len(shown)))
    ]
    return numbers, sheets


def speed_section(bench: Bench, demo: Sequence[str] | None) -> dict[str, Any]:
    """Frames a second of one rollout at a time, as `generate` is called by default but raw; the peak memory of this process and of `demo`.

    With a text and imagined actions where the world has both, else with what it has. `demo`: the command to measure.
    """
    config, clip = bench.config, bench.clips[0]
    world = bench.acting(clip)
    device = next(world.parts.world_model.parameters()).device
    numbers: dict[str, Any] = {"threads": torch.get_num_threads(), "device": _device_name(device), "frames_per_second": None}
    text = clip.text if world.parts.text_tokenizer is not None else None

    def roll(seed: int, **inputs: Any) -> int:
        rolled = world.generate(video=clip.frames[:1], num_frames=config.frames, seed=seed, refine=False, **inputs)
        return len(rolled.frames) - rolled.given_frames

    if config.speed_runs:
        numbers |= frames_per_second(lambda seed: roll(seed, text=text), runs=config.speed_runs)
        if clip.actions is not None and world.action_tokenizer is not None:
            driven = frames_per_second(lambda seed: roll(seed, actions=clip.actions), runs=config.speed_runs)
            numbers |= {"driven_frames_per_second": driven["frames_per_second"], "driven_runs": driven["runs"]}
        numbers["stream_p95_ms"] = _stream_p95(world, clip)
    if demo is not None:
        try:
            measured = measure_command(demo, timeout=600)
            numbers |= {"demo_peak_bytes": measured["peak_bytes"], "demo_seconds": measured["seconds"]}
        except BadConfig as error:  # hours of other numbers are worth more than this one; the report says why it is missing
            numbers |= {"demo_peak_bytes": None, "demo_error": str(error)}
    return numbers | {"peak_bytes": peak_bytes()}


def _stream_p95(world: World, clip: Clip) -> float:
    """Milliseconds from an action to its frames in a stream, raw: the 95th percentile over STREAM_STEPS steps, after one to warm up."""
    driven = clip.actions is not None and world.action_tokenizer is not None
    stream, seconds = world.start(video=clip.frames[:1], keep_detail=False), []
    for step in range(1 + STREAM_STEPS):
        first = step * world.rate % max(1, len(clip.frames) - world.rate)
        begun = time.perf_counter()
        stream.step(cast("Any", clip.actions)[first : first + world.rate] if driven else None)
        seconds.append(time.perf_counter() - begun)
    return 1e3 * float(np.percentile(seconds[1:], 95))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
