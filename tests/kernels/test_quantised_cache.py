"""`attention` over int8 and fp8 caches with a scale per token and head."""

import pytest
import torch
from wfm_kernels import CAUSAL, FULL, KernelError, RingWindow, Slots, Tree, attention
from wfm_kernels.attention import reference
from wfm_kernels.attention.triton import attention as triton_attention
from wfm_kernels.errors import refuse_fp8_before_sm_89


def quantise(x_BHLK, dtype):
    """(stored, scale): the largest value of each token and head becomes the largest of the format."""
    largest = 127.0 if dtype == torch.int8 else 448.0
    scale_BHL = x_BHLK.abs().amax(dim=-1).clamp(min=1e-8) / largest
    stored = x_BHLK / scale_BHL[..., None]
    return (stored.round() if dtype == torch.int8 else stored).to(dtype), scale_BHL


@pytest.mark.parametrize("cache", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_paths_equal_the_dequantised_reference(cache, dtype, device, assert_close):
    torch.manual_seed(0)
    q = torch.randn(2, 4, 3, 64, device=device, dtype=dtype)
    (k, k_scale), (v, v_scale) = (quantise(torch.randn(2, 2, 80, 64, device=device), cache) for _ in range(2))
    lengths = torch.tensor([80, 33], device=device)
    k_scale[1, :, 33:] = float("nan")  # dead
    expected = reference.attention(q, k, v, lengths, k_scale_BHL=k_scale.nan_to_num(1.0), v_scale_BHL=v_scale)
    keywords = dict(k_scale_BHL=k_scale, v_scale_BHL=v_scale)
    for path in (triton_attention, attention) if device.type == "cpu" else (triton_attention,):
        assert_close(path(q, k, v, lengths, **keywords), expected)


@pytest.mark.parametrize("cache", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4], ids=str)
def test_values_of_any_size(cache, size, dtype, device, assert_close):
    """fp16 holds what multiplies them whatever their scales are: those of one row differ by 1e8, keys of value 0 have scale 0."""
    torch.manual_seed(0)
    q = torch.randn(2, 4, 1, 64, device=device, dtype=dtype) * (1e4 if size == 1.0 else 1.0)
    k, v = torch.randn(2, 2, 2, 400, 64, device=device)
    v *= size * torch.logspace(-8, 0, 400, device=device)[:, None]
    (k8, k_scale), (v8, v_scale) = quantise(k / (1e4 if size == 1.0 else 1.0), cache), quantise(v, cache)
    v8[:, :, :256], v_scale[:, :, :256] = 0, 0.0
    lengths = torch.tensor([400, 200], device=device)  # the second row has values of 0 alone
    keywords = dict(k_scale_BHL=k_scale, v_scale_BHL=v_scale)
    expected = reference.attention(q, k8, v8, lengths, **keywords)
    assert expected[0].abs().max() > 1e-3 * size and not expected[1].any()
    for splits in (1, 2):
        assert_close(triton_attention(q, k8, v8, lengths, splits=splits, **keywords) / size, expected / size)
    _, lse = triton_attention(q, k8, v8, lengths, return_lse=True, **keywords)
    assert lse.isfinite().all()


MASKS = {
    "causal": CAUSAL,
    "full": FULL,
    "tree": Tree(bits_BT=torch.tensor([[1, 3, 5], [1, 2, 7]])),
    "slots": Slots(seen_BL=torch.arange(72).view(2, 36) * 5 % 7 > 2),
    "ring": RingWindow(sink_tokens=4, frame_tokens=8, ring_frames=4, window_frames=2),
    "ring, full frames": RingWindow(sink_tokens=4, frame_tokens=8, ring_frames=4, window_frames=2, full=True),
}


@pytest.mark.parametrize("quantised", [None, torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_every_mask_over_every_format(name, quantised, dtype, device, assert_close):
    torch.manual_seed(0)
    mask, ring = MASKS[name], name.startswith("ring")
    if isinstance(mask, Tree):
        mask = Tree(bits_BT=mask.bits_BT.to(device))
    if isinstance(mask, Slots):
        mask = Slots(seen_BL=mask.seen_BL.to(device))
    q = torch.randn(2, 2, 3, 32, device=device, dtype=dtype)
    k, v = torch.randn(2, 2, 1, 36, 32, device=device)
    keywords = {}
    if quantised is None:
        k, v = k.to(dtype), v.to(dtype)
    else:
        (k, k_scale), (v, v_scale) = quantise(k, quantised), quantise(v, quantised)
        keywords = dict(k_scale_BHL=k_scale, v_scale_BHL=v_scale)
    lengths = torch.tensor([80, 21] if ring else [36, 21], device=device)
    expected = reference.attention(q, k, v, lengths, mask=mask, **keywords)
    for path in (triton_attention, attention) if device.type == "cpu" else (triton_attention,):
        assert_close(path(q, k, v, lengths, mask=mask, **keywords), expected)
    if mask is not CAUSAL:
        assert (expected - reference.attention(q, k, v, lengths.clamp(max=36), **keywords)).abs().max() > 0.01


def test_fp8_is_refused_in_one_line_before_sm_89():
    for op in ("attention", "qk_norm_rope_cache"):
        with pytest.raises(KernelError, match=f"^{op}: k is float8_e4m3fn on sm_80, expected sm_89 or newer; fix: an int8 cache"):
            refuse_fp8_before_sm_89(op, "k", (8, 0))
    refuse_fp8_before_sm_89("attention", "k", (8, 9))
    refuse_fp8_before_sm_89("attention", "k", (9, 0))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.int8, 0.01), (torch.float8_e4m3fn, 0.05)], ids=str)
def test_the_formats_lose_little(dtype, bound):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 1, 64), torch.randn(2, 2, 256, 64), torch.randn(2, 2, 256, 64)
    lengths = torch.tensor([256, 100])
    (k8, k_scale), (v8, v_scale) = quantise(k, dtype), quantise(v, dtype)
    error = attention(q, k8, v8, lengths, k_scale_BHL=k_scale, v_scale_BHL=v_scale) - attention(q, k, v, lengths)
    assert 0 < error.square().mean().sqrt() < bound * v.std()


def test_scales_are_demanded_and_checked():
    q, k = torch.randn(1, 2, 1, 8), torch.zeros(1, 2, 4, 8, dtype=torch.int8)
    lengths, scale = torch.tensor([4]), torch.ones(1, 2, 4)
    with pytest.raises(KernelError, match="k is torch.int8 without k_scale and v_scale"):
        attention(q, k, k, lengths)
    with pytest.raises(KernelError, match=r"v_scale has shape \(1, 2, 3\), expected \(1, 2, 4\)"):
        attention(q, k, k, lengths, k_scale_BHL=scale, v_scale_BHL=scale[..., :3])
    with pytest.raises(KernelError, match="k_scale or v_scale given for a torch.float32 cache"):
        attention(q, k.float(), k.float(), lengths, k_scale_BHL=scale, v_scale_BHL=scale)
