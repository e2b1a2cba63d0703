"""text=frame from the files to the rows of training: actions and what they lead to are learnt under the text that was told with them."""

import json

import numpy as np
import pytest
import tfrecord_maker as maker
import tiny_stages as tiny

from wfm_ar.data import open_episodes, write_image
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.stages import sequence_config
from wfm_ar.train.tokens import tokenize
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import WorldModelConfig

STEPS = 16
TEXTS = [  # of each step of two episodes; one part is a single step, less than a latent
    ["reach the cube"] * 7 + ["lift it up"] * 9,
    ["", "lift it up"] + ["reach the cube"] * 5 + ["do nothing"] + ["push left"] * 8,
]
SCHEMA = ActionSchema(channels=(ActionChannel(name="step", unit="", low=0, high=2 * STEPS - 1, bins=2 * STEPS),), rate_hz=5)


@pytest.fixture
def rlds(tmp_path):
    """The action of step t of episode e is e * STEPS + t, which is its bin too."""
    records = []
    for episode, texts in enumerate(TEXTS):
        pictures = []
        for t in range(STEPS):
            path = tmp_path / f"{episode}-{t}.png"
            write_image(path, np.full((16, 24, 3), 60 * episode + 10 * t, np.uint8))
            pictures.append(path.read_bytes())
        actions = np.arange(episode * STEPS, (episode + 1) * STEPS, dtype=np.float32)
        words = {"steps__language_instruction": [text.encode() for text in texts]}
        records.append(maker.example(steps__observation__front=pictures, steps__action=actions, **words))
    (tmp_path / "set").mkdir()
    maker.write_records(tmp_path / "set/two-train.tfrecord-00000-of-00001", records)
    (tmp_path / "set/actions.json").write_text(json.dumps(SCHEMA.to_json()))
    return tmp_path / "set"


def rows(stage, steps):
    """(text ids, the steps whose actions are in it) of each row of some batches."""
    sequence = stage.sequence
    for number in range(steps):
        batch = stage.batch(number, 4, 0)
        for ids, bins in zip(batch["ids"].tolist(), batch["bins"], strict=True):
            begin = ids.index(sequence.bov)
            yield tuple(one - sequence.text_start for one in ids[:begin]), bins[bins >= 0].tolist()


def make(store, text, schema):
    sequence = sequence_config(tiny.TOKENIZER, text, schema, max_latents=4, max_text=16, action_sums=False, hint_latents=1)
    model = WorldModelConfig(layers=1, dim=32, heads=2, kv_heads=1, head_dim=16, hidden=48, theta=100.0)
    training = WorldModelTraining(short=2, val_clips=1, text_dropout=0.0, action_dropout=0.0, corrupt=0.0)
    return WorldModelStage(model, sequence, training, store, store, text, schema)


def test_rows_have_the_text_of_their_own_steps(rlds, tmp_path):
    told = {e * STEPS + t: text or "lift it up" for e, texts in enumerate(TEXTS) for t, text in enumerate(texts)}
    text = TextTokenizer.train(sorted(set(told.values())), vocab_size=300, max_tokens=16)
    expected = {tuple(text.encode(words)): words for words in set(told.values())}
    wrong = {}
    for choice in ("first", "frame"):
        episodes = open_episodes(rlds, text=choice)
        store = tokenize(VideoTokenizer(tiny.TOKENIZER), episodes, tmp_path / choice)
        assert store.texts == [episode.text for episode in episodes]
        found = [(expected[ids], step) for ids, steps in rows(make(store, text, episodes.schema), 30) for step in steps]
        assert {words for words, _ in found} == {"reach the cube", "lift it up"} | ({"push left"} if choice == "frame" else set())
        wrong[choice] = sum(words != told[step] for words, step in found) / len(found)
    assert wrong["frame"] == 0 and wrong["first"] > 0.4
    parts = open_episodes(rlds, text="frame")
    assert [len(parts.load_frames(i)) for i in range(len(parts))] == [8, 9, 3, 6, 2, 8]
    every = np.concatenate([parts.load_actions(i) for i in range(len(parts))])[:, 0].tolist()
    assert every == [*range(STEPS - 1), *range(STEPS, 2 * STEPS - 1)]  # the last ones lead nowhere
