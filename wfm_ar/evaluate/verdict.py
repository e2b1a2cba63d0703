"""What a world is good for, in plain words, from the numbers of its report; and what to do next.

Every sentence rests on a number of report.json and says it. Alarms are what makes all other numbers meaningless: collapsed codes, actions
that are ignored, pictures that freeze.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FEWEST_CODES, CODES_SHARE = 4, 0.01  # used codes up to which a codebook has collapsed; that share of those that could be used
POOR_COPY = 24.0  # dB of the tokenizer's own copies below which details are lost
FROZEN, RESTLESS = 0.25, 2.5  # motion of rollouts as a multiple of the truth's
LEAST_MOVING = 0.002  # share of the pixels that move in true clips, below which motion says nothing
COLOUR, SHARPNESS = 12.0, 0.6  # drift: grey levels, and share of the true sharpness
READ_WELL, READ_SHARE = 0.6, 0.7  # r of read-back actions, and its share of the ceiling
FEW_CLIPS = 8  # held-out clips below which an interval is hardly one


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Sentences, most important first."""

    alarms: tuple[str, ...]
    good_for: tuple[str, ...]
    not_good_for: tuple[str, ...]
    next: tuple[str, ...]

    def to_json(self) -> dict[str, list[str]]:
        return {name: list(lines) for name, lines in vars(self).items()}


def judge_world(report: Mapping[str, Any]) -> Verdict:
    """report: sections by name, as far as they were measured."""
    alarms: list[str] = []
    good: list[str] = []
    bad: list[str] = []
    todo: list[str] = []
    _tokens(report.get("tokenizer"), alarms, bad, todo)
    _actions(report.get("listening"), report.get("not_measured", {}).get("listening"), alarms, good, bad, todo)
    _reading(report.get("read_back"), good, bad)
    _motion(report.get("reality"), alarms, good, bad, todo)
    _ahead(report.get("rollout"), good, bad, todo)
    _texts(report.get("text_choice"), good, bad, todo)
    return Verdict(alarms=tuple(alarms), good_for=tuple(good), not_good_for=tuple(bad), next=tuple(dict.fromkeys(todo)))


