import torch
from wfm_kernels.qk_norm_rope_cache.cpu import turn, turns

from wfm_ar.world_model.rotary import axis_sizes, position_tables, rotary_frequencies, rotary_tables, sincos_positions


def test_published_split_of_the_head():
    assert axis_sizes(128) == (22, 21, 21)
    assert axis_sizes(32) == (6, 5, 5)


def test_scores_depend_on_differences_of_positions_only():
    frequencies = rotary_frequencies(32, 100.0)
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)

    def score(a, b):
        turned = [turn(x, *rotary_tables(torch.tensor([[p]]), frequencies, torch.float64)) for x, p in ((q, a), (k, b))]
        return float((turned[0] * turned[1]).sum())

    assert abs(score([3, 2, 1], [1, 5, 0]) - score([7, 4, 9], [5, 7, 8])) < 1e-5
    assert abs(score([3, 2, 1], [1, 5, 0]) - score([3, 2, 1], [1, 6, 0])) > 1e-4


def test_negative_positions_neither_rotate_nor_add():
    x = torch.randn(1, 1, 2, 32)
    positions = torch.full((1, 1, 3), -1)
    assert torch.equal(turn(x, *rotary_tables(positions, rotary_frequencies(32, 100.0), x.dtype)), x)
    assert not sincos_positions(positions, 96).any()


def test_tables_by_position_are_those_by_token():
    """What the kernels look up a token at a time equals what the transformer works out for a whole row, bit for bit."""
    positions, frequencies = torch.randint(-1, 60, (2, 7, 3)), rotary_frequencies(32, 100.0, (3, 40))
    looked_up = turns(*position_tables(60, frequencies), positions, axis_sizes(32))
    for got, expected in zip(looked_up, rotary_tables(positions, frequencies, torch.float32), strict=True):
        assert torch.equal(got, expected)


def test_golden(golden):
    tensors, _ = golden("rope_release")
    grid = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(40), torch.arange(64), indexing="ij"), -1).view(-1, 3)
    for name, yarn in (("4b", None), ("5b_v2w", None), ("12b", (3, 40)), ("13b_v2w", (3, 40))):
        rows = tensors["positions"].long()
        table = torch.cat((torch.full((1, 3), -1), grid)) if "v2w" in name else grid
        inside = rows < len(table)
        cos, sin = rotary_tables(table[rows[inside]][None], rotary_frequencies(128, 500000.0, yarn), torch.float32)
        torch.testing.assert_close(cos[0, :, 0], tensors[f"{name}.cos"][inside], atol=1e-5, rtol=0)
        torch.testing.assert_close(sin[0, :, 0].abs(), tensors[f"{name}.sin"][inside].abs(), atol=1e-5, rtol=0)
        if "v2w" in name:
            stored = tensors[f"{name}.abs_pos_emb_bf16"]
            mine = sincos_positions(table[rows[: len(stored)]][None], stored.shape[-1])[0].bfloat16()
            torch.testing.assert_close(mine, stored.view_as(mine), atol=0.01, rtol=0)
