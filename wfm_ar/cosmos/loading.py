"""Checkpoint files as names, shapes and tensors on demand; and a network filled from them.

Promises: nothing in a file is run; a file is mapped, not read, and its tensors go one by one to their device and dtype, so that
the host never holds more than the largest tensor beside them; what is missing, extra or misshapen is named in one line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wfm_ar.cosmos.archive import Archive, Stored, named_tensors
from wfm_ar.cosmos.names import Name, names_of, stripped
from wfm_ar.cosmos.shapes import Config, on_meta
from wfm_ar.data.json_files import read_json
from wfm_ar.errors import BadCheckpoint
from wfm_ar.rollout.cosmos_folder import materialise

INDEX_BYTES = 64 << 20  # of a list of shards
SHOWN = 6  # wrong tensors named in a message
_SAFE_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor of a file that has not been read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None: a kind that weights do not come in
    read: Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Some files as one table of published names; wrappers' prefixes and buffers that are no weights are left out."""

    paths: tuple[Path, ...]
    format: str
    entries: Mapping[str, Entry]

    @property
    def where(self) -> str:
        return " + ".join(str(path) for path in self.paths)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}


def open_checkpoint(*paths: str | Path) -> Checkpoint:
    """One checkpoint of one or several files (encoder.jit and decoder.jit), or of a sharded safetensors index.

    Raises BadCheckpoint for a file that is none of the known kinds, is damaged, or holds code.
    """
    opened = [_open(Path(path)) for path in paths]
    entries: dict[str, Entry] = {}
    for one in opened:
        entries |= {new: one.entries[old] for old, new in stripped(one.entries).items()}
    files = tuple(path for one in opened for path in one.paths)
    return Checkpoint(paths=files, format=" + ".join(sorted({one.format for one in opened})), entries=entries)


def open_tensors(path: str | Path) -> list[Tensor]:
    """The tensors of a small file in their order, such as mean_std.pt, whatever they are called. Raises BadCheckpoint."""
    path = Path(path)
    if not _is_zip(path):
        return [entry.read() for entry in _open(path).entries.values()]
    archive = Archive(path)
    return [archive.read(stored).clone() for stored in named_tensors(archive.root, path, lists=True).values()]


def _is_zip(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error.strerror}), expected a checkpoint; fix: check the path") from None