def _tokens(numbers: Mapping[str, Any] | None, alarms: list[str], bad: list[str], todo: list[str]) -> None:
    if not numbers:
        return
    counts, codes = numbers["sorted_counts"], numbers["codes"]
    used = sum(count > 0 for count in counts)
    if used <= max(min(FEWEST_CODES, codes // 2), CODES_SHARE * min(codes, sum(counts))):
        alarms.append(f"CODES HAVE COLLAPSED: {used} of {codes} are used, so that the tokens hold next to nothing of the pictures")
        todo.append("train the video tokenizer longer, or with a lower stages.video_tokenizer.optimizer.lr")
    elif numbers["psnr"] < POOR_COPY:
        bad.append(f"fine detail: the tokenizer's own copies of true clips reach {numbers['psnr']:.1f} dB")
        todo.append("more steps for the video tokenizer, or a larger size (a larger budget=)")


def _actions(
    numbers: Mapping[str, Any] | None, why: str | None, alarms: list[str], good: list[str], bad: list[str], todo: list[str]
) -> None:
    if not numbers:
        if why:
            bad.append(f"following actions, as far as is known: {why}")
        return
    mean, low, high = numbers["score"]
    told = f"another clip's actions cost {mean:.2f} nats a latent more than the true ones (95 % interval {low:.2f} to {high:.2f})"
    frames = f"{numbers['clips']} held-out clips of {numbers['frames']} frames"
    if low > 0:
        good.append(f"following actions: {told}, {frames}")
        gap = numbers["psnr_gap"]["shuffled"]
        if gap[1] <= 0:
            bad.append(
                f"showing what actions do: under its own actions a rollout is {gap[0]:+.2f} dB nearer to the truth than under others'"
            )
            todo.append("more time for the world model: it has begun to listen")
        return
    if numbers["clips"] < FEW_CLIPS:
        bad.append(f"following actions, as far as {numbers['clips']} held-out clips can tell: {told}")
        todo.append("hold more clips out, to know")
    else:
        alarms.append(f"ACTIONS ARE IGNORED: {told}, {frames}")
    todo.append("more clips in which different actions follow the same beginning (random ones serve), and more time for the world model")


def _reading(numbers: Mapping[str, Any] | None, good: list[str], bad: list[str]) -> None:
    if not numbers:
        return
    for name, row in numbers["channels"].items():
        r, ceiling = row["r_moving"], row["ceiling_moving"]
        told = f"channel {name}: read back from rollouts with r {r:.2f}, from true clips with {ceiling:.2f}"
        if ceiling < READ_WELL:
            continue  # what cannot be read off true clips says nothing of imagined ones
        (good if r >= max(READ_WELL, READ_SHARE * ceiling) else bad).append(told)


def _motion(numbers: Mapping[str, Any] | None, alarms: list[str], good: list[str], bad: list[str], todo: list[str]) -> None:
    if not numbers:
        return
    motion = numbers["motion"]
    if motion is not None and numbers["moving_true"] >= LEAST_MOVING:
        told = f"rollouts move {100 * motion:.0f} % as much as true clips"
        if motion < FROZEN:
            alarms.append(f"PICTURES FREEZE: {told}")
            todo.append("more time for the frame predictor and the world model")
        elif motion > RESTLESS:
            bad.append(f"calm pictures: {told}, things flicker that should stand still")
            todo.append("more time for the world model")
        else:
            good.append(f"motion: {told}")
    if numbers["colour"] > COLOUR or numbers["sharpness"] < SHARPNESS:
        drift = f"colours are {numbers['colour']:.0f} grey levels off, sharpness is {100 * numbers['sharpness']:.0f} % of the truth's"
        bad.append(f"long rollouts: at the end {drift}")
        todo.append("more time for the world model, or shorter rollouts")


def _ahead(numbers: Mapping[str, Any] | None, good: list[str], bad: list[str], todo: list[str]) -> None:
    if not numbers:
        return
    raw, repeat = (numbers["psnr_by_frame"][name] for name in ("raw", "repeat"))
    ahead = 0
    for made, still in zip(raw, repeat, strict=True):
        if made <= still:
            break
        ahead += 1
    if ahead:
        gains = [made - still for made, still in zip(raw, repeat, strict=True)][:ahead]
        good.append(
            f"predicting {ahead} frame{'s' * (ahead > 1)} ahead: nearer to the truth than the first frame by {max(gains):.1f} dB at most"
        )
    if ahead < len(raw):
        bad.append(f"predicting {len(raw)} frames ahead: from frame {ahead + 1} on, repeating the first frame is as near to the truth")
        todo.append("more time for the world model, or more clips")


def _texts(numbers: Mapping[str, Any] | None, good: list[str], bad: list[str], todo: list[str]) -> None:
    if not numbers:
        return
    mean, low, high = numbers["right"]
    share = f"{100 * mean:.0f} % of clips ({100 * low:.0f} to {100 * high:.0f}, chance {100 * numbers['chance']:.0f})"
    told = f"the right text is the likeliest for {share}"
    if low > numbers["chance"]:
        good.append(f"following text: {told}")
    else:
        bad.append(f"following text: {told}")
        todo.append("more clips of each text, and texts that say what can be seen")


def block(verdict: Mapping[str, list[str]]) -> str:
    """The verdict as a terminal shows it."""
    lines = [f"!!! {line}" for line in verdict["alarms"]]
    for name, title in (("good_for", "good for"), ("not_good_for", "not good for"), ("next", "do next")):
        lines += [f"{title if i == 0 else '':<14}{line}" for i, line in enumerate(verdict[name])]
    return "\n".join(lines or ["nothing that a verdict could rest on was measured"]) + "\n"
