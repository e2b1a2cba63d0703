"""Tensors as the bytes of a safetensors file, one tensor after the other: nothing is held in memory twice."""

import json
import math
from collections.abc import Iterator

import torch

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def tensor_chunks(tensors: dict[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    """The file's pieces: 8 bytes of length, a JSON header padded to a multiple of 8, then each tensor's bytes, the widest types
    first so that every tensor is aligned. The same tensors give the same bytes."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, offset = {}, 0
    for name in order:
        tensor = tensors[name]
        size = math.prod(tensor.shape) * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        if tensors[name].numel():
            yield tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def first_not_finite(tensors: dict[str, torch.Tensor]) -> str | None:
    """The name of a floating-point tensor with NaN or infinity in it; None where there is none."""
    floats = [(name, t) for name, t in tensors.items() if t.is_floating_point() and t.numel()]
    # x * 0 is 0 unless x is NaN or infinite: one pass without a mask the size of the tensor
    return next((name for name, t in floats if not math.isfinite(float((t.detach() * 0).sum()))), None)
