"""The files of an imagined clip: mp4 or GIF, contact sheet, tokens, actions, and a JSON that says how it was made."""

import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wfm_ar import __version__
from wfm_ar.data.claims import whole_files
from wfm_ar.data.files import refuse_existing, write_atomic
from wfm_ar.data.json_files import read_json
from wfm_ar.data.video import write_video
from wfm_ar.errors import BadConfig
from wfm_ar.rollout.find_world import SETTINGS, find_world
from wfm_ar.rollout.prompt import Rollout
from wfm_ar.verbs.contact_sheet import write_contact_sheet
from wfm_ar.verbs.device import device_named

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World

ELSEWHERE = ("out", "batch", "batch_size", "overwrite", "device")  # settings that say where, not what
CLIPS = (".mp4", ".gif")
BESIDE = (".png", ".tokens.npy", ".actions.npy", ".json")  # the clip, by the same name


def new_output(verb: str, suffix: str) -> Path:
    """Where the output goes that nobody named: outputs/VERB/<time><suffix>, a name that is not there yet."""
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    numbers = itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    return next(path for number in numbers if not (path := Path("outputs", verb, f"{name}{number}{suffix}")).exists())


def files_of(out: Path) -> list[Path]:
    """The clip and all that may go beside it."""
    return [out, *(out.with_suffix(suffix) for suffix in BESIDE)]


def refuse_existing_outputs(out: Path, overwrite: bool) -> None:
    """Raises OutputExists if any of the files that go with `out` is there; BadConfig if `out` is no .mp4 or .gif."""
    if out.suffix.lower() not in CLIPS:
        raise BadConfig(f"out: got {out}, expected a name that ends in .mp4 or .gif; fix: out={out.with_suffix('.mp4')}")
    for file in files_of(out):
        refuse_existing(file, overwrite)


def made_already(out: Path, about: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the clip is there whole, made by this version from this prompt with these settings; it stays then, and that is said.

    about: as for `write_rollout`. Raises OutputExists where there are other files of these names. With `overwrite` all is made anew.
    """
    try:
        found = read_json(out.with_suffix(".json"))
        names = found["files"]
        whole = all(out.with_name(name).is_file() for name in names) and {out.name} <= set(names)
        same = whole and _pins(found) == _pins(json.loads(json.dumps(about, default=str)))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        same = False
    if not same or overwrite:
        refuse_existing_outputs(out, overwrite)
        return False
    print(f"{out}: made already, as asked; it stays (overwrite=true makes it anew)")
    return True


def _pins(about: Mapping[str, Any]) -> dict[str, Any]:
    """What of a clip's JSON decides how it looks."""
    settings = {key: value for key, value in about["settings"].items() if key not in ELSEWHERE}
    return {"settings": settings} | {key: about[key] for key in ("wfm_ar", "world", "prompt")}


def how_made(name: str, world: "World", device: str) -> dict[str, Any]:
    """What a clip's JSON says beside its settings: code, time, world `name` and machine."""
    import torch

    return {
        "wfm_ar": __version__,
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "world": {"name": world.name, "sha256": hashlib.sha256((find_world(name) / SETTINGS).read_bytes()).hexdigest()},
        "torch": {"version": torch.__version__, "threads": torch.get_num_threads(), "device": device_named(device)},
    }


def write_rollout(
    out: Path,
    rollout: Rollout,
    about: Mapping[str, Any],
    *,
    title: str,
    more_rows: Sequence[tuple[str, np.ndarray]] = (),
    overwrite: bool,
) -> list[Path]:
    """Writes the clip and what goes with it, all or nothing -> the files. `out` is claimed. Where its JSON is, the others are whole.

    more_rows: (label, uint8 [T, H, W, 3]) below those of the clip on the contact sheet. Raises OutputExists, NoSpace.
    """
    files = [file for file in files_of(out) if not file.name.endswith(".actions.npy") or rollout.actions is not None]
    rows = clip_rows(rollout)
    summary = {
        "frames": len(rollout.frames),
        "given_frames": rollout.given_frames,
        "fps": rollout.fps,
        "height": rollout.frames.shape[1],
        "width": rollout.frames.shape[2],
        "refined": rollout.refined,
        "kept_detail": rollout.kept_detail,
        "seed": rollout.seed,
        "clipped_actions": rollout.clipped_actions,
        "seconds_and_rates": rollout.timings,
        "files": [file.name for file in files],
    }
    with whole_files(out, overwrite=overwrite) as part:
        new = part / out.name
        write_video(new, rollout.frames, rollout.fps)
        write_contact_sheet(new.with_suffix(".png"), [*rows, *more_rows], title=title)
        write_array(new.with_suffix(".tokens.npy"), rollout.tokens, overwrite=False)
        if rollout.actions is not None:
            write_array(new.with_suffix(".actions.npy"), rollout.actions, overwrite=False)
        write_json(new.with_suffix(".json"), {**about, **summary}, overwrite=False)
    return files


def clip_rows(rollout: Rollout) -> list[tuple[str, np.ndarray]]:
    """(label, frames uint8 [T, H, W, 3]) of a clip as decoded and, where that is anything else, as shown."""
    rows = [("raw: as the tokenizer decodes the imagined tokens", rollout.raw_frames)]
    made = ["refined by the diffusion decoder"] * rollout.refined + ["the given picture kept where nothing moves"] * rollout.kept_detail
    return rows + [(f"shown: {', '.join(made)}", rollout.frames)] * bool(made)


def write_array(path: Path, array: np.ndarray, *, overwrite: bool) -> None:
    """Writes a .npy file, wholly or not at all."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_atomic(path, content.getvalue(), overwrite=overwrite)


def write_json(path: Path, values: Mapping[str, Any], *, overwrite: bool) -> None:
    """Writes readable JSON, wholly or not at all; paths become text."""
    write_atomic(path, (json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n").encode(), overwrite=overwrite)
