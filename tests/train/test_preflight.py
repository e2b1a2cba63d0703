"""What would end a stage hours later is told before the first one begins, in one line."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_stages import TOKENIZER

from wfm_ar.data import write_episode, write_episodes
from wfm_ar.data.formats import open_episodes
from wfm_ar.diffusion_decoder.denoiser import DenoiserConfig
from wfm_ar.errors import BadConfig, BadData
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.train import preflight
from wfm_ar.train.diffusion_decoder_stage import DiffusionDecoderTraining
from wfm_ar.train.preflight import Needs, check_needs, long_texts
from wfm_ar.train.stages import STAGES
from wfm_ar.train.video_tokenizer_stage import VideoTokenizerTraining
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.world_model import WorldModelConfig

FRAMES = np.random.default_rng(0).integers(0, 256, (9, 16, 24, 3), dtype=np.uint8)
SCHEMA = ActionSchema(channels=tuple(ActionChannel(name=name, unit="m", low=-1, high=1) for name in ("dx", "dy")), rate_hz=10)
SMALL = {"window": 5, "crop": 8}
NEEDS = Needs(
    stages=STAGES,
    tokenizer=TOKENIZER,
    model=WorldModelConfig(layers=1, dim=16, heads=2, kv_heads=1, head_dim=8, hidden=16),
    decoder=DenoiserConfig(channels=(8,), blocks=(1,)),
    windows={"video_tokenizer": VideoTokenizerTraining(**SMALL), "diffusion_decoder": DiffusionDecoderTraining(**SMALL)},
    world_model=WorldModelTraining(),
    max_latents=3,
    max_text=16,
    text_vocab=300,
    action_sums=True,
    hint_latents=1,
)


@pytest.fixture
def data(tmp_path):
    """Three episodes to train on and one held out; each with its text and eight rows of two actions."""
    root, records = tmp_path / "set", []
    for i in range(4):
        actions = np.linspace(-1, 1, 16, dtype=np.float32).reshape(8, 2)
        keys = dict(fps=10, split="val" if i == 3 else "train", text=f"push block {i}", actions=actions)
        records.append(write_episode(root, id=f"e{i}", frames_THWC=FRAMES, **keys))
    write_episodes(root, records, SCHEMA)
    return root


def check(data, needs=NEEDS):
    found, run = open_episodes(data), data.parent / "run"
    check_needs(run, needs, found.of_split("train"), found.of_split("val"), None, 2)
    return run


def test_a_sound_set_passes_and_is_not_read_again_until_its_bytes_change(data, monkeypatch):
    looked = []
    real = preflight.episode_defects
    monkeypatch.setattr(preflight, "episode_defects", lambda episodes, i: looked.append(episodes[i].id) or real(episodes, i))
    run = check(data)
    assert [path.name for path in run.iterdir()] == [preflight.SOUND] and sorted(looked) == ["e0", "e1", "e2", "e3"]
    looked.clear()
    check(data)
    assert not looked
    path = data / "videos/e1.mp4"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadData, match="e1.mp4"):
        check(data)
    assert looked == ["e1"]
    (run / preflight.SOUND).write_bytes(b"\xff\x00")
    with pytest.raises(BadData, match="e1.mp4"):
        check(data)
    assert len(looked) == 5


def test_a_run_that_is_refused_leaves_nothing(data):
    with pytest.raises(BadData, match="expected some of window=11 or more"):
        check(data, replace(NEEDS, windows=NEEDS.windows | {"diffusion_decoder": DiffusionDecoderTraining(window=11, crop=8)}))
    assert not (data.parent / "run").exists()


def test_a_text_too_long_for_the_sequence(data):
    """The held-out episode's: training on its own texts would not have met it before the first validation of stage 2."""
    long = "0123456789" * 4
    index = data / "episodes.jsonl"
    index.write_text(index.read_text().replace("push block 3", long))
    line = r"set episode e3: text of \d+ tokens \(40 characters\), expected at most sequence.max_text=16; fix: .*sequence.max_text=\d+$"
    with pytest.raises(BadData, match=line) as caught:
        check(data)
    needed = int(str(caught.value).rpartition("=")[2])
    text = TextTokenizer.train([f"push block {i}" for i in range(3)], vocab_size=300, max_tokens=needed)
    assert len(text.encode(long)) == needed > 16 and not (data.parent / "run").exists()
    check(data, replace(NEEDS, max_text=needed))
    check(data, replace(NEEDS, stages=("video_tokenizer",)))
    (defect,) = long_texts([open_episodes(data)], text, 16, begun=True)
    assert str(defect).endswith("fix: shorten it, or train without init=")


def test_not_a_number_names_episode_row_and_channel(data):
    rows = np.load(data / "actions/e3.npy")
    rows[5, 1] = np.nan
    np.save(data / "actions/e3.npy", rows)
    with pytest.raises(BadData, match=r"actions/e3.npy: got 1 NaN or infinite values, the first in row 5 \(dy\), expected finite"):
        check(data)


def test_episodes_that_cannot_be_read_are_counted(data):
    for name in ("e1", "e3"):
        path = data / f"videos/{name}.mp4"
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BadData, match=rf"videos/e1.mp4: .* \(and 1 more: `wfm data check {data}` lists them\); fix: ") as caught:
        check(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error", "line"),
    [
        ({"windows": NEEDS.windows | {"diffusion_decoder": DiffusionDecoderTraining(window=6, crop=8)}}, BadConfig, "window: got 6 frames"),
        ({"windows": NEEDS.windows | {"diffusion_decoder": DiffusionDecoderTraining(window=5, crop=9)}}, BadConfig, "crop: got 9"),
        ({"windows": NEEDS.windows | {"diffusion_decoder": DiffusionDecoderTraining(window=11, crop=8)}}, BadData,
         "got 3 episodes of 9 frames at most, expected some of window=11 or more"),
        ({"decoder": replace(NEEDS.decoder, patch=16, spatial_compression=16)}, BadConfig, "diffusion decoder: patch: got 16"),
        ({"text_vocab": 100}, BadConfig, "text vocab_size: got 100"),
        ({"max_latents": 0}, BadConfig, "sequence max_latents: got 0"),
    ],
)  # fmt: skip
def test_what_later_stages_cannot_be_made_of(data, changes, error, line):
    with pytest.raises(error, match=line):
        check(data, replace(NEEDS, **changes))
    first = replace(NEEDS, stages=("video_tokenizer",), **changes)
    check(data, first)  # stage 1 alone has no use for it


def test_a_policy_without_actions(data):
    index = data / "episodes.jsonl"
    lines = [line for line in index.read_text().splitlines()]
    index.write_text("\n".join(line.replace('"actions": "actions/', '"state": "actions/') for line in lines))
    share = replace(NEEDS, world_model=WorldModelTraining(policy_share=0.5))
    with pytest.raises(BadData, match="got no episode with actions, expected some for policy_share=0.5; fix: policy_share=0"):
        check(data, share)
