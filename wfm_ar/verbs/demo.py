"""`wfm demo`: held-out episodes, imagined four ways and measured against the truth where there is one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wfm_ar.data.claims import claim, holds_something, whole_files
from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import write_video
from wfm_ar.errors import OutputExists
from wfm_ar.evaluate.speed import peak_bytes
from wfm_ar.rollout.find_world import find_world, samples_of
from wfm_ar.rollout.pictures import at_world_size
from wfm_ar.rollout.prompt import Prompt, Rollout
from wfm_ar.verbs.contact_sheet import write_contact_sheet
from wfm_ar.verbs.device import device_named
from wfm_ar.verbs.inputs import refuse_inputs
from wfm_ar.verbs.outputs import write_json

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World

ABOUT, SHEET = "demo.json", "contact_sheet.png"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/demo.yaml, which explains them."""

    world: str
    data: Path | None
    episodes: int
    frames: int | None
    seed: int
    refine_steps: int
    device: Literal["auto", "cpu", "cuda"]
    out: Path
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to roll an episode out."""

    name: str  # of its files
    label: str
    prompt: Prompt


def run(settings: Settings) -> int:
    """Makes, measures and writes everything, and says what came out."""
    find_world(settings.world)  # which raises
    refuse_inputs(settings.out.glob("*"), {"world": settings.world, "data": settings.data})
    about = settings.out / ABOUT
    if settings.out.exists() and not settings.out.is_dir():
        raise OutputExists(f"{settings.out}: exists already and is a file, expected a new folder; fix: choose another out=")
    with claim(about):
        if not settings.overwrite and holds_something(settings.out):
            raise OutputExists(f"{settings.out}: exists already, expected a new folder; fix: choose another out=, or set overwrite=true")
        with whole_files(about, overwrite=settings.overwrite) as part:
            summary = _run(settings, part)
    _tell(settings.out, settings.out / SHEET, summary)
    return 0


def _run(settings: Settings, out: Path) -> dict[str, Any]:
    """Writes everything to the folder `out` -> what demo.json says."""
    from wfm_ar.rollout.world import load_world  # brings torch, as evaluate.metrics does

    begun = time.perf_counter()
    world = load_world(settings.world, device=device_named(settings.device))
    world.refuse_context("demo")
    samples = open_episodes(settings.data, "val") if settings.data else open_episodes(samples_of(settings.world))
    refines = world.parts.diffusion_decoder is not None
    rows: list[tuple[str, np.ndarray]] = []
    numbers = []
    made, seconds = 0, 0.0
    for index in _chosen(samples, settings.episodes):
        episode, truth = samples[index], _truth(samples, index, world, settings.frames)
        cases = _cases(world, truth, samples.load_actions(index), episode.text, settings.seed)
        rollouts, took = _rolled(world, cases, refine=refines, refine_steps=settings.refine_steps)
        made += sum(len(rollout.frames) - rollout.given_frames for rollout in rollouts)
        seconds += took
        name = Path(episode.id).stem
        rows.append((f'episode {name}: the truth, "{episode.text or "no text"}"', truth))
        for case, rollout in zip(cases, rollouts, strict=True):
            rows += _write(out, f"{name}-{case.name}", case, rollout, truth)
        numbers += _measure(world, name, cases, rollouts, truth)
    write_contact_sheet(out / SHEET, rows, title=f"{world.name}: four ways to imagine, raw and refined")
    summary = {
        "world": world.name,
        "against_the_truth": numbers,
        "frames_imagined": made,
        "frames_per_second": made / seconds,
        "seconds": time.perf_counter() - begun,
        "peak_memory_bytes": peak_bytes(),
    }
    write_json(out / ABOUT, summary, overwrite=False)
    return summary


def _chosen(samples: EpisodeSet, count: int) -> list[int]:
    """The first episodes, in file order, that are told to do something: in the others a text has little to show."""
    busy = [i for i in range(len(samples)) if samples[i].text not in ("do nothing", "move at random")]
    return (busy or list(range(len(samples))))[: max(1, count)]


def _truth(samples: EpisodeSet, index: int, world: "World", frames: int | None) -> np.ndarray:
    """The episode's frames at the world's size, as many as whole latents hold."""
    video = samples.load_frames(index, 0, frames)
    whole = len(video) if frames else 1 + (len(video) - 1) // world.rate * world.rate
    return at_world_size(video[:whole], world)


def _cases(world: "World", truth: np.ndarray, actions: np.ndarray | None, text: str | None, seed: int) -> list[Case]:
    """The four ways, or those of them that this world and this episode allow."""
    start = {"video": truth[:1], "num_frames": len(truth), "seed": seed}
    text = text if world.parts.text_tokenizer is not None else None
    cases = []
    if actions is not None and world.action_schema is not None:
        cases.append(Case(name="true-actions", label="driven by the true actions", prompt=Prompt(**start, actions=actions)))
        cases.append(Case(name="opposite-actions", label="same start, opposite actions", prompt=Prompt(**start, actions=-actions)))
    label = f'first frame and text only: "{text}"' if text else "first frame only"
    cases.append(Case(name="text-only" if text else "first-frame-only", label=label, prompt=Prompt(**start, text=text)))
    if not world.parts.sequence.bov:  # it goes on from a picture
        return cases
    label = f'from nothing but text: "{text}"' if text else "from nothing"
    cases.append(Case(name="from-nothing", label=label, prompt=Prompt(text=text, num_frames=len(truth), seed=seed)))
    return cases


def _rolled(world: "World", cases: Sequence[Case], **settings: Any) -> tuple[list[Rollout], float]:
    """A rollout a case, one at a time as `wfm generate` makes them, and the seconds it took."""
    own = world.measured()
    drawn = {name: own[name] for name in ("temperature", "action_temperature")}
    rollouts = []
    for case in cases:
        guidance = "text_guidance" if case.prompt.actions is None else "action_guidance"
        rollouts += world.generate_batch([case.prompt], **drawn, **{guidance: own[guidance]}, **settings)
    return rollouts, sum(rollout.timings["total_s"] for rollout in rollouts)


def _write(out: Path, name: str, case: Case, rollout: Rollout, truth: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Writes the clips of one case -> its rows of the contact sheet."""
    kinds = {"raw": rollout.raw_frames}
    if rollout.refined or rollout.kept_detail:
        kinds["shown"] = rollout.frames
    for kind, frames in kinds.items():
        write_video(out / f"{name}-{kind}.mp4", frames, rollout.fps)
    if case.name == "true-actions":
        beside = np.concatenate([truth, *kinds.values()], axis=2)
        write_video(out / f"{name.removesuffix(case.name)}beside-the-truth.mp4", beside, rollout.fps)
    return [(f"{case.label}, {kind}", frames) for kind, frames in kinds.items()]


