"""Settings that name worlds and data sets on the hub, with the folders they were downloaded to instead: once for a whole command, so that
all of it works on one commit."""

import os
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from wfm_ar.data.hub import DATASETS, address_of, download
from wfm_ar.data.hub import MODELS as WORLDS
from wfm_ar.rollout.find_world import find_world

KINDS = dict.fromkeys(("world", "init"), WORLDS) | dict.fromkeys(("data", "src", "path", "dynamics_data", "policy_data"), DATASETS)
T = TypeVar("T")


def with_downloads(settings: T) -> T:
    """The settings of a verb, or of a part of them. Raises what `find_world` and `download` do."""
    changed, whole = {}, cast("Any", settings)
    for field in fields(whole):
        before = getattr(settings, field.name)
        after = before
        if is_dataclass(before):
            after = with_downloads(before)
        elif before is not None and field.name in KINDS:
            after = _downloaded(str(before), KINDS[field.name])
            after = before if after == str(before) else type(before)(after)
        if after is not before:
            changed[field.name] = after
    return replace(whole, **changed) if changed else settings


def _downloaded(value: str, kind: str) -> str:
    if kind == WORLDS:
        return str(find_world(value)) if address_of(value, kind) else value
    parts: list[str] = []
    for part in value.split(os.pathsep):  # several sets are one; the : of an address parts nothing
        if parts and parts[-1] == "hf" and part.startswith("/"):
            parts[-1] = f"hf:{part}"
        else:
            parts.append(part)
    addresses = [address_of(part, kind) for part in parts]
    return os.pathsep.join(str(download(address)) if address else part for address, part in zip(addresses, parts, strict=True))
