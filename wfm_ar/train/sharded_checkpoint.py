"""The tensors of a checkpoint written by several ranks: each its own shards, through torch.distributed.checkpoint's safetensors
storage. Its other storage describes itself in a pickle and is not used.

All groups go into one folder of files `shard-00001-model-00002-of-00003.safetensors` (rank, group); a tensor is called
`group/name`, and where in the whole tensor a shard belongs stands in the file's own header. Any number of ranks, one included,
can read them: they are put together again here, or cut anew by `placed_like`.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from wfm_ar.errors import BadCheckpoint


def is_sharded(files: list[Path]) -> bool:
    """Whether these are files of `save_shards`."""
    return any(path.name.startswith("shard-") for path in files)


def save_shards(folder: Path, tensors: dict[str, dict[str, torch.Tensor]]) -> None:
    """Every rank writes what it holds of `tensors` (DTensors, or plain tensors that are equal everywhere). Called by all ranks.

    Raises OSError (on every rank, whichever it befell).
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    flat = {f"{group}/{name}": tensor for group, named in tensors.items() for name, tensor in named.items()}
    files = {key: 1 + list(tensors).index(key.partition("/")[0]) for key in flat}
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=files, save_distributed=True)
    try:
        save(flat, storage_writer=writer)
    except CheckpointException as error:
        causes = {rank: cause[0] for rank, cause in error.failures.items()}
        raise OSError("; ".join(f"rank {rank}: {cause}" for rank, cause in sorted(causes.items()))) from error


def load_shards(folder: Path, files: list[Path], groups: tuple[str, ...] | None = None) -> dict[str, dict[str, torch.Tensor]]:
    """{group: {name: whole tensor}} on the CPU. The shards must tile every tensor: checked before anything is allocated.

    Raises BadCheckpoint.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    for path in files:
        _check_offsets(path)
    found: dict[str, Any] = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors: dict[str, torch.Tensor] = {}
    for key, about in found.items():
        if sum(math.prod(chunk.sizes) for chunk in about.chunks) != math.prod(about.size):
            raise BadCheckpoint(f"{folder}: the shards of {key} do not make up {tuple(about.size)}; fix: use another checkpoint")
        if groups is None or key.partition("/")[0] in groups:
            tensors[key] = torch.empty(about.size, dtype=about.properties.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not ask other ranks is what we want
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    whole: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        whole.setdefault(group, {})[name] = tensor
    return whole


def placed_like(tensor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """A whole tensor as `own` is: on its device, and this rank's part of it where `own` is a DTensor. No communication."""
    tensor = tensor.to(own.device)
    if not hasattr(own, "device_mesh"):  # asked like this, one process need not import torch.distributed.tensor
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(own, DTensor)
    return distribute_tensor(tensor, own.device_mesh, own.placements, src_data_rank=None)


def _check_offsets(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        about: Any = json.loads((file.metadata() or {}).get("DCP_SHARDING_INFO", "null"))
        for key in file.keys():
            shape = file.get_slice(key).get_shape()
            offsets = about[key]["saved_offsets"] if isinstance(about, dict) and key in about else None
            if not (isinstance(offsets, list) and len(offsets) == len(shape) and all(type(o) is int and 0 <= o < 2**40 for o in offsets)):
                raise BadCheckpoint(f"{path}: does not say where {key} belongs; fix: use another checkpoint")
