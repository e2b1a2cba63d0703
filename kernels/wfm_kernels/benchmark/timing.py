"""Check a case, then time it beside its rivals and beside a copy of the same bytes.

Times are taken in turns (ours, each rival, a copy, and again) so that a busy machine slows all alike. On a CPU they are the CPU
time of one thread (wall time of several) with warm caches: what a rival ran before has emptied them, so a run comes before the clock
starts. On a GPU it is the time a run adds to a replayed graph: one graph holds flush, run, flush, run ..., another the flushes alone,
both are timed by events, and the difference is shared out. A flush reads more than the L2 cache holds, so that a run finds it cold and
clean; what cannot be captured is not timed.
"""

import time
from collections.abc import Callable

import torch

from wfm_kernels.benchmark.registry import Case

ROUNDS, FLUSH_BYTES, SAMPLE_SECONDS, MOST_RUNS = 15, 256 << 20, 2e-3, 10  # of a graph


class WrongNumbers(AssertionError):
    """A case whose result differs from its reference by more than its tolerance; it is not timed."""


def measure(case: Case, device: str, rounds: int = ROUNDS) -> dict:
    """A row of the results. Raises WrongNumbers."""
    expected = case.reference()
    error = _error(case.ours(), expected)
    if not error <= case.tolerance:
        raise WrongNumbers(f"{case.name}: error {error}, allowed {case.tolerance}")
    source = torch.empty(max(case.bytes_moved // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timers, left_out = {"ours": timer(case.ours, device), "copy": timer(lambda: target.copy_(source), device)}, {}
    for name, run in case.rivals.items():
        try:  # a rival may not take a shape, or not be built for this card: say so and go on
            wrong = 0.0 if name in case.randomised else _error(run(), expected)
            if not wrong <= 4 * case.tolerance:
                raise WrongNumbers(f"error {wrong}")
            timers[name] = timer(run, device)
        except Exception as problem:
            left_out[name] = f"{type(problem).__name__}: {problem}".splitlines()[0][:160]
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds + 1):
        for name, once in timers.items():
            seconds[name].append(once())
    seconds = {name: sorted(times[1:]) for name, times in seconds.items()}  # the first round warms up
    median = {name: times[rounds // 2] for name, times in seconds.items()}
    return dict(
        name=case.name,
        max_error=error,
        extra_bytes=_extra_bytes(case.ours) if device == "cuda" else None,
        bytes_moved=case.bytes_moved,
        microseconds={n: dict(median=1e6 * median[n], low=1e6 * t[0], high=1e6 * t[-1]) for n, t in seconds.items()},
        share_of_copy=median["copy"] / median["ours"],
        times_faster_than={name: median[name] / median["ours"] for name in median if name in case.rivals},
        not_run=left_out,
    )


def _extra_bytes(run: Callable[[], object]) -> int:
    """The most that a run holds on the GPU beyond what was there before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return (got.float() - expected.float()).abs().max().item()


def timer(run: Callable[[], object], device: str) -> Callable[[], float]:
    """A function that times one run, in seconds."""
    run()
    if device == "cpu":
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        run()
        repeats = max(1, int(SAMPLE_SECONDS / (clock() - start + 1e-9)))

        def once() -> float:
            run()
            start = clock()
            for _ in range(repeats):
                run()
            return (clock() - start) / repeats

        return once
    source = torch.zeros(FLUSH_BYTES // 4, device=device)
    target = torch.zeros((), device=device)

    def flush() -> None:
        torch.sum(source, 0, out=target)

    def flush_and_run() -> None:
        flush()
        run()

    whole = _seconds_of(flush_and_run, 1)()
    runs = min(MOST_RUNS, max(1, int(SAMPLE_SECONDS / whole)))
    both, flushes = _seconds_of(flush_and_run, runs), _seconds_of(flush, runs)
    return lambda: (both() - flushes()) / runs


def _seconds_of(run: Callable[[], object], repeats: int) -> Callable[[], float]:
    """A function that replays a graph of `repeats` runs and gives the seconds it took on the GPU."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()

    def once() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    once()
    return once
