"""The sections of a report that need nothing but clips, and actions or texts where there are any: what a verdict rests on."""

from collections.abc import Mapping, Sequence
from typing import Any

from wfm_ar.evaluate.bench import Bench
from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.listening import Driven, by_robot, cost, drive, joined, listening_numbers
from wfm_ar.evaluate.read_back import moving_steps, read_back_numbers
from wfm_ar.evaluate.reality import reality_numbers
from wfm_ar.evaluate.text_choice import text_choice_numbers
from wfm_ar.rollout.action_reading import read_values, told_values

SECTIONS = ("listening", "read_back", "reality", "text_choice")
FEW = "needs two or more held-out clips of one robot with actions"


def generic_sections(bench: Bench, texts: Sequence[str]) -> dict[str, dict[str, Any] | str]:
    """Numbers of SECTIONS, or a line on why there are none. `texts`: of the whole held-out split."""
    count = bench.config.listen_episodes
    if not count:
        return dict.fromkeys(SECTIONS, "not asked for (listen_episodes=0)")
    clips, taken = [], dict[str | None, int]()
    for clip in bench.clips:
        if taken.get(clip.robot, 0) < count:
            taken[clip.robot] = taken.get(clip.robot, 0) + 1
            clips.append(clip)
    found: dict[str, dict[str, Any] | str] = {}
    acts = bench.world.parts.action_schema is not None
    groups = by_robot(clips) if acts else []
    if groups:
        driven, shown = joined([drive(bench, group) for group in groups]), [clip for group in groups for clip in group]
        found["listening"] = listening_numbers([clip.frames for clip in shown], driven)
        true = driven["true"]
        found["read_back"] = _read_back(bench, shown, driven)
    else:
        found["listening"] = found["read_back"] = FEW if acts else "this world takes no actions"
        true, shown = _on_its_own(bench, clips), clips
    world = bench.world
    tokens = [world.encode(clip.frames) for clip in shown]
    found["reality"] = reality_numbers(true.frames, [world.decode(each) for each in tokens], true.tokens, tokens)
    choice = None
    if world.parts.text_tokenizer is not None:
        choice = text_choice_numbers(clips, texts, lambda clip, text: cost(bench.acting(clip), clip, None, text), bench.config.seed)
    found["text_choice"] = choice or "needs a world that reads texts, and held-out clips of two texts or more"
    return found


def _read_back(bench: Bench, clips: Sequence[Clip], driven: Mapping[str, Driven]) -> dict[str, Any] | str:
    if bench.world.parts.inverse_dynamics is None:
        return "this world has no inverse dynamics (wfm train inverse_dynamics=small)"
    if len({clip.robot for clip in clips}) > 1:
        return "needs the clips of one robot alone"
    world = bench.acting(clips[0])
    told, others = ([told_values(world, actions) for actions in driven[kind].actions] for kind in ("true", "shuffled"))
    read, others_read = ([read_values(world, frames) for frames in driven[kind].frames] for kind in ("true", "shuffled"))
    copies = [read_values(world, world.decode(world.encode(clip.frames))) for clip in clips]
    moving = [moving_steps(clip.frames, world.rate) for clip in clips]
    assert world.action_schema is not None, "its actions are read back"
    names = [channel.name for channel in world.action_schema.channels if not channel.constant]
    return read_back_numbers(names, told, read, copies, moving, (others, others_read))


def _on_its_own(bench: Bench, clips: Sequence[Clip]) -> Driven:
    """Rollouts of a world without actions, or of clips without any."""
    acts = bench.world.parts.action_schema is not None
    prompts = [bench.prompt(k, clip, actions=clip.actions if acts else None) for k, clip in enumerate(clips)]
    rolls = list(bench.roll(clips, prompts, guidance="action_guidance", refine=False, name="on its own"))
    return Driven(actions=[], loss=[], frames=[rolled.raw_frames for rolled in rolls], tokens=[rolled.tokens for rolled in rolls])
