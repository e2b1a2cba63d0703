"""`linear_cross_entropy`: loss and gradients against autograd over all logits, memory, and the row kernel."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from wfm_kernels import KernelError, linear_cross_entropy
from wfm_kernels.linear_cross_entropy import cpu, reference
from wfm_kernels.linear_cross_entropy.triton import rows_in_place


def inputs(R=21, D=16, V=50, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(R, D, generator=generator), torch.randn(V, D, generator=generator)
    targets, weights = torch.randint(0, V, (R,), generator=generator), torch.rand(R, generator=generator)
    weights[3] = 0.0
    hidden, weight = (x.to(device, dtype).requires_grad_() for x in (hidden, weight))
    return hidden, weight, targets.to(device), weights.to(device)


@pytest.mark.parametrize("chunk_rows", [1, 8, 100])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_loss_and_gradients_equal_autograd(z_loss, chunk_rows, device):
    hidden, weight, targets, weights = inputs(device=device)
    expected = reference.linear_cross_entropy(hidden, weight, targets, weights_R=weights, z_loss=z_loss)
    expected_grads = torch.autograd.grad(expected * 3, (hidden, weight))
    loss = linear_cross_entropy(hidden, weight, targets, weights_R=weights, z_loss=z_loss, chunk_rows=chunk_rows)
    grads = torch.autograd.grad(loss * 3, (hidden, weight))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for got, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, wanted, atol=2e-6, rtol=1e-4)
    assert grads[0][3].abs().max() == 0  # the row of weight 0


def test_gradients_pass_gradcheck_by_differences():
    hidden, weight, targets, weights = inputs(R=4, D=3, V=5)
    step = 1e-2
    grad = torch.autograd.grad(linear_cross_entropy(hidden, weight, targets, weights_R=weights, z_loss=0.1), hidden)[0]
    for r, d in [(0, 0), (1, 2), (2, 1)]:
        shift = torch.zeros_like(hidden)
        shift[r, d] = step
        up, down = (linear_cross_entropy(hidden + s * shift, weight, targets, weights_R=weights, z_loss=0.1) for s in (1, -1))
        assert abs((up - down) / (2 * step) - grad[r, d]) < 1e-3


@pytest.mark.parametrize("path", ["kernel", "cpu"])
def test_rows_equal_autograd(path, dtype, device):
    torch.manual_seed(0)
    rows = rows_in_place if path == "kernel" else cpu.rows_in_place
    logits = (torch.randn(3, 140, device=device) * 3).to(dtype)[:, :133]
    targets, share = torch.tensor([0, 132, 70], device=device), torch.tensor([0.5, 0.0, 0.25], device=device)
    targets[2] = logits[2].argmax()
    exact = logits.float().clone().requires_grad_()
    lse = exact.logsumexp(-1)
    expected = (lse - exact.gather(-1, targets[:, None])[:, 0] + 0.01 * lse.square()) * share
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    ours = logits.clone()
    loss, hits = rows(ours, targets, share, 0.01, True)
    torch.testing.assert_close(loss, expected.detach(), atol=1e-5 if dtype == torch.float32 else 2e-3, rtol=1e-5)
    torch.testing.assert_close(
        ours.float(), gradient, atol={torch.float32: 1e-6, torch.float16: 3e-4, torch.bfloat16: 3e-3}[dtype], rtol=1e-3
    )
    assert hits.tolist() == (exact.argmax(-1) == targets).tolist() and hits[2]
    again, _ = rows(logits.clone(), targets, share, 0.01, False)
    torch.testing.assert_close(again, loss, atol=1e-6, rtol=1e-6)


def test_hits_are_the_rows_whose_target_is_likeliest():
    hidden, weight, targets, weights = inputs()
    targets = targets.clone()
    targets[1] = (hidden @ weight.T)[1].argmax()
    loss, hits = linear_cross_entropy(hidden, weight, targets, weights_R=weights, chunk_rows=3, return_hits=True)
    assert torch.equal(hits, (hidden @ weight.T).argmax(-1) == targets) and hits[1] and not hits.all()
    assert torch.equal(loss, linear_cross_entropy(hidden, weight, targets, weights_R=weights, chunk_rows=3))


def test_half_precision_stays_near_fp32():
    hidden, weight, targets, weights = inputs(dtype=torch.bfloat16)
    loss = linear_cross_entropy(hidden, weight, targets, weights_R=weights, chunk_rows=8)
    expected = reference.linear_cross_entropy(hidden, weight, targets, weights_R=weights)
    assert loss.dtype == torch.float32 and abs(loss - expected) < 0.02
    grads = torch.autograd.grad(loss, (hidden, weight))
    for got, wanted in zip(grads, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        assert got.dtype == torch.bfloat16
        assert (got.float() - wanted.float()).abs().max() < 0.03 * wanted.float().abs().max()


def test_logits_never_exist_at_once():
    """The largest tensor made is a chunk of logits, seen through every operation that runs."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    self.elements = max(self.elements, tensor.numel())
            return result

    hidden, weight, targets, weights = inputs(R=64, D=8, V=100)
    with Largest() as seen:
        linear_cross_entropy(hidden, weight, targets, weights_R=weights, chunk_rows=4).backward()
    assert seen.elements == max(100 * 8, 4 * 100)
    with Largest() as seen:
        reference.linear_cross_entropy(hidden, weight, targets, weights_R=weights)
    assert seen.elements == 64 * 100


