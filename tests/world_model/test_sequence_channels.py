"""Rows of one robot in a world of several: its own ids, places and hint slots, and a row of all channels as it always was."""

from dataclasses import replace

import pytest
import torch

from wfm_ar.world_model import Sequence, SequenceConfig

CONFIG = SequenceConfig(video_vocab=11, grid_h=2, grid_w=2, rate=2, action_bins=(5, 7, 3), text_vocab=4, max_text=3, max_latents=4)
TOKENS = torch.arange(12).reshape(3, 2, 2) % 11


def test_all_channels_named_are_the_default():
    bins = torch.tensor([[[1, 2, 0], [3, 4, 1]]]).repeat(2, 1, 1)
    for a, b in zip(Sequence(CONFIG).pack(TOKENS, [1], bins), Sequence(CONFIG, (0, 1, 2)).pack(TOKENS, [1], bins), strict=True):
        assert torch.equal(a, b)


def test_robots_share_no_id_and_all_vocabularies():
    first, second = Sequence(CONFIG, (0, 1)), Sequence(CONFIG, (2,))
    rows = [
        first.pack(TOKENS, None, torch.ones(2, 2, 2, dtype=torch.int64)),
        second.pack(TOKENS, None, torch.ones(2, 2, 1, dtype=torch.int64)),
    ]
    acting = [set(row.ids[(row.ids >= 11) & (row.ids < first.text_start)].tolist()) for row in rows]
    assert acting == [{11 + 1, 11 + 5 + 1}, {11 + 5 + 7 + 1}]
    assert [len(row.ids) for row in rows] == [1 + 12 + 2 * 4, 1 + 12 + 2 * 2]
    assert first.model_vocabularies() == second.model_vocabularies() == Sequence(CONFIG).model_vocabularies()
    assert first.text_start == second.text_start == 11 + 15 and second.action_range(0) == (11 + 12, 11 + 15)


def test_a_row_of_some_channels_is_the_whole_row_less_the_others():
    whole, part = Sequence(CONFIG), Sequence(CONFIG, (1, 2))
    bins = torch.tensor([[[1, 2, 0], [3, 4, 1]]])
    a, b = whole.action_piece(1, bins[0]), part.action_piece(1, bins[0][:, 1:])
    kept = torch.tensor([False, True, True] * 2)
    assert torch.equal(a.ids[kept], b.ids) and torch.equal(a.positions[kept], b.positions) and torch.equal(a.hints[kept], b.hints)


def test_no_channels_at_all():
    silent = Sequence(CONFIG, ())
    assert silent.action_size == 0 and torch.equal(silent.pack(TOKENS).ids, Sequence(CONFIG).pack(TOKENS).ids)
    assert len(silent.action_piece(1, torch.zeros(2, 0, dtype=torch.int64)).ids) == 0


@pytest.mark.parametrize("channels", [(), (2,), (0, 1, 2)])
@pytest.mark.parametrize("acting", [False, True])
@pytest.mark.parametrize("latents", [1, 2, 4])
@pytest.mark.parametrize("text", [None, [1, 3]])
@pytest.mark.parametrize("sums", [False, True])
def test_a_row_packed_at_once_is_its_pieces_joined(channels, acting, latents, text, sums):
    config, generator = replace(CONFIG, video_vocab=12, levels=(4, 3), action_sums=sums), torch.Generator().manual_seed(0)
    sequence = Sequence(config, channels)
    tokens = torch.randint(12, (latents, 2, 2), generator=generator)
    bins = torch.randint(3, (latents - 1, 2, len(channels)), generator=generator) if acting else None
    pieces = [sequence.text_piece(text), sequence.latent_piece(0, tokens[0], ())]
    for k in range(1, latents):
        pieces += [sequence.action_piece(k, bins[k - 1])] if acting else []
        pieces.append(sequence.latent_piece(k, tokens[k], tokens[:k], bins[:k] if acting else ()))
    for name, a, b in zip(("ids", "positions", "hints", "follows"), sequence.pack(tokens, text, bins), sequence.join(pieces), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), name
