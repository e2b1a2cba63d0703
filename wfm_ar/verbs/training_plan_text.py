"""The plan of a run as a person reads it: what was chosen, how long each part takes, and what is short."""

import math
from collections.abc import Mapping
from typing import Any

from wfm_ar.train import budget as fitting
from wfm_ar.train import stages
from wfm_ar.train.budget import told_time
from wfm_ar.train.early_stop import Ended

RECOMPUTE = "activation_checkpointing"  # the key of `wfm train`


def block(content: Mapping[str, Any]) -> str:
    """The plan as a person reads it."""
    facts, used, chosen, seconds = (content[key] for key in ("facts", "used", "chosen", "seconds"))
    asked = "as long as the data ask for" if content["budget_s"] is None else told_time(content["budget_s"])
    clips = f"{facts['clips']} clips, {facts['held_out']} held out, {facts['width']}x{facts['height']}, {facts['texts']} texts"
    if used["clips"] < facts["clips"]:
        clips += f"; {used['clips']} of them are used: encoding all would take too much of the time"
    sides = [chosen.get(f"tokenizer.{side}") for side in ("width", "height")]
    picture = "the given size" if None in sides else f"{sides[0]}x{sides[1]} pixels, the shape of the data"
    lines = [
        f"plan: budget {asked}, {content['machine']}",
        f"  data       {clips}; {used['frames']} frames to learn from",
        f"  rate       {content['why']['rate']}",
        f"  camera     {content['why']['camera']}",
        f"  actions    {content['why']['actions']}",
        f"  size       {content['size']}, pictures of {picture}",
        "  part                  steps  seconds a step       takes",
    ]
    for part, taken in seconds.items():
        steps, each = content["steps"].get(part, ""), content["step_s"].get(part)
        each = "" if each is None else f"{each:.3f}"
        lines.append(f"  {part:<18} {steps:>8}  {each:>14}  {told_time(taken):>10}")
    if patience := chosen.get("patience"):
        lines.append(
            f"  a stage ends early where {patience} validations are no better than an earlier one; its time goes to those after it"
        )
    lines += [f"  {name} {Ended(**ended).told()}" for name, ended in content.get("ended_early", {}).items()]
    memory = f"with at most about {content['peak_bytes'] / 2**30:.1f} GiB of memory"
    if room := content.get("room_bytes"):
        memory += f" of the {room / 2**30:.1f} there are"
        if chosen.get(RECOMPUTE):
            lines.append("  memory is short: activations are computed again for their gradients, which takes less of it and more time")
        if content["peak_bytes"] > fitting.ROOM * room:
            lines.append("  TOO LITTLE MEMORY for this: end other programs, or set a smaller batch_size=")
    lines.append(f"  in all {told_time(content['foretold_s'])} as foretold at the start, {memory}")
    wanted = content["wanted"]
    if all(steps >= wanted[name] for name, steps in content["steps"].items()):
        lines.append("  the data can use no more steps than these; more clips could")
    steps, most = content["steps"][stages.WORLD_MODEL], wanted[stages.WORLD_MODEL]
    if content["budget_s"] is not None and "steps" not in content["given"] and steps < fitting.ENOUGH * most:
        minutes = math.ceil(content["sensible_s"] / 60)
        lines.append(
            f"  TOO SHORT: the world model gets {steps} of the {most} steps that the data can use; budget={minutes}m would be sensible here"
        )
    if content["given"]:
        lines.append(f"  set by you: {', '.join(content['given'])}")
    return "\n".join(lines) + "\n"
