"""`wfm bench`: the kernels' benchmarks, the registry that `pytest kernels/benchmarks` runs."""

from dataclasses import dataclass
from pathlib import Path

from wfm_ar.plain_text import print_lines


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/bench.yaml, which explains them."""

    only: str
    rounds: int
    threads: int
    device: str
    out: Path | None
    overwrite: bool


def run(settings: Settings) -> int:
    """Prints a table as it is made; with `out` also writes JSON. Raises BadConfig, OutputExists, WfmError for wrong numbers."""
    from contextlib import nullcontext

    from wfm_ar.data.claims import claim
    from wfm_ar.data.files import refuse_existing

    with nullcontext() if settings.out is None else claim(settings.out):
        if settings.out is not None:
            refuse_existing(settings.out, settings.overwrite)
        return _run(settings)


def _run(settings: Settings) -> int:
    import json

    import torch
    from wfm_kernels.benchmark import about_machine, case_name, cases, dtype_of, goals_table, measure, table
    from wfm_kernels.benchmark.timing import WrongNumbers

    from wfm_ar.data.files import write_atomic
    from wfm_ar.errors import BadConfig, WfmError
    from wfm_ar.verbs.device import device_named

    if settings.rounds < 1 or settings.threads < 1:
        raise BadConfig(f"rounds, threads: got {settings.rounds} and {settings.threads}, expected at least 1 each; fix: leave them out")
    device = device_named(settings.device)
    names = [case_name(maker, shape) for maker, shape in cases(device)]
    chosen = [case for case, name in zip(cases(device), names, strict=True) if settings.only in name]
    if not chosen:
        raise BadConfig(f"only: got {settings.only!r}, which is in no case; expected part of one of: {'; '.join(names)}; fix: leave it out")
    torch.set_num_threads(settings.threads)
    rows = []
    for maker, shape in chosen:
        torch.manual_seed(0)
        try:
            rows.append(measure(maker(device=device, dtype=dtype_of(device), **shape), device, settings.rounds))
        except WrongNumbers as error:
            raise WfmError(f"{error}; expected the reference's numbers, so nothing was timed; fix: this is a fault of the kernel") from None
        print(f"{len(rows)} of {len(chosen)}: {rows[-1]['name']}", flush=True)
    record = about_machine(device) | {"rows": rows}
    print_lines("\n" + table(record))
    if not settings.only:
        print_lines("\n" + goals_table(device, rows))
    if settings.out is not None:
        write_atomic(settings.out, (json.dumps(record, indent=1) + "\n").encode(), overwrite=settings.overwrite)
    return 0