def _measure(world: "World", episode: str, cases: Sequence[Case], rollouts: Sequence[Rollout], truth: np.ndarray) -> list[dict]:
    """PSNR (dB) and SSIM over the imagined frames where they are meant to be the truth's, and of what they stand between."""
    from wfm_ar.evaluate.metrics import psnr, ssim

    rows = []
    for case, rollout in zip(cases, rollouts, strict=True):
        if case.name != "true-actions":
            continue
        clips = {
            "the first frame repeated": truth[:1].repeat(len(truth), axis=0),
            "true actions, raw": rollout.raw_frames,
            "true actions, shown": rollout.frames,
            "the tokenizer's own copy": world.decode(world.encode(truth)),
        }
        if not rollout.refined and not rollout.kept_detail:
            del clips["true actions, shown"]
        for name, frames in clips.items():
            rows.append({"episode": episode, "clip": name, "psnr": psnr(frames[1:], truth[1:]), "ssim": ssim(frames[1:], truth[1:])})
    return rows


def _tell(out: Path, sheet: Path, summary: dict) -> None:
    if summary["against_the_truth"]:
        print(f"{'against the truth':<40} {'PSNR':>8} {'SSIM':>7}")
    for row in summary["against_the_truth"]:
        print(f"episode {row['episode']}: {row['clip']:<26} {row['psnr']:6.2f}dB {row['ssim']:7.4f}")
    print(
        f"{summary['frames_imagined']} frames imagined at {summary['frames_per_second']:.1f} frames/s (refined); "
        f"{summary['seconds']:.1f} s in all, {summary['peak_memory_bytes'] / 2**30:.2f} GiB at most"
    )
    print(f"look at {sheet}; the clips lie beside it in {out}")
