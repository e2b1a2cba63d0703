import pytest
import torch

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.world_model import Sequence, SequenceConfig
from wfm_ar.world_model.sequence import WAVES, published_sequence

CONFIG = {
    "video_vocab": 50,
    "levels": (5, 5, 2),
    "grid_h": 2,
    "grid_w": 3,
    "rate": 4,
    "action_bins": (7, 5),
    "text_vocab": 11,
    "max_text": 4,
    "max_latents": 3,
}


def make(**settings) -> Sequence:
    return Sequence(SequenceConfig(**(CONFIG | settings)))


def clip(latents=3):
    torch.manual_seed(0)
    return torch.randint(50, (latents, 2, 3)), torch.stack((torch.randint(7, (latents - 1, 4)), torch.randint(5, (latents - 1, 4))), -1)


def test_order_and_ranges_of_ids():
    sequence, (tokens, bins) = make(), clip()
    row = sequence.pack(tokens, [1, 2], bins)
    ids = row.ids.tolist()
    assert len(ids) == 2 + 1 + 6 + 2 * (8 + 6)
    assert ids[:3] == [50 + 12 + 1, 50 + 12 + 2, 50 + 12 + 11]  # text, text, BOV
    assert ids[3:9] == tokens[0].flatten().tolist()
    assert ids[9:17] == [50 + b if c == 0 else 57 + b for step in bins[0].tolist() for c, b in enumerate(step)]
    assert ids[17:23] == tokens[1].flatten().tolist()
    assert sequence.action_range(0) == (50, 57) and sequence.action_range(1) == (57, 62)
    assert sequence.model_vocabularies()["out_vocab"] == 62 and sequence.model_vocabularies()["vocab"] == 74


@pytest.mark.parametrize("text", [None, [3]])
@pytest.mark.parametrize("acting", [True, False])
def test_unpack_finds_the_video_whatever_stands_between(text, acting):
    sequence, (tokens, bins) = make(), clip()
    assert torch.equal(sequence.unpack(sequence.pack(tokens, text, bins if acting else None).ids), tokens)


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("hint_latents", [1, 2])
def test_rows_packed_together_are_those_packed_alone(sums, hint_latents):
    """With text and actions, without either, and with actions from the second latent on; padded to one length."""
    sequence, (tokens, bins) = make(action_sums=sums, hint_latents=hint_latents), clip()
    late = torch.cat((torch.full_like(bins[:1], -1), bins[1:]))
    rows = [([1, 2], bins), (None, None), ([3], late)]
    all_bins = torch.stack([torch.full_like(bins, -1) if each is None else each for _, each in rows])
    many, length = tokens.expand(3, -1, -1, -1), sequence.max_length
    ids, positions, video, actions = sequence.pack_rows(many, [text for text, _ in rows], all_bins, length)
    at_video, at_slots = (each[:, 1:] for each in sequence.kinds(video, actions, length))
    hints = sequence.hints(many, all_bins, at_video, at_slots)
    assert ids.shape == (3, length) and hints.shape == (3, length - 1, sequence.hint_width)
    pieces = [sequence.text_piece([3]), sequence.latent_piece(0, tokens[0], ())]
    pieces += [sequence.latent_piece(1, tokens[1], tokens[:1], [None])]
    pieces += [sequence.action_piece(2, bins[1]), sequence.latent_piece(2, tokens[2], tokens[:2], [None, bins[1]])]
    alone = [sequence.pack(tokens, *rows[0]), sequence.pack(tokens, *rows[1]), sequence.join(pieces)]
    for i, row in enumerate(alone):
        n = len(row.ids)
        assert torch.equal(ids[i, :n], row.ids) and not ids[i, n:].any() and not hints[i, n - 1 :].any()
        assert torch.equal(positions[i, :n], row.positions) and torch.equal(hints[i, : n - 1], row.hints[:-1])
        assert torch.equal(ids[i, video[i]], tokens.flatten()) and (actions[i] == length).sum() == (all_bins[i] < 0).sum()
    other = torch.randint(50, many.shape)
    of_other = sequence.hints(other, all_bins, at_video, at_slots)
    assert torch.equal(of_other[0, : len(alone[0].ids) - 1], sequence.pack(other[0], *rows[0]).hints[:-1])