def test_half_precision_holds_one_chunk_and_the_gradients():
    """Beside the gradients (the matrix's sums in fp32) one chunk of logits and an eighth of the matrix: 0.49 GB at the size of the bar."""
    R, D, V, chunk = 512, 128, 4096, 128
    hidden, weight = (torch.randn(n, D, dtype=torch.bfloat16, requires_grad=True) for n in (R, V))
    targets = torch.randint(0, V, (R,))
    with MemTracker() as seen:
        linear_cross_entropy(hidden, weight, targets, chunk_rows=chunk).backward()
    peak = seen.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] - 2 * (R + V) * D  # beyond the inputs
    allowed = 4 * V * D + 2 * R * D + 2 * chunk * V + 2 * V * D // 8
    assert 0.9 * allowed < peak <= 1.02 * allowed


def test_takes_strided_targets_and_shares(device):
    logits = torch.randn(3, 40, device=device)
    targets, share = torch.tensor([7, 0, 30, 0, 39, 0], device=device)[::2], torch.tensor(0.25, device=device).expand(3)
    found = rows_in_place(logits.clone(), targets, share, 0.01, True)
    for got, expected in zip(found, cpu.rows_in_place(logits.clone(), targets, share, 0.01, True), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_callers_autocast_changes_nothing():
    hidden, weight, targets, weights = inputs()
    expected = linear_cross_entropy(hidden, weight, targets, weights_R=weights)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets, weights_R=weights)
    assert torch.equal(loss, expected) and torch.autograd.grad(loss, hidden)[0].dtype == torch.float32


def test_no_weight_gives_no_loss_and_defaults_are_the_plain_mean():
    hidden, weight, targets, _ = inputs()
    loss = linear_cross_entropy(hidden, weight, targets, weights_R=torch.zeros(21))
    loss.backward()
    assert loss == 0 and hidden.grad.abs().max() == 0
    plain = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(hidden @ weight.T, targets))
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), plain.detach())


def test_refusals():
    hidden, weight, targets, weights = inputs()
    for change, message in [
        (dict(weight_VD=weight[:, :4]), r"weight has shape \(50, 4\), expected \(50, 16\)"),
        (dict(targets_R=targets + 30), r"targets are in .* expected 0..49"),
        (dict(weights_R=weights[:3]), r"weights has shape \(3,\), expected \(21,\)"),
        (dict(chunk_rows=0), r"D=16, V=50, chunk_rows=0, expected all at least 1"),
        (dict(chunk_rows=-1), r"D=16, V=50, chunk_rows=-1"),
        (dict(weight_VD=weight[:0], hidden_RD=hidden[:0], targets_R=targets[:0], weights_R=weights[:0]), r"D=16, V=0"),
        (dict(weights_R=weights - 0.5), r"the least of the weights is -0.5, expected at least 0"),
        (dict(weights_R=weights * float("nan")), r"the least of the weights is nan"),
        (dict(hidden_RD=hidden[0]), r"hidden and weight have 1 and 2 axes"),
    ]:
        with pytest.raises(KernelError, match="^linear_cross_entropy: " + message):
            linear_cross_entropy(**(dict(hidden_RD=hidden, weight_VD=weight, targets_R=targets, weights_R=weights) | change))
