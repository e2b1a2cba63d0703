"""`attention_shared_prefix` on CUDA: the decode kernel over the past for all rows, again over each row's own tokens, which folds both."""

from torch import Tensor

from wfm_kernels.attention.masks import CAUSAL, Mask
from wfm_kernels.attention.triton import attention, attention_partials

TILE_ROWS = 64  # of the pass over the past
CHUNKS, STAGES = 8, 2  # of the past; two tiles on their way leave room for two blocks on a multiprocessor, three do not


def attention_shared_prefix(
    q_BNTK, prefix_k_HPK, prefix_v_HPK, k_BHLK, v_BHLK, lengths_B, *, prefix_length_1, scale=None, max_length=None, mask: Mask = CAUSAL,
    prefix_k_scale_HP=None, prefix_v_scale_HP=None, k_scale_BHL=None, v_scale_BHL=None, counters=None,
) -> Tensor:  # fmt: skip
    """See reference.py. Reads nothing back to the host. A row has the same bits whatever its neighbours."""
    B, N, T, K = q_BNTK.shape
    q_1NRK = q_BNTK.transpose(0, 1).reshape(1, N, B * T, K)
    past = prefix_k_HPK[None], prefix_v_HPK[None], prefix_length_1
    scales = {"k_scale_BHL": k_scale_BHL, "v_scale_BHL": v_scale_BHL}
    if k_scale_BHL is None:
        past_scales = scales
    else:
        past_scales = {"k_scale_BHL": prefix_k_scale_HP[None], "v_scale_BHL": prefix_v_scale_HP[None]}
    # one tile whatever the number of futures: a smaller tile has other instructions, so a row's bits would follow the batch
    seen = attention_partials(q_1NRK, *past, scale=scale, tile_rows=TILE_ROWS, chunks=CHUNKS, stages=STAGES, **past_scales)
    return attention(
        q_BNTK, k_BHLK, v_BHLK, lengths_B, scale=scale, max_length=max_length, mask=mask, past=seen, counters=counters, **scales
    )  # fmt: skip
