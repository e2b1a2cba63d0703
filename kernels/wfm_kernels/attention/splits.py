"""How many blocks share the keys of one row, so that a few rows fill the device too."""

import functools

import torch


def number_of_splits(blocks: int, max_chunks: int, multiprocessors: int) -> int:
    """Blocks to share one row's keys: 1 once the rows alone fill the device, else about two blocks a multiprocessor."""
    if blocks >= 0.8 * multiprocessors:
        return 1
    return max(1, min(max_chunks, 2 * multiprocessors // blocks))


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Of a CUDA device; the interpreter counts as one with four."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
