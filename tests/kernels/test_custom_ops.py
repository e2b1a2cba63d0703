"""The kernels as torch.library ops: opcheck compares schema, fake and real outputs, so torch.compile can see through them."""

import pytest
import torch
from torch.library import opcheck


def attention_case(return_lse, joins=False, counts=False):
    from wfm_kernels.attention.triton import attention_op

    q, k, v = (torch.randn(2, h, n, 32) for h, n in ((4, 2), (2, 40), (2, 40)))
    past = (torch.randn(2, 1, 64), torch.ones(2, 1, 64), torch.randn(2, 1, 64, 32), torch.tensor([9])) if joins else (None,) * 4
    counters = torch.zeros(16, dtype=torch.int32) if counts else None
    numbers = 0.2, 0, 0, 1, 1, 1, 40, 16, return_lse, 2, False
    return attention_op, (q, k, v, torch.tensor([40, 7]), None, None, None, *past, counters, *numbers)


def partials_case(queries):
    from wfm_kernels.attention.triton import attention_partials_op

    q, k, v = torch.randn(1, 4, queries, 32), torch.randn(1, 2, 200, 32), torch.randn(1, 2, 200, 32)
    return attention_partials_op, (q, k, v, torch.tensor([150]), None, None, 0.2, 64, 4, 2)


def rms_norm_case(residual):
    from wfm_kernels.rms_norm.triton import rms_norm_op

    return rms_norm_op, (torch.randn(2, 8), torch.randn(8), torch.randn(2, 8) if residual else None, 1e-6)


def swiglu_case():
    from wfm_kernels.swiglu.triton import swiglu

    return swiglu, (torch.randn(2, 8), torch.randn(2, 8))


def qk_norm_rope_cache_case():
    from wfm_kernels.qk_norm_rope_cache.triton import qk_norm_rope_cache_op

    qkv, weight, table = torch.randn(1, 2, 4 * 8), torch.ones(8), torch.ones(5, 4)
    places, slots = torch.zeros(1, 2, 3, dtype=torch.int64), torch.tensor([[0, 1]])
    caches = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)
    return qk_norm_rope_cache_op, (
        qkv,
        weight,
        weight.clone(),
        table,
        table.clone(),
        places,
        slots,
        *caches,
        2,
        [2, 1, 1],
        None,
        None,
        1e-6,
    )


def sample_case():
    from wfm_kernels.sample.triton import sample_op

    return sample_op, (torch.randn(2, 9), *(torch.arange(2) + n for n in range(3)), None, 1.0, 3, 0.9, 0.0, 1.0)


def cross_entropy_case():
    from wfm_kernels.linear_cross_entropy.triton import rows_in_place

    return rows_in_place, (torch.randn(2, 9), torch.tensor([0, 8]), torch.ones(2), 0.1, True)


CASES = {
    "attention": lambda: attention_case(False),
    "attention with lse": lambda: attention_case(True),
    "attention left in pieces": lambda: partials_case(3),
    "attention left in one piece": lambda: partials_case(40),
    "attention that joins a past and counts in a given place": lambda: attention_case(False, True, True),
    "rms_norm": lambda: rms_norm_case(False),
    "rms_norm with residual": lambda: rms_norm_case(True),
    "swiglu": swiglu_case,
    "qk_norm_rope_cache": qk_norm_rope_cache_case,
    "sample": sample_case,
    "cross_entropy": cross_entropy_case,
}


@pytest.mark.parametrize("name", CASES)
def test_schema_and_fake_fit_the_kernel(name, device):
    op, arguments = CASES[name]()
    arguments = tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments)
    opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))


def test_a_step_of_launchers_is_one_graph_of_torch_compile(device):
    from wfm_kernels.attention.triton import attention
    from wfm_kernels.rms_norm.triton import rms_norm
    from wfm_kernels.sample.triton import sample
    from wfm_kernels.shared_prefix.triton import attention_shared_prefix

    def step(q, k, lengths):
        y = attention_shared_prefix(q, k[0], k[0], k, k, lengths, prefix_length_1=lengths[1:])
        normed, _ = rms_norm(attention(q, k, k, lengths), k[0, 0, 0], residual=y)
        return sample(normed[:, 0, 0], lengths, lengths, lengths, top_k=3)

    q, k, lengths = torch.randn(2, 4, 3, 32, device=device), torch.randn(2, 2, 40, 32, device=device), torch.tensor([40, 7], device=device)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(q, k, lengths), step(q, k, lengths), strict=True):
        assert torch.equal(got, expected)
