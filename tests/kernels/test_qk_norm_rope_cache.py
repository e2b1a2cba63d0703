"""`qk_norm_rope_cache`: kernel against reference, the rotation's meaning, quantised caches, refusals."""

import pytest
import torch
from wfm_kernels import KernelError, attention, qk_norm_rope_cache
from wfm_kernels.qk_norm_rope_cache import reference
from wfm_kernels.qk_norm_rope_cache.triton import qk_norm_rope_cache as triton_op

B, T, N, H, K, L, P, AXES = 2, 3, 4, 2, 24, 10, 16, (4, 4, 4)
SLOTS = [[0, 1, 9], [5, -1, 4]]


def inputs(device, dtype=torch.float32, cache_dtype=None):
    torch.manual_seed(0)
    angle = torch.arange(P)[:, None] / 10.0 ** torch.linspace(0, 1, K // 2)
    tensors = dict(
        qkv_BTE=torch.randn(B, T, (N + 2 * H) * K + 8).to(dtype)[..., : (N + 2 * H) * K],
        q_weight_K=torch.rand(K) + 0.5,
        k_weight_K=torch.rand(K) + 0.5,
        cos_PF=angle.cos(),
        sin_PF=angle.sin(),
        positions_BT3=torch.randint(-1, P, (B, T, 3)),
        slots_BT=torch.tensor(SLOTS),
        k_cache_BHLK=torch.zeros(B, H, L, K, dtype=cache_dtype or dtype),
        v_cache_BHLK=torch.zeros(B, H, L, K, dtype=cache_dtype or dtype),
    )
    if cache_dtype:
        tensors |= dict(k_scale_BHL=torch.zeros(B, H, L), v_scale_BHL=torch.zeros(B, H, L))
    return {name: tensor.to(device) for name, tensor in tensors.items()} | dict(heads=N, axes=AXES)


def written(arguments):
    return [arguments[n] for n in ("k_cache_BHLK", "v_cache_BHLK")]


@pytest.mark.parametrize("path", [triton_op, qk_norm_rope_cache], ids=["kernel", "public"])
def test_kernel_and_public_function_equal_the_reference(path, dtype, device, assert_close):
    ours, theirs = inputs(device, dtype), inputs(device, dtype)
    assert_close(path(**ours), reference.qk_norm_rope_cache(**theirs), spread=2.0)
    for got, expected in zip(written(ours), written(theirs), strict=True):
        assert_close(got, expected, spread=2.0)
        assert expected[0, :, [0, 1, 9]].abs().min() > 0 and expected[0, :, 2:9].abs().max() == 0  # only the slots named
        assert expected[1, :, [4, 5]].abs().min() > 0 and expected[1, :, 6:].abs().max() == 0  # -1 is not written, not even at L - 1


@pytest.mark.parametrize("cache_dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_quantised_write_equals_reference_and_loses_little(cache_dtype, device):
    ours, theirs, plain = inputs(device, cache_dtype=cache_dtype), inputs(device, cache_dtype=cache_dtype), inputs(device)
    q, expected_q = triton_op(**ours), reference.qk_norm_rope_cache(**theirs)
    reference.qk_norm_rope_cache(**plain)
    torch.testing.assert_close(q, expected_q)
    for name in ("k", "v"):
        torch.testing.assert_close(ours[f"{name}_scale_BHL"], theirs[f"{name}_scale_BHL"])
        # a value on the edge between two stored ones may fall either way: one step of the format, now and then
        stored, expected = (a[f"{name}_cache_BHLK"].float() for a in (ours, theirs))
        if cache_dtype == torch.float8_e4m3fn and device.type == "cpu":
            # the interpreter's cast forgets the carry when rounding up to a power of two: 127.9 becomes 64
            stored = torch.where(2 * stored == expected, expected, stored)
        step = torch.ones_like(expected) if cache_dtype == torch.int8 else (expected.abs() / 8).clamp(min=2.0**-9)
        assert ((stored - expected).abs() <= step).all()
        assert (stored != expected).float().mean() < 0.05
        value = stored * ours[f"{name}_scale_BHL"][..., None]
        exact = plain[f"{name}_cache_BHLK"]
        assert (value - exact).abs().max() <= exact.abs().max() * (0.51 / 127 if cache_dtype == torch.int8 else 1 / 15)
        assert exact.abs().max() > 1


def test_attention_scores_depend_on_relative_positions_only():
    scores = []
    for shift in (0, 5):
        arguments = inputs("cpu")
        arguments["positions_BT3"] = torch.tensor([[[1, 2, 3], [2, 0, 1], [4, 4, 4]]] * B) + shift
        q = qk_norm_rope_cache(**arguments)
        scores.append(torch.einsum("hk,hlk->hl", q[0, ::2, 2], arguments["k_cache_BHLK"][0, :, [0, 1, 9]]))
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)
    assert scores[0].std() > 0.1


def test_each_axis_turns_its_own_pairs():
    base = inputs("cpu")
    base["positions_BT3"] = torch.zeros(B, T, 3, dtype=torch.int64)
    still = qk_norm_rope_cache(**base)
    for axis in range(3):
        moved = base | {"positions_BT3": base["positions_BT3"].index_fill(2, torch.tensor(axis), 3)}
        changed_K = ((qk_norm_rope_cache(**moved) - still).abs() > 1e-6).any(0).any(0).any(0)
        assert changed_K.nonzero().flatten().tolist() == [p + half for half in (0, K // 2) for p in range(axis * 4, axis * 4 + 4)]


def test_its_cache_feeds_attention():
    arguments = inputs("cpu")
    arguments["slots_BT"] = torch.tensor([[0, 1, 2]] * B)
    q = qk_norm_rope_cache(**arguments)
    out = attention(q, arguments["k_cache_BHLK"], arguments["v_cache_BHLK"], torch.tensor([3, 3]))
    v = arguments["qkv_BTE"].unflatten(-1, (N + 2 * H, K))[:, :, -H:]
    torch.testing.assert_close(out[:, :, 0], v[:, 0].repeat_interleave(N // H, dim=1))  # the first token sees itself alone


def test_refusals():
    int8 = {f"{name}_cache_BHLK": torch.zeros(B, H, L, K, dtype=torch.int8) for name in "kv"}
    apart = torch.zeros(B, H, 2 * L)[..., ::2]
    for change, message in [
        (dict(axes=(4, 4, 3)), r"axes \(4, 4, 3\) for heads of 24, expected three numbers of at least 0 summing to 12"),
        (dict(axes=(-1, 7, 6)), r"axes \(-1, 7, 6\) for heads of 24, expected three numbers of at least 0"),
        (dict(heads=-2), r"heads is -2, expected at least 1"),
        (dict(heads=3), r"qkv has shape \(2, 3, 192\), expected \(2, 3, 168\)"),
        (dict(slots_BT=torch.zeros(B, T, dtype=torch.int32)), r"slots has dtype torch.int32"),
        (dict(k_scale_BHL=torch.zeros(B, H, L)), r"k_cache has dtype torch.float32, expected torch.int8"),
        (dict(slots_BT=torch.tensor([[0, 1, L]] * B)), rf"the highest of slots is {L}, expected below {L}"),
        (dict(positions_BT3=torch.full((B, T, 3), 10**6)), r"the highest of positions is 1000000, expected below"),
        (dict(v_scale_BHL=torch.zeros(B, H, L)), r"k_scale is missing, expected float32"),
        (int8 | dict(k_scale_BHL=torch.zeros(B, H, L)), r"v_scale is missing, expected float32"),
        (int8 | dict(k_scale_BHL=apart, v_scale_BHL=apart), r"last axis of k_scale has stride 2, expected 1; fix: k_scale.contiguous"),
        (dict(k_weight_K=torch.ones(2 * K)[::2]), r"last axis of k_weight has stride 2, expected 1; fix: k_weight.contiguous"),
        (dict(positions_BT3=torch.zeros(B, 3, T, dtype=torch.int64).transpose(1, 2)), r"positions has strides .* expected contiguous"),
    ]:
        with pytest.raises(KernelError, match="^qk_norm_rope_cache: " + message):
            qk_norm_rope_cache(**(inputs("cpu") | change))
