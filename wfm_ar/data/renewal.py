"""Keeping a token store true to its data: what was made from other frames, actions or texts is set aside and made again.

A store lists for every clip what it was made from (fingerprint.py). Before it is written, that is compared with the data as they
are now. A shard whose clips are no longer those wanted is renamed to `.stale-shard-...`; while the store is written again, the
tokens of clips whose frames are the same are taken from there, and when it is whole, the set-aside shards are deleted. All this can
be interrupted anywhere and goes on at the next try.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wfm_ar.data.files import as_wfm_error, write_atomic
from wfm_ar.data.fingerprint import Origin
from wfm_ar.data.shards import DESCRIPTION, TokenClip, TokenStore, description, locked, origin_of, read_description, read_index
from wfm_ar.errors import BadData

NAMED = 3  # ids that a line names of each kind


class SetAside:
    """The clips of the shards that were set aside: `find` gives those whose tokens still hold.

    about: what the store is to say of itself: clips must have images where it says so, and be of the same tokenizer.
    """

    def __init__(self, root: Path, about: dict):
        self._images = about["images"]
        self._place: dict[str, tuple[TokenStore, int]] = {}
        for folder in sorted(root.glob(".stale-*")):
            try:
                store = TokenStore(folder)
            except BadData:  # set aside because it is damaged, or by a process that was killed while it did so
                continue
            if store.about.get("tokenizer") == about.get("tokenizer"):
                self._place |= {origin.frames: (store, i) for i, origin in enumerate(store.origins) if origin is not None}

    def find(self, frames: str) -> TokenClip | None:
        """The clip made from these frames; None where there is none."""
        store, i = self._place.get(frames, (None, 0))
        clip = None if store is None else store[i]
        return None if clip is None or (self._images and clip.images is None) else clip


class Renewal(NamedTuple):
    """about: what the store is to say of itself. changes: a line on what changed in the data, "" where nothing did."""

    about: dict
    aside: SetAside
    changes: str


def renew(root: Path, about: dict, wanted: list[Origin], per_shard: int, same_maker: Callable[[dict], bool]) -> Renewal:
    """Sets aside the shards of the store at `root` that are not made from `wanted`; `write_store` then makes what is missing.

    about: what `write_store` would be told, with a key "images"; a store that has images keeps having them. same_maker: whether a
    store that says this of itself was made by the same tokenizer. Raises BadData where it was not.
    """
    described, kept, stale = root / DESCRIPTION, [], []
    if not described.exists():
        return Renewal(about, SetAside(root, about), "")
    try:
        with locked(root / ".lock-store", True):
            found = read_description(described)
            if not same_maker(found):
                raise BadData(f"{root}: holds tokens of another tokenizer; fix: delete it or choose another folder")
            without_images = about["images"] and not found.get("images")
            about = about | {"images": about["images"] or bool(found.get("images"))}
            for shard in sorted(root.glob("shard-*")):
                number, made = int(shard.name.removeprefix("shard-")), [origin_of(clip) for clip in read_index(shard)["clips"]]
                if without_images or made != wanted[number * per_shard : (number + 1) * per_shard]:
                    _set_aside(shard, found)
                    stale += made
                else:
                    kept += made
            write_atomic(described, json.dumps(description(about, len(wanted), per_shard), indent=1).encode(), overwrite=True)
            aside = SetAside(root, about)
    except OSError as error:
        raise as_wfm_error(error, root) from error
    return Renewal(about, aside, _changes(root, kept, stale, wanted, aside))


def drop_set_aside(root: Path) -> None:
    """The store is whole: what was set aside is not needed any more."""
    for folder in root.glob(".stale-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _set_aside(shard: Path, about: dict) -> None:
    """The shard becomes a store of its own, under a hidden name."""
    folder = shard.with_name(f".stale-{secrets.token_hex(4)}")
    folder.mkdir()
    write_atomic(folder / DESCRIPTION, json.dumps(about | {"shards": 1}).encode())
    os.rename(shard, folder / "shard-00000")


def _changes(root: Path, kept: list[Origin], stale: list[Origin | None], wanted: list[Origin], aside: SetAside) -> str:
    """One line: what the data have that the store had otherwise, and how many clips are encoded anew; "" where all is as it was."""
    if not stale:
        return ""
    missing = set(wanted) - set(kept)
    anew = sum(origin in missing and aside.find(origin.frames) is None for origin in wanted)
    encoded = f"{anew} of {len(wanted)} clips are encoded anew"
    if None in stale:
        return f"{root}: an earlier version wrote it and does not say what from; {encoded}"
    known = {origin.id: origin for origin in (*kept, *stale) if origin is not None}
    now = {origin.id for origin in wanted}
    both = [(known[origin.id], origin) for origin in wanted if origin.id in known]
    kinds = {
        "with other frames": [new.id for old, new in both if old.frames != new.frames],
        "with other actions": [new.id for old, new in both if old.actions != new.actions],
        "with another text": [new.id for old, new in both if old.text != new.text],
        "new": [origin.id for origin in wanted if origin.id not in known],
        "gone": [name for name in known if name not in now],
    }
    told = ", ".join(f"{len(ids)} {kind} ({_named(ids)})" for kind, ids in kinds.items() if ids)
    if told:
        return f"{root}: the data have changed since they were encoded: {told}; {encoded}"
    return f"{root}: held no images, and some are asked for; {encoded}" if anew else ""


def _named(ids: list[str]) -> str:
    return ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
