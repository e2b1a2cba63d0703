"""B futures that branch off one past: the past is stored once and read once, not once a future.

A prefix pass takes the queries of all rows as one long row over the shared keys; a suffix pass takes each row's private keys;
log-sum-exps merge the two. Forking a cache therefore copies no prefix. The composition is the same on CPU and CUDA; only the
attention beneath and the merge differ by device. Source: Hydragen (arXiv 2402.05099), FlashInfer's cascade.
"""

from torch import Tensor

from wfm_kernels.attention import CAUSAL, FULL, Mask, attention
from wfm_kernels.errors import KernelError
from wfm_kernels.shared_prefix.reference import merge as merge_reference

__all__ = ["attention_shared_prefix"]


def attention_shared_prefix(
    q_BNTK: Tensor,
    prefix_k_HPK: Tensor,
    prefix_v_HPK: Tensor,
    k_BHLK: Tensor,
    v_BHLK: Tensor,
    lengths_B: Tensor,
    *,
    prefix_length_1: Tensor,
    scale: float | None = None,
    max_length: int | None = None,
    mask: Mask = CAUSAL,
) -> Tensor:
    """Attention of the newest T tokens of each row against one shared past and the row's own later tokens.

    prefix_k_HPK, prefix_v_HPK: the past of capacity P, of which the first prefix_length_1 (int tensor [1]) slots are live; every
    query sees all of them. k_BHLK, v_BHLK, lengths_B, max_length, mask: the private suffix, as for `attention`; lengths_B counts
    suffix tokens only, the T queries included. Returns out_BNTK in q's dtype. Raises KernelError as `attention` does.
    """
    if prefix_k_HPK.dim() != 3 or q_BNTK.dim() != 4:
        got = f"{q_BNTK.dim()} and {prefix_k_HPK.dim()}"
        raise KernelError(f"attention_shared_prefix: q and prefix_k have {got} axes, expected [B, N, T, K] and [H, P, K]")
    B, N, T, K = q_BNTK.shape
    q_1NRK = q_BNTK.transpose(0, 1).reshape(1, N, B * T, K)
    past_1NRK, past_lse_1NR = attention(
        q_1NRK, prefix_k_HPK[None], prefix_v_HPK[None], prefix_length_1, scale=scale, mask=FULL, return_lse=True
    )
    out_BNTK, lse_BNT = attention(q_BNTK, k_BHLK, v_BHLK, lengths_B, scale=scale, max_length=max_length, mask=mask, return_lse=True)
    past_BNTK = past_1NRK.view(N, B, T, K).transpose(0, 1)
    past_lse_BNT = past_lse_1NR.view(N, B, T).transpose(0, 1)
    if q_BNTK.is_cpu:
        return merge_reference(past_BNTK, past_lse_BNT, out_BNTK, lse_BNT)
    from wfm_kernels.shared_prefix.triton import merge

    return merge(past_BNTK, past_lse_BNT, out_BNTK, lse_BNT)
