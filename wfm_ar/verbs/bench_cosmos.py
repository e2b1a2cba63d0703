"""`wfm bench cosmos`: speed at the published shapes, beside that of the published code, and on a card the memory they take."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/bench_cosmos.yaml, which explains them; bench checks their values."""

    work: tuple[str, ...]
    networks: tuple[str, ...]
    decoding: str
    steps: int
    repeats: int
    cpu_seconds: bool
    threads: int
    device: str


def run(settings: Settings) -> int:
    """Prints one line a measurement, as they are made."""
    import torch

    from wfm_ar.cosmos.bench import bench
    from wfm_ar.verbs.device import device_named

    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = device_named(settings.device)
    how = settings.steps, settings.repeats, device, settings.cpu_seconds
    for line in bench(settings.work, *how, settings.networks, settings.decoding):
        print(line, flush=True)
    return 0
