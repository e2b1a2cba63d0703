"""Every case of wfm_kernels.benchmark.registry: first its numbers, then its time. Run: pytest kernels/benchmarks [--save-results]."""

import pytest
import torch
from wfm_kernels.benchmark import case_name, cases, dtype_of, measure

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.timeout(900)  # a busy machine must not fail a benchmark
@pytest.mark.parametrize(("maker", "shape"), cases(DEVICE), ids=[case_name(*each) for each in cases(DEVICE)])
def test_case(maker, shape, device, results, benchmark):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    case = maker(device=device, dtype=dtype_of(device), **shape)
    row = measure(case, device)
    benchmark.pedantic(case.ours, rounds=3, iterations=1)
    results.append(row)
    ratios = ", ".join(f"{ratio:.2f}x {name}" for name, ratio in row["times_faster_than"].items())
    print(f"\n{case.name}: {row['microseconds']['ours']['median']:.0f} us, {ratios}")
