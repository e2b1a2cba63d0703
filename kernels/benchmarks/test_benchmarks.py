"""Every registered case: first its numbers against the reference, then its time beside its rivals' and a copy of the same bytes.

Times are taken in turns (ours, each rival, a copy, and again) so that a busy machine slows all alike. On a CPU they are the CPU time
of one thread, warm caches. On a GPU a run is a replayed graph between events, after the L2 cache is flushed.
Run: pytest kernels/benchmarks [--save-results].
"""

import time

import pytest
import torch
from registry import CPU_CASES, GPU_CASES

ROUNDS = 15


def timer(run, device):
    """A function that times one run, in seconds."""
    if device == "cpu":
        run()
        start = time.thread_time()
        run()
        repeats = max(1, int(2e-3 / (time.thread_time() - start + 1e-9)))  # about 2 ms a sample

        def once():
            start = time.thread_time()
            for _ in range(repeats):
                run()
            return (time.thread_time() - start) / repeats

        return once
    run()
    graph, flush = torch.cuda.CUDAGraph(), torch.empty(256 << 20, dtype=torch.uint8, device=device)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        run()

    def once_on_gpu():
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    return once_on_gpu


def cases(device):
    return CPU_CASES if device == "cpu" else GPU_CASES


@pytest.mark.timeout(900)  # a busy machine must not fail a benchmark
@pytest.mark.parametrize("index", range(len(cases("cuda" if torch.cuda.is_available() else "cpu"))))
def test_case(index, device, results, benchmark):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    maker, shape = cases(device)[index]
    case = maker(device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16, **shape)
    error = (case.ours().float() - case.reference().float()).abs().max().item()
    assert error <= case.tolerance, f"{case.name}: error {error}, allowed {case.tolerance}"

    source = torch.empty(max(case.bytes_moved // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    runs = {"ours": case.ours, **case.rivals, "copy": lambda: target.copy_(source)}
    timers = {name: timer(run, device) for name, run in runs.items()}
    seconds = {name: [] for name in runs}
    for once in timers.values():
        once()
    for _ in range(ROUNDS):
        for name, once in timers.items():
            seconds[name].append(once())
    benchmark.pedantic(case.ours, rounds=3, iterations=1)

    median = {name: sorted(times)[ROUNDS // 2] for name, times in seconds.items()}
    row = dict(
        name=case.name,
        max_error=error,
        bytes_moved=case.bytes_moved,
        microseconds={name: dict(median=1e6 * median[name], low=1e6 * min(t), high=1e6 * max(t)) for name, t in seconds.items()},
        share_of_copy=median["copy"] / median["ours"],
        times_faster_than={name: median[name] / median["ours"] for name in case.rivals},
    )
    results.append(row)
    print(f"\n{case.name}: {1e6 * median['ours']:.0f} us, " + ", ".join(f"{r:.2f}x {n}" for n, r in row["times_faster_than"].items()))