def test_hints_hold_the_sum_of_the_actions_since_the_first_latent():
    sequence, (tokens, bins) = make(action_sums=True), clip()
    plain, ends = make(), (14, 28)  # where the first video token of a latent is announced
    row = sequence.pack(tokens, None, bins)
    assert torch.equal(row.hints[:, : plain.hint_width], plain.pack(tokens, None, bins).hints)
    steps = torch.stack((bins[..., 0] / 6, bins[..., 1] / 4), -1) * 2 - 1
    for k, end in enumerate(ends):
        sums = steps[: k + 1].sum((0, 1))
        angles = sums[:, None] * 2 * torch.pi / torch.tensor(WAVES)
        expected = torch.cat((sums[:, None] / 4, angles.sin(), angles.cos()), 1).flatten()
        torch.testing.assert_close(row.hints[end, plain.hint_width :], torch.cat((torch.ones(1), expected)))
    late = sequence.video_hints(tokens[:2], [None, bins[1]])  # what came before is not known: then nor is the sum
    assert late[:, plain.hint_width - 17].all() and not late[:, plain.hint_width :].any()


def test_positions_are_all_different():
    sequence, (tokens, bins) = make(), clip()
    positions = sequence.pack(tokens, [1, 2, 3], bins).positions
    assert len(positions.unique(dim=0)) == len(positions)
    assert positions[4:10].tolist() == [[0, y, x] for y in range(2) for x in range(3)]
    assert positions[-1].tolist() == [2, 1, 2]