def _open(path: Path) -> Checkpoint:
    if path.is_dir():
        index = sorted(path.glob("*.safetensors.index.json"))
        if len(index) != 1:
            raise BadCheckpoint(f"{path}: a folder with {len(index)} safetensors indexes, expected one; fix: name the file itself")
        path = index[0]
    if path.name.endswith(".index.json"):
        return _open_sharded(path)
    if _is_zip(path):
        archive = Archive(path)
        root = archive.root
        if isinstance(root, dict):
            root = next((root[key] for key in ("model", "state_dict") if isinstance(root.get(key), dict)), root)
        entries = {name: _archived(archive, stored) for name, stored in named_tensors(root, path).items()}
        return Checkpoint(paths=(path,), format="TorchScript archive" if archive.scripted else "torch archive", entries=entries)
    with open(path, "rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return Checkpoint(paths=(path,), format="safetensors", entries=_safe_entries(path))
    if head[:1] == b"\x80":
        raise BadCheckpoint(
            f"{path}: a bare pickle, expected a torch archive or safetensors; it was not run; "
            "fix: torch.save of torch 1.6 or later, or safetensors"
        )
    raise BadCheckpoint(f"{path}: no checkpoint of a known kind, expected .pt, .jit or .safetensors; fix: copy the file again, whole")


def _archived(archive: Archive, stored: Stored) -> Entry:
    return Entry(shape=stored.shape, dtype=stored.dtype, read=lambda: archive.read(stored))


def _safe_entries(path: Path) -> dict[str, Entry]:
    try:
        file = safe_open(path, framework="pt")
        entries = {}
        for name in file.keys():
            part = file.get_slice(name)
            dtype = _SAFE_DTYPES.get(part.get_dtype())
            entries[name] = Entry(shape=tuple(part.get_shape()), dtype=dtype, read=lambda name=name: file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path}: truncated or damaged ({error}), expected safetensors; fix: copy the file again") from None
    return entries


def shards_of(path: Path) -> tuple[list[str], dict[str, str]]:
    """(files, file by tensor) of a safetensors index. Raises BadCheckpoint."""
    try:
        placed = read_json(path, INDEX_BYTES)["weight_map"]
        return sorted({"".join((name,)) for name in placed.values()}), placed  # join: names are texts
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{path}: no index of shards ({error}), expected a weight_map; fix: copy the file again") from None


def _open_sharded(path: Path) -> Checkpoint:
    files, placed = shards_of(path)
    if any("/" in str(name) or "\\" in str(name) or str(name) in ("", "..") for name in files):
        raise BadCheckpoint(f"{path}: a shard lies outside its folder, expected plain file names; fix: get another copy")
    if absent := [name for name in files if not (path.parent / name).is_file()]:
        raise BadCheckpoint(f"{path}: shards {', '.join(absent[:SHOWN])} are missing, expected {len(files)}; fix: copy them beside it")
    entries = {}
    for name in files:
        entries |= {key: entry for key, entry in _safe_entries(path.parent / name).items() if placed.get(key) == name}
    if lost := sorted(placed.keys() - entries.keys()):
        raise BadCheckpoint(f"{path}: tensors {', '.join(lost[:SHOWN])} are not in their shards; fix: copy the shards again")
    return Checkpoint(paths=(path,), format=f"safetensors in {len(files)} shards", entries=entries)


def check_names(names: Sequence[Name], checkpoint: Checkpoint, what: str) -> None:
    """Raises BadCheckpoint, all in one line, unless the checkpoint holds exactly the tensors `names` want, as floats."""
    expected = {name: shape for one in names for name, shape in one.shapes().items()}
    wrong = [f"{name} is missing" for name in expected.keys() - checkpoint.entries.keys()]
    wrong += [f"{name} is not known" for name in checkpoint.entries.keys() - expected.keys()]
    for name in expected.keys() & checkpoint.entries.keys():
        entry = checkpoint.entries[name]
        if entry.shape != expected[name]:
            wrong.append(f"{name} is {list(entry.shape)}, expected {list(expected[name])}")
        elif entry.dtype is None or not entry.dtype.is_floating_point:
            wrong.append(f"{name} is {entry.dtype or 'of an unknown kind'}, expected floats")
    if wrong:
        shown = "; ".join(sorted(wrong)[:SHOWN]) + (f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else "")
        raise BadCheckpoint(f"{checkpoint.where}: {shown}; fix: the file of {what}, whole")


def joined(name: Name, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """One of our tensors from its published pieces, copied into place."""
    out = torch.empty(name.shape, dtype=dtype, device=device)
    row = 0
    for published, rows in zip(name.published, name.rows, strict=True):
        out[row : row + rows].copy_(checkpoint.entries[published].read())
        row += rows
    return out


def load_published(
    config: Config, checkpoint: Checkpoint, what: str = "the model", dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> nn.Module:
    """The network with a checkpoint's weights, in evaluation mode. Raises BadCheckpoint where they do not fit it."""
    module = on_meta(config)
    names = names_of(config)
    check_names(names, checkpoint, what)
    by_ours = {name.ours: name for name in names}
    return materialise(module, lambda ours: joined(by_ours[ours], checkpoint, dtype, device), device)


def read_mean_std(path: str | Path, channels: int) -> tuple[Tensor, Tensor]:
    """The continuous tokenizer's statistics file: two tensors of channels x latents numbers each -> (mean, std) float32 [c, k].

    Raises BadCheckpoint for anything else.
    """
    tensors = open_tensors(path)
    if len(tensors) != 2 or tensors[0].numel() != tensors[1].numel() or tensors[0].numel() % channels or not tensors[0].numel():
        found = [list(tensor.shape) for tensor in tensors[:SHOWN]]
        raise BadCheckpoint(
            f"{path}: got tensors {found}, expected a mean and a std of {channels} channels; fix: the file beside the tokenizer"
        )
    mean, std = (tensor.float().reshape(channels, -1) for tensor in tensors)
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise BadCheckpoint(f"{path}: got a std of 0 or less, or numbers that are not finite; fix: copy the file again")
    return mean, std
