"""The best public code for the same work, each where it is installed and takes the shape; one that does not is named with its reason.

On a CPU that is torch alone: compiling FlexAttention there takes minutes. On a GPU every SDPA backend by itself, FlexAttention
compiled, flash-attn and FlashInfer where importable.
"""

import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Run = Callable[[], Tensor]
SDPA_BACKENDS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")


def decode(q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> dict[str, Run]:
    """Causal attention of the newest T tokens over full caches."""
    B, N, T, _ = q_BNTK.shape
    H, L = k_BHLK.shape[1:3]
    bias = torch.full((T, L), float("-inf"), device=q_BNTK.device, dtype=q_BNTK.dtype).triu_(L - T + 1) if T > 1 else None

    def sdpa() -> Tensor:
        return F.scaled_dot_product_attention(q_BNTK, k_BHLK, v_BHLK, attn_mask=bias, enable_gqa=N != H)

    if q_BNTK.is_cpu:
        return {"sdpa": sdpa}
    found: dict[str, Run] = {}
    for name in SDPA_BACKENDS:
        found[f"sdpa {name.lower().removesuffix('_attention')}"] = _with_backend(name, sdpa)
    found["flex_attention compiled"] = _flex(q_BNTK, k_BHLK, v_BHLK)
    if importable("flash_attn"):
        found["flash_attn"] = _flash_attn(q_BNTK, k_BHLK, v_BHLK)
    if importable("flashinfer") and T == 1:
        found["flashinfer"] = _flashinfer(q_BNTK, k_BHLK, v_BHLK)
    return found


def cross_entropy(hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, gradient: Callable[[Tensor], Tensor]) -> dict[str, Run]:
    """Logits in full, then torch's loss; on a GPU also compiled, as torch recommends."""

    def plain(hidden: Tensor, weight: Tensor) -> Tensor:
        return F.cross_entropy((hidden @ weight.T).float(), targets_R)

    found: dict[str, Run] = {"F.cross_entropy": lambda: gradient(plain(hidden_RD, weight_VD))}
    if not hidden_RD.is_cpu:
        compiled = torch.compile(plain)
        found["F.cross_entropy compiled"] = lambda: gradient(compiled(hidden_RD, weight_VD))
    return found


def norm_and_rope(qkv_BTE, q_weight, k_weight, cos, sin, positions_BT3, slots_BT, k_cache, v_cache, *, heads: int, axes: tuple) -> Run:
    """The same from torch's own operations, as a model without the kernel would write it; the caches are its own."""
    H, K = k_cache.shape[1], k_cache.shape[3]
    k_cache, v_cache = torch.zeros_like(k_cache), torch.zeros_like(v_cache)
    rows = torch.arange(len(qkv_BTE), device=qkv_BTE.device)[:, None]
    axis_F = torch.repeat_interleave(torch.arange(3), torch.tensor(axes)).to(qkv_BTE.device)
    pair_F = torch.arange(K // 2, device=qkv_BTE.device)

    def run() -> Tensor:
        q, k, v = qkv_BTE.unflatten(-1, (-1, K)).split([heads, H, H], dim=2)
        place_BTF = positions_BT3[..., axis_F]
        cos_BT1K, sin_BT1K = (torch.cat([table[place_BTF, pair_F]] * 2, -1)[:, :, None].to(q.dtype) for table in (cos, sin))

        def turned(x: Tensor, weight: Tensor) -> Tensor:
            x = F.rms_norm(x, (K,), weight, 1e-6)
            first, second = x.chunk(2, -1)
            return x * cos_BT1K + torch.cat((-second, first), -1) * sin_BT1K

        k_cache[rows, :, slots_BT], v_cache[rows, :, slots_BT] = turned(k, k_weight), v
        return turned(q, q_weight).transpose(1, 2)

    return run


def importable(package: str) -> bool:
    try:
        importlib.import_module(package)
    except Exception:  # a broken installation is as good as none
        return False
    return True


def _with_backend(name: str, run: Run) -> Run:
    def chosen() -> Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(getattr(SDPBackend, name)):
            return run()

    return chosen


def _flex(q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    T, L = q_BNTK.shape[2], k_BHLK.shape[2]
    mask = create_block_mask(lambda b, h, q, kv: kv <= q + (L - T), None, None, T, L, device=q_BNTK.device) if T > 1 else None
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q_BNTK, k_BHLK, v_BHLK, block_mask=mask, enable_gqa=True)


def _flash_attn(q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Run:
    run = importlib.import_module("flash_attn").flash_attn_with_kvcache  # optional: the package itself needs torch and triton alone
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q_BNTK, k_BHLK, v_BHLK))  # its layout is [B, L, H, K]
    lengths = torch.full((len(q),), k.shape[1], dtype=torch.int32, device=q.device)
    return lambda: run(q, k, v, cache_seqlens=lengths, causal=True).transpose(1, 2)


def _flashinfer(q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Run:
    """Its batch decode with one page a row."""
    flashinfer = importlib.import_module("flashinfer")
    B, N, _, K = q_BNTK.shape
    H, L = k_BHLK.shape[1:3]
    workspace = torch.empty(128 << 20, dtype=torch.uint8, device=q_BNTK.device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND")
    first, pages = (torch.arange(n, dtype=torch.int32, device=q_BNTK.device) for n in (B + 1, B))
    last = torch.full((B,), L, dtype=torch.int32, device=q_BNTK.device)
    wrapper.plan(first, pages, last, N, H, K, L, q_data_type=q_BNTK.dtype, kv_data_type=k_BHLK.dtype)
    q_BNK = q_BNTK[:, :, 0].contiguous()
    return lambda: wrapper.run(q_BNK, (k_BHLK, v_BHLK)).unsqueeze(2)
