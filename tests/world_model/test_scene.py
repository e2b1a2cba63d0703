"""The scene reader: a vector where an action is due, of the latent before it and the text."""

import pytest
import torch
import torch.nn.functional as F

from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig
from wfm_ar.world_model.scene import SceneReader, Scenes

CONFIG = SequenceConfig(
    video_vocab=9, levels=(3, 3), grid_h=4, grid_w=5, rate=1, action_bins=(5, 5), text_vocab=300, max_text=6, max_latents=4
)
TOKENS = torch.randint(9, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
BINS = torch.randint(5, (2, 2, 1, 2), generator=torch.Generator().manual_seed(1))


def reader(words: int = 300) -> SceneReader:
    torch.manual_seed(0)
    made = SceneReader(digits=2, words=words, channels=8, blocks=1, dim=16)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def packed(sequence: Sequence, texts, bins=BINS):
    rows = sequence.pack_rows(TOKENS, texts, bins)
    follows = F.pad(sequence.follows(rows.actions, rows.ids.shape[1])[:, 1:], (0, 1), value=-1)
    return rows, sequence.scenes(TOKENS, sequence.words(texts), follows)


def test_scenes_are_the_latents_that_actions_follow():
    sequence = Sequence(CONFIG)
    bins = BINS.clone()
    bins[1, 0] = -1  # no action leads to the second row's second latent
    rows, scenes = packed(sequence, [[7, 8], None], bins)
    acting = (rows.ids >= sequence.action_start) & (rows.ids < sequence.text_start)
    assert torch.equal(scenes.at_BL[:, :-1] >= 0, acting[:, 1:])
    assert [sorted(set(row[row >= 0].tolist())) for row in scenes.at_BL] == [[0, 1], [2]]
    digits = torch.stack((TOKENS % 3, TOKENS // 3), 2)[[0, 0, 1], [0, 1, 1]]
    assert torch.equal(scenes.codes_Snhw, digits.float() - 1)
    assert scenes.words_ST[:, :3].tolist() == [[7, 8, -1], [7, 8, -1], [-1, -1, -1]]


def test_a_lone_rows_pack_and_a_rollouts_pieces_tell_the_same_scenes():
    sequence, led_by = Sequence(CONFIG), [None, *BINS[0]]
    whole = sequence.pack(TOKENS[0], [7, 8], BINS[0])
    begun = sequence.begun([7, 8], TOKENS[0, :2], led_by[:2])
    coming = sequence.coming([7, 8], TOKENS[0, :2], led_by[:2], led_by[2])
    assert torch.equal(torch.cat((begun.follows[:-1], coming.follows)), whole.follows[:-1])
    assert whole.follows[-1] == -1 and set(whole.follows.tolist()) == {-1, 0, 1}


def test_a_scene_has_the_bits_that_it_has_alone():
    scenes, network = packed(Sequence(CONFIG), [[7, 8], [9]])[1], reader()
    with torch.no_grad():
        together = network(scenes)[0]
        for i in range(len(scenes.codes_Snhw)):
            alone = network(Scenes(scenes.codes_Snhw[i : i + 1], scenes.words_ST[i : i + 1], torch.zeros(1, 1, dtype=torch.int64)))[0]
            assert torch.equal(together[scenes.at_BL == i][0], alone[0, 0])
        assert not together[scenes.at_BL < 0].any()


@pytest.mark.parametrize("change", ["picture", "word", "order", "place"])
def test_what_is_found_depends_on_the_picture_and_on_the_text(change):
    network, codes, words = reader(), torch.zeros(1, 2, 4, 5), torch.tensor([[7, 8, -1]])
    codes[0, :, 1, 1] = 1
    other, said = codes.clone(), words.clone()
    if change == "picture":
        other[0, 0, 1, 1] = -1
    if change == "word":
        said[0, 1] = 9
    if change == "order":
        said = torch.tensor([[8, 7, -1]])
    if change == "place":
        other = codes.roll(1, 3)
    with torch.no_grad():
        assert not torch.allclose(network.found(codes, words)[0], network.found(other, said)[0], atol=1e-3)
        longer = F.pad(words, (0, 3), value=-1)
        assert torch.allclose(network.found(codes, words)[0], network.found(codes, longer)[0], rtol=1e-4, atol=1e-4)


def test_a_world_without_texts_reads_pictures_alone():
    network = reader(words=0)
    assert network.found(torch.zeros(1, 2, 4, 5), torch.full((1, 1), -1))[0].shape == (1, 16)


def test_its_weights_learn_though_a_batch_has_no_action():
    """Ranks that share a step must have gradients of the same weights."""
    sequence = Sequence(CONFIG)
    model = WorldModel(WorldModelConfig(layers=1, dim=16, heads=2, kv_heads=1, head_dim=8, hidden=16, scene_channels=8, scene_blocks=1,
                                        **sequence.model_vocabularies()))  # fmt: skip
    rows, scenes = packed(sequence, [None, None], torch.full_like(BINS, -1))
    assert not (scenes.at_BL >= 0).any() and len(scenes.codes_Snhw) == 1
    hints = torch.zeros(*rows.ids.shape, sequence.hint_width)
    model(rows.ids, rows.positions, hints_BLF=hints, scenes=scenes).sum().backward()
    assert model.scene is not None and all(parameter.grad is not None for parameter in model.scene.parameters())