def test_hints_describe_the_next_token_and_never_more():
    sequence, (tokens, bins) = make(), clip()
    row = sequence.pack(tokens, None, bins)
    last_action = 1 + 6 + 8 - 1  # its next token is place (0, 0) of latent 1
    slots, around, acts = row.hints[last_action].split((sequence.slots, sequence.layout._around, 1 + 2 * sequence.action_size))
    assert slots.nonzero().tolist() == [[1]]
    around = around.view(5, 5, -1)  # known, three codes, their squares
    known = torch.zeros(5, 5)
    known[2:4, 2:5] = 1  # place (0, 0) of a 2 x 3 latent stands in the middle
    assert torch.equal(around[..., 0], known)
    digits = lambda i: torch.tensor([(i % 5) / 4, i // 5 % 5 / 4, i // 25 / 1]) * 2 - 1  # noqa: E731
    for y in range(2):
        for x in range(3):
            codes = digits(int(tokens[0, y, x]))
            torch.testing.assert_close(around[2 + y, 2 + x, 1:], torch.cat((codes, codes**2)))
    values = torch.stack((bins[0, :, 0] / 6, bins[0, :, 1] / 4), 1).flatten() * 2 - 1
    torch.testing.assert_close(acts, torch.cat((torch.ones(1), values, values**2)))
    changed = tokens.clone()
    changed[1] = (changed[1] + 1) % 50
    other = sequence.pack(changed, None, bins)
    until_latent_2 = 1 + 6 + 8 + 6 + 8 - 1
    assert torch.equal(other.hints[:until_latent_2], row.hints[:until_latent_2])  # latent 1's hints come from latent 0 alone
    assert row.hints.shape[1] == sequence.model_vocabularies()["hint_width"]


def test_hints_know_the_actions_once_they_are_all_there():
    sequence, (tokens, bins) = make(), clip()
    other = bins.clone()
    other[1] = (other[1] + 1) % 5
    one, two = (sequence.pack(tokens, None, b).hints for b in (bins, other))
    last_action = 1 + 6 + 8 + 6 + 8 - 1  # of latent 2
    assert torch.equal(one[:last_action], two[:last_action]) and not torch.equal(one[last_action], two[last_action])


def test_wrong_input_is_refused():
    sequence = make()
    with pytest.raises(BadPrompt, match="at most 4"):
        sequence.text_piece([1] * 5)
    with pytest.raises(BadPrompt, match="multiple of 6"):
        sequence.unpack(torch.zeros(7, dtype=torch.int64))
    with pytest.raises(BadConfig, match="rate"):
        make(rate=0)


def test_longest_row_has_max_length():
    sequence, (tokens, bins) = make(), clip()
    assert len(sequence.pack(tokens, [1, 2, 3, 4], bins).ids) == sequence.max_length


def published(**settings) -> Sequence:
    usual = dict(video_vocab=50, vocab=70, bov=True, grid=(2, 3), rate=4, max_latents=3, action_bins=(7, 5))
    return Sequence(published_sequence(**(usual | settings)))


def test_the_published_order():
    """BOV right behind the video ids, at no position; the ids of actions are the embedding's last; neither text nor hints."""
    sequence, (tokens, bins) = published(), clip()
    ids, positions, hints, _ = sequence.pack(tokens, None, bins)
    assert ids[0] == 50 and positions[0].tolist() == [-1, -1, -1] and hints.shape == (len(ids), 0)
    assert len(ids) == 1 + 6 + 2 * (8 + 6) == sequence.max_length
    assert ids[7:9].tolist() == [58 + int(bins[0, 0, 0]), 65 + int(bins[0, 0, 1])]
    assert positions[7:11].tolist() == [[1, 2, 0], [1, 2, 1], [1, 3, 0], [1, 3, 1]]  # a line below the picture for each step
    assert positions[15:18].tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 2]]
    sizes = {"vocab": 70, "out_vocab": 50, "hint_width": 0, "scene_digits": 0, "scene_words": 0}
    assert sequence.model_vocabularies() == sizes and not sequence.predicts_actions
    bare = published(bov=False, action_bins=())
    assert bare.pack(tokens).ids.tolist() == tokens.flatten().tolist() and bare.max_length == 18
    assert make().predicts_actions and not make(action_bins=()).predicts_actions


@pytest.mark.parametrize("sequence", [make(action_sums=True), published(), published(bov=False)], ids=["own", "published", "no BOV"])
def test_a_row_that_grows_is_the_row_packed_at_once(sequence):
    """What is fed for the next latent, and the latent, continue what was fed before; the middle latent has no actions."""
    tokens, bins = clip()
    led_by = [None, None, bins[1]]
    late = torch.cat((torch.full_like(bins[:1], -1), bins[1:]))
    whole = sequence.pack(tokens, [3] if sequence.config.text_vocab else None, late)
    text = [3] if sequence.config.text_vocab else []
    for latents in (1, 2):
        begun = sequence.begun(text, tokens[:latents], led_by[:latents])
        coming = sequence.coming(text, tokens[:latents], led_by[:latents], led_by[latents])
        fed = torch.cat((begun.ids[:-1], coming.ids, tokens[latents].flatten()[:-1]))
        n = len(fed)
        assert torch.equal(fed, whole.ids[:n])
        assert torch.equal(torch.cat((begun.positions[:-1], coming.positions)), whole.positions[:n])
        assert torch.equal(torch.cat((begun.hints[:-1], coming.hints)), whole.hints[:n])


@pytest.mark.parametrize("wrong", [{"vocab": 60}, {"vocab": 0}], ids=str)
def test_published_ids_need_room(wrong):
    with pytest.raises(BadConfig, match="vocab"):
        published(**wrong)
    with pytest.raises(BadConfig, match="vocab: got 70, expected 0 unless published"):
        make(vocab=70)
    with pytest.raises(BadConfig, match="neither in a published"):
        make(published=True, vocab=90)
