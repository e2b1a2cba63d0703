"""What a launcher could choose instead is right as well: benchmarks/choices.py times it on a GPU."""

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from wfm_kernels.attention import reference as attention_reference
from wfm_kernels.attention import triton as attention
from wfm_kernels.benchmark import registry
from wfm_kernels.benchmark.timing import WrongNumbers
from wfm_kernels.linear_cross_entropy import cpu as loss_rows_reference
from wfm_kernels.linear_cross_entropy import triton as loss_rows
from wfm_kernels.shared_prefix import reference as shared_reference
from wfm_kernels.shared_prefix import triton as shared_prefix

spec = importlib.util.spec_from_file_location("choices", Path(__file__).resolve().parents[2] / "kernels" / "benchmarks" / "choices.py")
choices = importlib.util.module_from_spec(spec)
spec.loader.exec_module(choices)


def decode(device) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v = (torch.randn(1, heads, n, 64, device=device) for heads, n in ((8, 1), (2, 700), (2, 700)))
    lengths = torch.tensor([690], device=device)
    return attention.attention(q, k, v, lengths), attention_reference.attention(q, k, v, lengths)


def futures(device) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v = (torch.randn(3, heads, n, 64, device=device) for heads, n in ((8, 1), (2, 150), (2, 150)))
    past = tuple(torch.randn(2, 400, 64, device=device) for _ in range(2))
    inputs = q, *past, k, v, torch.tensor([150, 3, 70], device=device)
    prefix_length_1 = torch.tensor([390], device=device)
    return (
        shared_prefix.attention_shared_prefix(*inputs, prefix_length_1=prefix_length_1),
        shared_reference.attention_shared_prefix(*inputs, prefix_length_1=prefix_length_1),
    )


def loss(device) -> tuple[torch.Tensor, torch.Tensor]:
    logits, targets, share = (
        torch.randn(3, 9000, device=device) * 3,
        torch.tensor([1, 8999, 4096], device=device),
        torch.rand(3, device=device),
    )
    ours, expected = logits.clone(), logits.cpu()
    loss_rows.rows_in_place(ours, targets, share, 1e-3, True)
    loss_rows_reference.rows_in_place(expected, targets.cpu(), share.cpu(), 1e-3, True)
    return ours, expected.to(device)


RUN = {registry.decode: decode, registry.shared_prefix: futures, registry.vocabulary_loss: loss}
EVERY = [(choice, label) for choice in choices.CHOICES for label in choice.others]


@pytest.mark.parametrize(("choice", "label"), EVERY, ids=[f"{choice.name}: {label}" for choice, label in EVERY])
def test_gives_the_references_numbers(choice, label, device, assert_close) -> None:
    torch.manual_seed(0)
    with choices.chosen(choice.others[label]):
        ours, expected = RUN[choice.maker](device)
    assert_close(ours, expected)


def test_what_is_chosen_ends_with_it() -> None:
    shipped = attention.tile_shape, attention.MAX_CHUNKS
    with choices.chosen([(attention, "MAX_CHUNKS", 3), *choices.tile(32, 4, 128)]):
        assert attention.MAX_CHUNKS == 3 and attention.tile_shape(4, 128, torch.bfloat16)[1] == 32
        assert attention.tile_shape(64, 128, torch.bfloat16) == shipped[0](64, 128, torch.bfloat16)  # many rows keep their tile
    assert (attention.tile_shape, attention.MAX_CHUNKS) == shipped
    with pytest.raises(AssertionError, match="has no TILE"), choices.chosen([(attention, "TILE", 1)]):
        pass


def test_a_report_names_every_choice_and_refuses_wrong_numbers(device, capsys) -> None:
    shape = dict(B=1, N=4, H=2, L=64, K=32)
    few = choices.Choice(name="few", maker=registry.decode, shape=shape, others={"3 chunks": [(attention, "MAX_CHUNKS", 3)]})
    choices.report(few, device.type)
    title, shipped, other = capsys.readouterr().out.splitlines()
    assert title.startswith("few (attention B1 N4") and shipped.split()[-7:] == ["1.00", *"of the time as it ships".split()]
    assert other.split()[:2] == ["3", "chunks"] and " us (" in other
    case = registry.decode(device.type, torch.float32, **shape)
    wrong = dataclasses.replace(case, reference=lambda: case.reference() + 1)
    with pytest.raises(WrongNumbers, match="few, as it ships: error"):
        choices.timers(few, wrong, device.type)
