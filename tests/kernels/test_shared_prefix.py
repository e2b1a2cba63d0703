"""`attention_shared_prefix`: equal to the unshared form, and its merge equal to attention over the union."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from wfm_kernels import CAUSAL, FULL, KernelError, Tree, attention_shared_prefix
from wfm_kernels.attention import reference as attention_reference
from wfm_kernels.attention.triton import attention as triton_attention
from wfm_kernels.attention.triton import attention_partials, tile_shape
from wfm_kernels.benchmark.registry import quantised
from wfm_kernels.shared_prefix import cpu, reference
from wfm_kernels.shared_prefix.triton import attention_shared_prefix as triton_shared_prefix


def inputs(device, B=3, N=4, H=2, T=2, P=40, L=20, K=32):
    torch.manual_seed(0)
    return tuple(torch.randn(shape, device=device) for shape in ((B, N, T, K), (H, P, K), (H, P, K), (B, H, L, K), (B, H, L, K)))


@pytest.mark.parametrize("T", [1, 2])
@pytest.mark.parametrize("suffix", [[20, 20, 20], [20, 7, 2]], ids=str)
def test_public_function_equals_unshared(T, suffix, device, assert_close):
    tensors = inputs(device, T=T)
    lengths, prefix = torch.tensor(suffix, device=device), torch.tensor([33], device=device)
    expected = reference.attention_shared_prefix(*tensors, lengths, prefix_length_1=prefix)
    assert_close(attention_shared_prefix(*tensors, lengths, prefix_length_1=prefix), expected)
    without_past = attention_reference.attention(tensors[0], *tensors[3:], lengths)
    assert (expected - without_past).abs().max() > 0.1


@pytest.mark.parametrize("T", [1, 2])
def test_kernel_path_equals_unshared(T, device, assert_close):
    tensors = inputs(device, T=T)
    lengths, prefix = torch.tensor([20, 7, 2], device=device), torch.tensor([33], device=device)
    got = triton_shared_prefix(*tensors, lengths, prefix_length_1=prefix)
    assert_close(got, reference.attention_shared_prefix(*tensors, lengths, prefix_length_1=prefix))


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_quantised_caches(dtype, T, device, assert_close):
    q, *caches = inputs(device, T=T)
    (prefix_k, prefix_k_scale), (prefix_v, prefix_v_scale), (k, k_scale), (v, v_scale) = (quantised(x, dtype) for x in caches)
    prefix_k_scale[:, 33:] = v_scale[1, :, 7:] = float("nan")  # dead
    names = ("prefix_k_scale_HP", "prefix_v_scale_HP", "k_scale_BHL", "v_scale_BHL")
    scales = dict(zip(names, (prefix_k_scale, prefix_v_scale, k_scale, v_scale), strict=True))
    prefix = torch.tensor([33], device=device)
    for suffix in ([20, 7, 3], [20, 7, 20]):
        lengths = torch.tensor(suffix, device=device)
        sound = {name: scale.nan_to_num(1.0) for name, scale in scales.items()}
        expected = reference.attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix, **sound)
        for path in (attention_shared_prefix, triton_shared_prefix):
            assert_close(path(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix, **scales), expected)
    lengths = torch.full((3,), 7, device=device)  # all as long: another way on the CPU
    expected = reference.attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix, **sound)
    assert_close(attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix, **scales), expected)
    plain = reference.attention_shared_prefix(q, *caches, lengths, prefix_length_1=prefix)
    assert 1e-4 < (expected - plain).abs().max() < 0.2


def test_scales_are_for_both_or_for_neither():
    q, prefix_k, prefix_v, k, v = inputs("cpu")
    lengths, prefix = torch.tensor([20, 7, 2]), torch.tensor([33])
    (k8, k_scale), (v8, v_scale) = quantised(k, torch.int8), quantised(v, torch.int8)
    own = dict(k_scale_BHL=k_scale, v_scale_BHL=v_scale, prefix_length_1=prefix)
    with pytest.raises(KernelError, match="prefix_k has dtype torch.float32, expected torch.int8"):
        attention_shared_prefix(q, prefix_k, prefix_v, k8, v8, lengths, **own)
    with pytest.raises(KernelError, match="prefix_k_scale is missing for a torch.int8 cache"):
        attention_shared_prefix(q, prefix_k.to(torch.int8), prefix_v.to(torch.int8), k8, v8, lengths, **own)
    with pytest.raises(KernelError, match="prefix_v_scale is given for a torch.float32 cache"):
        attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix, prefix_v_scale_HP=torch.ones(2, 40))


def test_merge_of_empty_sets():
    a, b = torch.randn(2, 1, 1, 4, 8)
    none = float("-inf")
    lse_a = torch.tensor([[[none, 0.0, none, 1.0]]])
    lse_b = torch.tensor([[[0.0, none, none, 1.0]]])
    a[..., 2, :] = b[..., 2, :] = 0.0  # what attention gives where nothing is seen
    expected = torch.stack([b[0, 0, 0], a[0, 0, 1], torch.zeros_like(a[0, 0, 2]), (a[0, 0, 3] + b[0, 0, 3]) / 2])[None, None]
    torch.testing.assert_close(reference.merge(a, lse_a, b, lse_b), expected)


@pytest.mark.parametrize("length", [50, 3, 0])
@pytest.mark.parametrize("T", [1, 3])
def test_the_launch_folds_what_was_seen_of_other_keys(T, length, device, assert_close):
    """Every way to end either launch, and empty on either side. How the past was cut among blocks changes no bit."""
    q, past_k, past_v, k, v = inputs(device, T=T, P=70)
    B, N, _, K = q.shape
    prefix, lengths = torch.tensor([length], device=device), torch.tensor([20, 7, 0], device=device)
    every = [t[None].expand(B, -1, -1, -1) for t in (past_k, past_v)]
    past, past_lse = attention_reference.attention(q, *every, prefix.expand(B), mask=FULL, return_lse=True)
    own, own_lse = attention_reference.attention(q, k, v, lengths, return_lse=True)
    expected, gotten = reference.merge(past, past_lse, own, own_lse), []
    for splits in (1, 2):  # one block for all of the past, or several
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules["wfm_kernels.attention.triton"], "number_of_splits", lambda *sizes, splits=splits: splits)
            q_1NRK = q.transpose(0, 1).reshape(1, N, B * T, K)
            seen = attention_partials(q_1NRK, past_k[None], past_v[None], prefix, tile_rows=64, chunks=8, stages=2)
        assert seen[0].shape[1] == (1 if splits == 1 else -(-70 // seen[4])) and seen[4] < 70
        one, one_lse = triton_attention(q, k, v, lengths, past=seen, return_lse=True, splits=1, max_length=20)
        torch.testing.assert_close(one_lse, torch.logaddexp(past_lse, own_lse), atol=1e-5, rtol=0)
        for way in (dict(splits=1), dict(splits=2), dict(splits=2, two_launches=True)):
            got = triton_attention(q, k, v, lengths, past=seen, max_length=20, **way)
            assert_close(got, expected)
            assert torch.equal(got, one)
        gotten.append(one)
    assert torch.equal(*gotten)


def test_counters_of_the_caller_are_left_zero(device):
    q, prefix_k, prefix_v, k, v = inputs(device)
    lengths, prefix = torch.tensor([20, 7, 2], device=device), torch.tensor([33], device=device)
    counters = torch.zeros(q.shape[:3].numel(), dtype=torch.int32, device=device)
    expected = triton_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix)
    for _ in range(2):
        assert torch.equal(triton_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix, counters=counters), expected)
        assert torch.equal(triton_attention(q, k, v, lengths, splits=2, counters=counters), triton_attention(q, k, v, lengths, splits=2))
        assert not counters.any()
    with pytest.raises(KernelError, match="counters are .5,., expected .* numbers or more"):
        attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix, counters=counters[:5])


def test_empty_prefix_is_plain_attention(device, assert_close):
    q, prefix_k, prefix_v, k, v = inputs(device)
    lengths, prefix = torch.tensor([20, 7, 2], device=device), torch.tensor([0], device=device)
    got = attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix)
    assert_close(got, attention_reference.attention(q, k, v, lengths))


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("N, own", [(2, 20), (6, 20), (8, cpu.LONG)])
def test_a_row_alone_has_the_bits_of_the_row_in_the_batch(T, N, own, assert_close):
    q, prefix_k, prefix_v, k, v = inputs("cpu", B=37, N=N, T=T, P=300, L=own)
    lengths, prefix = torch.full((37,), own), torch.tensor([290])
    together = attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix)
    for members in ([0], [36], [5, 30], list(range(16)), list(range(3, 36))):
        part = attention_shared_prefix(
            q[members], prefix_k, prefix_v, k[members], v[members], lengths[: len(members)], prefix_length_1=prefix
        )
        assert torch.equal(part, together[members])
    assert_close(together, reference.attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix))


def test_kernel_path_gives_a_row_the_bits_of_the_row_in_the_batch(device, monkeypatch):
    """5 futures of 16 query heads fill a tile of 64 rows, one fills a tile of 16: the past is read in one kind of tile all the same."""
    tiles = []
    module = sys.modules["wfm_kernels.attention.triton"]  # the plain attribute is the function
    monkeypatch.setattr(module, "tile_shape", lambda rows, *rest: tiles.append(tile_shape(rows, *rest)) or tiles[-1])
    tensors = [x.half() for x in inputs(device, N=16, H=1, T=1, B=5, P=130)]
    q, prefix_k, prefix_v, k, v = tensors
    lengths, prefix = torch.tensor([20, 7, 2, 9, 1], device=device), torch.tensor([130], device=device)
    together = triton_shared_prefix(*tensors, lengths, prefix_length_1=prefix)
    # the interpreter's product rounds a row by its place in the tile, a matrix instruction does not: 0 and 4 are first in theirs
    for b in range(5) if q.is_cuda else (0, 4):
        row = slice(b, b + 1)
        alone = triton_shared_prefix(q[row], prefix_k, prefix_v, k[row], v[row], lengths[row], prefix_length_1=prefix)
        assert torch.equal(alone, together[row])
    assert (
        len({tile[0] for i, tile in enumerate(tiles) if i % 3 < 2}) == 1
    )  # of the pass over the past: other tiles have other instructions on a GPU


@pytest.mark.parametrize("mask", [CAUSAL, FULL, Tree(bits_BT=torch.tensor([[1, 3, 5]]).expand(3, -1))], ids=lambda m: type(m).__name__)
def test_masks_of_the_suffix(mask, device, assert_close):
    """Every mask over the private tokens equals the same mask over past and private tokens in one row."""
    q, prefix_k, prefix_v, k, v = inputs(device, T=3)
    if isinstance(mask, Tree):
        mask = Tree(bits_BT=mask.bits_BT.to(device))
    for suffix in ([20, 20, 20], [20, 7, 3]):
        lengths, prefix = torch.tensor(suffix, device=device), torch.tensor([33], device=device)
        whole_k, whole_v = (torch.cat([p[None, :, :33].expand(3, -1, -1, -1), s], 2) for p, s in ((prefix_k, k), (prefix_v, v)))
        got = attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix, mask=mask)
        assert_close(got, attention_reference.attention(q, whole_k, whole_v, lengths + 33, mask=mask))


def test_a_cut_out_of_a_larger_cache_and_dead_slots(assert_close):
    q, prefix_k, prefix_v, k, v = inputs("cpu", B=5, T=1)
    k[:, :, 12:] = v[:, :, 12:] = prefix_k[:, 30:] = prefix_v[:, 30:] = float("nan")
    lengths, prefix = torch.full((3,), 12), torch.tensor([30])
    cut = (q[1:4], prefix_k, prefix_v, k[1:4], v[1:4])
    expected = reference.attention_shared_prefix(*(x.nan_to_num(0.0) for x in cut), lengths, prefix_length_1=prefix)
    assert_close(attention_shared_prefix(*cut, lengths, prefix_length_1=prefix), expected)
    sides = (k[1:4].transpose(0, 1).contiguous().transpose(0, 1), v[1:4].transpose(0, 1).contiguous().transpose(0, 1))
    assert_close(attention_shared_prefix(*cut[:3], *sides, lengths, prefix_length_1=prefix), expected)


def test_what_does_not_fit_is_refused():
    q, prefix_k, prefix_v, k, v = inputs("cpu")
    lengths, prefix = torch.tensor([20, 7, 2]), torch.tensor([33])
    for wrong, message in (
        (dict(prefix_length_1=torch.tensor([41])), "prefix_length is 41, expected 0..40"),
        (dict(prefix_length_1=torch.tensor([3, 3])), r"prefix_length has shape \(2,\)"),
    ):
        with pytest.raises(KernelError, match=message):
            attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, **wrong)
    with pytest.raises(KernelError, match=r"prefix_v has shape \(2, 39, 32\), expected \(2, 40, 32\)"):
        attention_shared_prefix(q, prefix_k, prefix_v[:, 1:], k, v, lengths, prefix_length_1=prefix)


@given(
    st.integers(1, 20), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2]), st.integers(1, 5), st.integers(0, 70), st.integers(0, 30),
    st.sampled_from([8, 24, 32]),
)  # fmt: skip
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
def test_drawn_shapes_on_the_cpu(assert_close, B, group, H, T, past, more, K):
    tensors = inputs("cpu", B=B, N=group * H, H=H, T=T, P=max(past, 1) + 3, L=T + more, K=K)
    lengths = torch.full((B,), T + more) if more % 2 else torch.randint(T, T + more + 1, (B,))
    prefix = torch.tensor([past])
    expected = reference.attention_shared_prefix(*tensors, lengths, prefix_length_1=prefix)
    assert_close(attention_shared_prefix(*tensors, lengths, prefix_length_1=prefix), expected)
