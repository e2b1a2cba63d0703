"""`wfm push`: a world to the Hugging Face hub, with a model card made from its report."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfm_ar.data.files import sha256_of
from wfm_ar.data.hub import MODELS, address_of, upload
from wfm_ar.data.json_files import read_json
from wfm_ar.errors import BadCheckpoint, BadConfig, BadData
from wfm_ar.evaluate.model_card import model_card, read_report
from wfm_ar.rollout.find_world import SETTINGS, SETTINGS_BYTES, find_world, listed_files
from wfm_ar.schema import ActionSchema

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World

CARD, REPORT = "README.md", "report.json"
CARD_BYTES = 4 << 20
CAME_WITH_IT = "These numbers came with the world, and were taken before its world.json, which holds its card's hash, was last written."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/push.yaml, which explains them."""

    world: str
    to: str
    report: Path | None
    license: str | None
    private: bool
    message: str | None

    def __post_init__(self) -> None:
        if address_of(self.to, MODELS) is None:
            raise BadConfig(f"to: got {self.to!a:.120}, expected hf://owner/name; fix: name a repository of the hub")
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,60}", self.license):
            raise BadConfig(f"license: got {self.license!a:.80}, expected a name such as apache-2.0; fix: see the hub's list of licences")


def run(settings: Settings) -> int:
    """Checks the world as if it were to be used, and uploads what its world.json lists."""
    address, folder = address_of(settings.to, MODELS), find_world(settings.world)
    assert address is not None, "looked at before"
    listed = listed_files(folder / SETTINGS)
    facts = _checked(folder, listed)
    path, report, note = _report(settings.report, folder)
    card = model_card(address.name, settings.to, facts, report, license=settings.license, made=_made(folder), note=note).encode()
    files: dict[str, Path | bytes] = {name: folder / name for name in listed}
    files[CARD], files[SETTINGS] = card, _settings(folder, card)
    if path is not None:
        files[REPORT] = path
    commit = upload(address, files, private=settings.private, message=settings.message or f"wfm push: {folder.name}")
    size = sum(len(one) if isinstance(one, bytes) else one.stat().st_size for one in files.values())
    print(
        f"hf://{address.repository}@{commit}: {len(files)} files, {size / 1e6:.1f} MB; try: wfm generate world={settings.to} out=first.mp4"
    )
    if report is None:
        print("its card says that it was not measured; `wfm evaluate` measures it, and report=.../report.json puts that on the card")
    return 0


def _checked(folder: Path, listed: dict[str, Any]) -> list[str]:
    """What there is to say of the world. Raises BadCheckpoint for one that nobody could load."""
    from wfm_ar.cosmos.describe import describe_world
    from wfm_ar.rollout.world import load_world
    from wfm_ar.rollout.world_files import verify_files

    if (lines := describe_world(folder)) is not None:  # without its gigabytes
        verify_files(folder, listed)
        return [f"{lines[0].partition(': ')[2]}."]
    return _facts(load_world(folder))


def _facts(world: "World") -> list[str]:
    schema = world.parts.action_schema
    facts = [f"{world.width} x {world.height} pixels at {world.fps:g} frames a second."]
    facts += ["It takes texts."] if world.parts.text_tokenizer else []
    robots = [] if schema is None else [schema] if isinstance(schema, ActionSchema) else [one for _, one in schema.embodiments]
    widths = " or ".join(str(one.width) for one in robots)
    return [*facts, f"It takes actions of {widths} channels." if robots else "It takes no actions."]


def _report(named: Path | None, folder: Path) -> tuple[Path | None, dict[str, Any] | None, str]:
    """-> (the report for the card, its content, what to say of it). Raises BadData for a named one of another world."""
    own = sha256_of(folder / SETTINGS)
    for path in [named] if named else [folder / REPORT, folder.parent / "verdict" / REPORT]:
        if not named and not path.is_file():
            continue
        report = read_report(path)
        if (of := report["world_sha256"]) == own:
            return path, report, ""
        if named:
            raise BadData(
                f"{path}: is of a world.json of sha256 {of:.64}, expected {own}; fix: evaluate this world, or name its own report"
            )
        if path.parent == folder:
            return path, report, CAME_WITH_IT
    return None, None, ""


def _made(folder: Path) -> str:
    """The world's own card without a heading of its own, and without what an earlier push put around it."""
    path = folder / CARD
    if not path.is_file():
        return "Not told."
    try:
        text = path.read_bytes()[:CARD_BYTES].decode()
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error}), expected text in UTF-8; fix: copy the world again") from None
    text = text.rpartition("\n## How it was made\n")[2]
    return re.sub(r"\A\s*# .*\n", "", text)


def _settings(folder: Path, card: bytes) -> bytes:
    """world.json with the size and hash of the new card."""
    content = read_json(folder / SETTINGS, SETTINGS_BYTES)
    content["files"][CARD] = {"bytes": len(card), "sha256": hashlib.sha256(card).hexdigest()}
    return json.dumps(content, indent=1).encode()
