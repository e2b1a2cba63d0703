"""Which device a verb runs on. Torch is imported when that is asked, so that wrong words are told before."""

from wfm_ar.errors import BadConfig


def device_named(name: str) -> str:
    """ "auto" is CUDA where there is one, else the CPU; "cuda" without a CUDA device raises BadConfig."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise BadConfig("device: got cuda, but torch finds no CUDA device; fix: device=auto")
    return "cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu"
