"""`speculative_accept`: the target distribution is kept exactly, and the kernel equals the reference."""

import pytest
import torch
from wfm_kernels import KernelError, speculative_accept
from wfm_kernels.speculative import reference
from wfm_kernels.speculative.triton import speculative_accept as triton_accept


def keys(B, device="cpu"):
    return tuple(x.to(device) for x in (torch.full((B,), 11), torch.arange(B), torch.full((B,), 2)))


def test_first_two_tokens_are_distributed_as_the_target():
    torch.manual_seed(0)
    B, V = 40000, 4
    draft_probs, target_probs = (
        torch.rand(2, V).softmax(-1),
        torch.tensor([[0.6, 0.1, 0.1, 0.2], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]]),
    )
    draft = torch.stack([torch.multinomial(draft_probs[t], B, replacement=True) for t in range(2)], dim=1)
    tokens, count = speculative_accept(
        draft, draft_probs.expand(B, -1, -1).contiguous(), target_probs.expand(B, -1, -1).contiguous(), *keys(B)
    )
    bound = 4 * (0.25 / B) ** 0.5
    assert ((tokens[:, 0].bincount(minlength=V) / B) - target_probs[0]).abs().max() < bound
    second = tokens[count >= 2, 1]
    assert ((second.bincount(minlength=V) / len(second)) - target_probs[1]).abs().max() < bound * (B / len(second)) ** 0.5
    accepted = torch.minimum(draft_probs[0], target_probs[0]).sum()  # share of first tokens accepted, by theory
    assert abs((count >= 2).float().mean() - accepted) < bound
    assert (tokens >= 0).sum(-1).equal(count)


def test_kernel_equals_reference(device):
    torch.manual_seed(0)
    B, T, V = 4, 3, 37
    draft_probs, target_probs = (torch.randn(B, n, V, device=device).mul(2).softmax(-1) for n in (T, T + 1))
    target_probs[1, :T] = draft_probs[1]  # all accepted
    draft = draft_probs.argmax(-1)
    target_probs[2, 1] = 0.0
    target_probs[2, 1, (draft[2, 1] + 1) % V] = 1.0  # refused at the second place at the latest
    arguments = (draft, draft_probs, target_probs, *keys(B, device))
    tokens, count = triton_accept(*arguments)
    expected, expected_count = reference.speculative_accept(*arguments)
    assert tokens.tolist() == expected.tolist() and count.tolist() == expected_count.tolist()
    assert count[1] == T + 1 and count[2] <= 2


def test_refusals():
    probs = torch.full((2, 3, 4), 0.25)
    with pytest.raises(KernelError, match=r"target_probs has shape \(2, 3, 4\), expected \(2, 4, 4\)"):
        speculative_accept(torch.zeros(2, 3, dtype=torch.int64), probs, probs, *keys(2))
    with pytest.raises(KernelError, match=r"draft has shape \(2, 2\), expected \(2, 3\)"):
        speculative_accept(torch.zeros(2, 2, dtype=torch.int64), probs, torch.full((2, 4, 4), 0.25), *keys(2))
    draft, longer = torch.zeros(2, 3, dtype=torch.int64), torch.full((2, 4, 4), 0.25)
    for change, message in (
        (dict(draft_BT=draft + 4), r"drafted tokens are in 4..4, expected 0..3"),
        (dict(draft_BT=draft - 1), r"drafted tokens are in -1..-1, expected 0..3"),
        (dict(draft_probs_BTV=probs * float("nan")), r"draft_probs are in nan..nan, expected probabilities"),
        (dict(target_probs_BSV=longer - 1), r"target_probs are in -0.75..-0.75, expected probabilities"),
    ):
        arguments = dict(draft_BT=draft, draft_probs_BTV=probs, target_probs_BSV=longer) | change
        with pytest.raises(KernelError, match=f"^speculative_accept: {message}"):
            speculative_accept(*arguments.values(), *keys(2))
