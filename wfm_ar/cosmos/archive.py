"""Tensors out of torch's zip archives (`.pt` and TorchScript `.jit`) without running anything that is in them.

The pickle inside is read as data: its opcodes build dictionaries, lists and descriptions of tensors, and every name of a class or
function stays a name. Names that a checkpoint of weights has no use for are refused, so a pickle with code in it is told, never
run; a TorchScript archive's code is not even looked at. Tensors are views of the mapped file: nothing is read before it is used.
"""

import pickletools
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wfm_ar.errors import BadCheckpoint

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_REBUILD = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"}
# What weights are pickled with. `_io.BytesIO` holds Transformer Engine's bookkeeping and stays closed; old pickles make its bytes
# with `_codecs.encode`.
_HARMLESS = _REBUILD | {
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
    "torch.Size",
    "torch.device",
    "_io.BytesIO",
    "_codecs.encode",
}
_DEPTH, _NODES = 64, 1 << 18  # modules within modules, and in all: a dictionary that holds itself has no end
_PICKLE_BYTES = 256 << 20  # of data.pkl, which may be compressed a thousandfold


@dataclass(frozen=True)
class Stored:
    """A tensor in an archive: where its numbers are, and how they lie."""

    record: str
    dtype: torch.dtype
    offset: int  # in numbers
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class Thing:
    """An object of a class that was not looked up."""

    kind: str
    arguments: tuple = ()
    state: Any = None
    items: dict = field(default_factory=dict)


@dataclass(frozen=True)
class _Global:
    name: str


_MARK = object()


