"""The specification of `speculative_accept`. Source: Leviathan et al. 2023 (arXiv 2211.17192), algorithm 1."""

import torch
from torch import Tensor

from wfm_kernels.sample.philox import philox, uniform


def speculative_accept(draft_BT, draft_probs_BTV, target_probs_BSV, seed_B, row_B, step_B) -> tuple[Tensor, Tensor]:
    """Token t is accepted while u_t * q(token) < p(token); the first one refused is redrawn from max(p - q, 0), normed.

    If all T are accepted one more is drawn from the target. Returns (tokens [B, T + 1], -1 past the last; how many there are).
    """
    B, T = draft_BT.shape
    index_BT1 = draft_BT[..., None]
    q_BT, p_BT = draft_probs_BTV.gather(-1, index_BT1)[..., 0], target_probs_BSV[:, :T].gather(-1, index_BT1)[..., 0]
    words_SB, others_SB = philox(seed_B, row_B, step_B, torch.arange(T + 1, device=draft_BT.device)[:, None])
    accepted_BT = uniform(words_SB[1:]).T * q_BT < p_BT
    accepted_B = accepted_BT.long().cumprod(-1).sum(-1)  # those before the first that is refused

    each_B = torch.arange(B, device=draft_BT.device)
    q_BSV = torch.cat([draft_probs_BTV, torch.zeros_like(target_probs_BSV[:, :1])], dim=1)
    target_BV = target_probs_BSV[each_B, accepted_B]
    rest_BV = (target_BV - q_BSV[each_B, accepted_B]).clamp(min=0.0)
    rest_BV = torch.where(rest_BV.sum(-1, keepdim=True) > 0.0, rest_BV, target_BV)  # p equals q up to rounding
    cumulative_BV = rest_BV.double().cumsum(-1)
    target_B1 = uniform(others_SB[0]).double()[:, None] * cumulative_BV[:, -1:]
    redrawn_B = (cumulative_BV > target_B1).int().argmax(-1)

    tokens_BS = torch.cat([draft_BT, draft_BT[:, :1]], dim=1)
    place_S = torch.arange(T + 1, device=draft_BT.device)
    tokens_BS = torch.where(place_S < accepted_B[:, None], tokens_BS, -1)
    tokens_BS[each_B, accepted_B] = redrawn_B
    return tokens_BS, accepted_B + 1