class Archive:
    """One archive file. `root` is what was saved: dictionaries, lists, `Stored` and `Thing`."""

    def __init__(self, path: Path) -> None:
        """Raises BadCheckpoint for a truncated archive, one that is no torch archive, and a pickle with more than weights in it."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._records = {one.filename: one for one in archive.infolist()}
                pickles = [name for name in self._records if name.rpartition("/")[2] == "data.pkl" and name.count("/") == 1]
                if len(pickles) != 1:
                    raise BadCheckpoint(f"{path}: a zip file without data.pkl, expected a torch archive; fix: name a .pt or .jit file")
                self.folder = pickles[0].rpartition("/")[0]
                order = f"{self.folder}/byteorder"
                if order in self._records and archive.read(order) != b"little":
                    raise BadCheckpoint(f"{path}: written on a big-endian machine, expected little-endian; fix: save it again elsewhere")
                self.scripted = any(name.startswith(f"{self.folder}/code/") for name in self._records)
                if self._records[pickles[0]].file_size > _PICKLE_BYTES:
                    raise BadCheckpoint(
                        f"{path}: its table of tensors has more than {_PICKLE_BYTES} bytes, expected fewer; fix: get another copy"
                    )
                data = archive.read(pickles[0])
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError, RuntimeError, zlib.error) as error:
            raise BadCheckpoint(f"{path}: truncated or damaged ({error}), expected a torch archive; fix: copy the file again") from None
        self._size = path.stat().st_size
        self._mapped: Any = None  # torch.UntypedStorage, which `set_` takes though its types do not say so
        self.root = _Reader(self, data).value()

    def read(self, stored: Stored) -> Tensor:
        """A view of the mapped file; copy it before the file goes away. Raises BadCheckpoint where the numbers are cut off."""
        start, length = self._place(stored.record)
        item = stored.dtype.itemsize
        last = (
            stored.offset + sum((n - 1) * s for n, s in zip(stored.shape, stored.stride, strict=True)) + 1 if 0 not in stored.shape else 0
        )
        if min(stored.stride, default=0) < 0 or stored.offset < 0 or last * item > length:
            raise BadCheckpoint(f"{self.path}: record {stored.record} is too short for its tensor; fix: copy the file again")
        if not last:
            return torch.empty(stored.shape, dtype=stored.dtype)
        if self._mapped is None:
            self._mapped = torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=self._size)
        empty: Any = torch.empty(0, dtype=torch.uint8)
        flat = empty.set_(self._mapped, start, (length // item * item,))
        if start % item:
            flat = flat.clone()  # archives of torch are aligned; others may not be
        flat = flat.view(stored.dtype)
        return flat.as_strided(stored.shape, stored.stride, flat.storage_offset() + stored.offset)

    def _place(self, record: str) -> tuple[int, int]:
        """(first byte of a record's data in the file, its length)."""
        info = self._records.get(record)
        if info is None:
            raise BadCheckpoint(f"{self.path}: record {record} is missing; fix: copy the file again")
        if info.compress_type != zipfile.ZIP_STORED:
            raise BadCheckpoint(f"{self.path}: record {record} is compressed, expected plain; fix: save it with torch.save")
        with open(self.path, "rb") as file:
            file.seek(info.header_offset)
            header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise BadCheckpoint(f"{self.path}: record {record} is damaged; fix: copy the file again")
        start = info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        if start + info.file_size > self._size:
            raise BadCheckpoint(f"{self.path}: record {record} is cut off; fix: copy the file again")
        return start, info.file_size


class _Reader:
    """A machine of the pickle opcodes that weights are written with, on data alone."""

    def __init__(self, archive: Archive, data: bytes) -> None:
        self.archive, self.data = archive, data
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def value(self) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(self.data):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._do(opcode.name, argument)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadCheckpoint(f"{self.archive.path}: its pickle is damaged ({error}); fix: copy the file again") from None
        raise BadCheckpoint(f"{self.archive.path}: its pickle has no end; fix: copy the file again")

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME"):
            return
        if name == "MARK":
            stack.append(_MARK)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name == "LIST":
            stack.append(self._marked())
        elif name == "DICT":
            items = self._marked()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "APPENDS":
            items = self._marked()
            stack[-1].extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._items(stack[-1])[key] = value
        elif name == "SETITEMS":
            items = self._marked()
            self._items(stack[-1]).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif name == "GLOBAL":
            stack.append(self._global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._global(module, attribute))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, kind = stack.pop(), stack.pop()
            stack.append(self._made(kind, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Thing):
                stack[-1].state = state
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "POP":
            stack.pop()
        elif name.startswith(("BIN", "SHORT_BIN", "LONG", "INT", "FLOAT", "UNICODE", "STRING")):
            stack.append(argument)  # numbers, texts and bytes, already as such
        else:
            raise BadCheckpoint(f"{self.archive.path}: its pickle has opcode {name}, which weights have no use for; fix: save weights only")

    def _marked(self) -> list:
        place = len(self.stack) - 1 - next(i for i, item in enumerate(reversed(self.stack)) if item is _MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    @staticmethod
    def _items(target: Any) -> dict:
        return target.items if isinstance(target, Thing) else target

    def _global(self, module: str, attribute: str) -> _Global:
        name = f"{module}.{attribute}"
        known = name in _HARMLESS or (module in ("torch", "torch.storage") and attribute.removesuffix("Storage") + "Storage" in DTYPES)
        scripted = self.archive.scripted and (module.startswith(("__torch__", "torch.jit")) or name == "torch.jit._pickle.restore_type_tag")
        dtype = module == "torch" and isinstance(getattr(torch, attribute, None), torch.dtype)
        if not (known or scripted or dtype):
            raise BadCheckpoint(
                f"{self.archive.path}: its pickle wants to call {name}, expected weights only; it was refused and nothing was run; "
                "fix: get the file from its publisher, or save its state dict alone"
            )
        return _Global(name)

    def _storage(self, identity: tuple) -> tuple[str, torch.dtype]:
        tag, kind, key = identity[0], identity[1], identity[2]
        if tag != "storage":
            raise BadCheckpoint(f"{self.archive.path}: its pickle refers to {tag!r}, expected storages; fix: save weights only")
        return f"{self.archive.folder}/data/{key}", DTYPES[kind.name.rpartition(".")[2]]

    def _made(self, kind: _Global, arguments: tuple) -> Any:
        if kind.name in _REBUILD:
            (record, dtype), offset, shape, stride = arguments[:4]
            if len(shape) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
                raise ValueError(f"a tensor of shape {shape!r:.40}")
            return Stored(record, dtype, offset, tuple(shape), tuple(stride))
        if kind.name == "torch._utils._rebuild_parameter":
            return arguments[0]
        if kind.name == "collections.OrderedDict":
            return dict(*arguments)
        if kind.name == "torch.Size":
            return tuple(arguments[0]) if arguments else ()
        if kind.name.startswith("torch.jit"):
            return arguments[0] if arguments else None  # a container with its type beside it
        return Thing(kind.name, tuple(arguments) if isinstance(arguments, tuple) else (arguments,))


def named_tensors(root: Any, where: object = "archive", lists: bool = False) -> dict[str, Stored]:
    """The tensors in what an archive holds, by their dotted names: of a state dict, or of a scripted module and its children.

    lists: also those in lists and tuples, by their places. Raises BadCheckpoint for more than weights need.
    """
    found: dict[str, Stored] = {}
    pending, visited = [("", root, 0)], 0
    while pending:
        prefix, node, depth = pending.pop()
        visited += 1
        if visited > _NODES:
            raise BadCheckpoint(f"{where}: its pickle has more than {_NODES} entries, expected weights only; fix: get another copy")
        if isinstance(node, Stored):
            found[prefix] = node
            continue
        inside = node.state if isinstance(node, Thing) else node
        if lists and isinstance(inside, (list, tuple)):
            inside = dict(enumerate(inside))
        if isinstance(inside, dict) and depth < _DEPTH:
            pending += [(f"{prefix}.{key}" if prefix else str(key), value, depth + 1) for key, value in reversed(inside.items())]
    return found
