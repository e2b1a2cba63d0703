"""Done means: point `wfm train data=PATH` at real data of each format, and it trains. And robots of any width, alone or mixed."""

import json
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.cli import main
from wfm_ar.data import open_episodes, write_episode, write_episodes
from wfm_ar.rollout.world import load_world
from wfm_ar.schema import ActionChannel, ActionSchema

REAL = Path(__file__).parents[3] / "shared" / "real"
TINY = ["experiment=smoke", "steps=2", "batch_size=2", "num_workers=0", "tokenizer.height=32", "tokenizer.width=32", "log_every=1"]
TINY += ["stages.video_tokenizer.training.val_clips=1", "stages.diffusion_decoder.training.val_clips=1"]


def needs(name: str) -> Path:
    if not (REAL / name).exists():
        pytest.skip(f"real clips {name} are not beside this checkout")
    if name.startswith("lerobot"):
        pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
    return REAL / name


def train(data, run, *more) -> int:
    return main(["train", "stage=all", *TINY, f"data={data}", f"run={run}", *more])


@pytest.mark.parametrize(
    ("name", "found", "channels", "texts"),
    [
        ("lerobot_v3/bridge", "LeRobot v3.0, 1 episode", 7, True),
        ("lerobot_v3/fractal", "LeRobot v3.0, 1 episode", 7, True),
        ("lerobot_v3/robomind_franka", "LeRobot v3.0, 1 episode", 8, True),
        ("bridge", "videos with .npz actions, 9 episodes", 10, False),
        ("octo_bridge", "RLDS episodes in TFRecord, 25 episodes", 7, True),
    ],
)
def test_real_data_trains(name, found, channels, texts, tmp_path, capsys):
    assert train(needs(name), tmp_path / "run") == 0
    out, err = capsys.readouterr()
    assert found in out and "the world is in" in out, err
    world = load_world(tmp_path / "run" / "world")
    assert world.action_schema.width == channels and (world.parts.text_tokenizer is not None) == texts
    assert bool(texts and world.parts.text_tokenizer.words) == texts, "the words of the training texts go into the world"
    rollout = world.generate(num_frames=5, refine=False)
    assert rollout.frames.shape == (5, 32, 32, 3) and rollout.actions.shape == (4, channels) and np.isfinite(rollout.actions).all()
    assert len(open_episodes(tmp_path / "run" / "world" / "samples")) == 1
    from_run, data = [f"from_run={tmp_path / 'run'}"], f"data={REAL / name}"
    split = "val" if "val" in {episode.split for episode in open_episodes(REAL / name)} else "train"
    measure = ["frames=5", "episodes=2", "batch=2", "examples=1", "speed_runs=0", "demo=false", f"split={split}"]
    for verb, *words in (
        ("data check", str(REAL / name), "sheet=null"),
        ("tokenize", *from_run, data, f"out={tmp_path / 'tokens'}"),
        ("tokenize", *from_run, data, f"out={tmp_path / 'run' / 'tokens'}"),  # those of stage 2: nothing is left to do
        ("generate", f"world={tmp_path / 'run' / 'world'}", data, "frames=5", "refine=false", f"out={tmp_path / 'a.mp4'}"),
        ("evaluate", f"world={tmp_path / 'run' / 'world'}", data, *measure, f"out={tmp_path / 'report'}"),
    ):
        assert main([*verb.split(), *words]) == 0, (verb, capsys.readouterr().err)
    truth = open_episodes(REAL / name).of_split(split).load_actions(0)[:4]
    assert (np.load(tmp_path / "a.actions.npy") == truth).all()
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["prediction"]["loss"] > 0 and "rollout" not in report["not_measured"] and report["rollout"]["psnr_raw_last"] > 0


@pytest.fixture(scope="module")
def robots(tmp_path_factory) -> Path:
    """Three sets, of robots with 2, 7 and 14 channels."""
    root, rng = tmp_path_factory.mktemp("robots"), np.random.default_rng(0)
    for width in (2, 7, 14):
        records = []
        for i in range(3):
            frames = np.repeat(rng.integers(0, 256, (1, 32, 32, 3), np.uint8), 9, 0)
            actions = rng.uniform(-1, 1, (8, width))
            records.append(
                write_episode(
                    root / f"robot{width}", id=f"e{i}", frames_THWC=frames, fps=10, split="val" if i else "train", actions=actions
                )
            )
        channels = tuple(ActionChannel(name=f"c{i}", unit="", low=-1, high=1, bins=8) for i in range(width))
        write_episodes(root / f"robot{width}", records, ActionSchema(channels=channels, rate_hz=10))
    return root


@pytest.mark.parametrize("width", [14])  # 2: the tabletop's smoke test; 7: the real sets above
def test_any_width_trains_by_config_alone(robots, width, tmp_path):
    assert train(robots / f"robot{width}", tmp_path / "run") == 0
    world = load_world(tmp_path / "run" / "world")
    assert world.action_schema.width == width and world.sequence.action_size == 4 * width
    assert world.generate(num_frames=5, refine=False).actions.shape == (4, width)


def test_robots_of_several_widths_train_together(robots, tmp_path, capsys):
    data = ":".join(str(robots / f"robot{width}") for width in (2, 7, 14))
    assert train(data, tmp_path / "run") == 0
    folder = tmp_path / "run" / "world"
    capsys.readouterr()
    assert main(["info", str(folder)]) == 0
    told = capsys.readouterr().out
    assert all(f"embodiment robot{width}, 10 a second" in told for width in (2, 7, 14))
    ranges = []
    for width in (2, 7, 14):
        world = load_world(folder, embodiment=f"robot{width}")
        rollout = world.generate(num_frames=5, refine=False)
        assert rollout.actions.shape == (4, width) and np.abs(rollout.actions).max() <= 1
        driven = world.generate(num_frames=5, refine=False, actions=np.zeros((4, width), np.float32))
        assert driven.frames.shape == (5, 32, 32, 3) and not driven.actions.any()
        ranges.append({i for c in range(width) for i in range(*world.sequence.action_range(c))})
    assert not ranges[0] & ranges[1] and not ranges[1] & ranges[2] and not ranges[0] & ranges[2]  # tokens do not collide
    assert load_world(folder).generate(num_frames=5, refine=False).actions is None
    for words, line in (
        (["embodiment=robot3"], "embodiment: got 'robot3'"),
        ([f"actions={robots / 'robot2/actions/e0.npy'}"], "embodiment= too, one of robot2, robot7, robot14"),
    ):
        assert main(["generate", f"world={folder}", *words, "frames=5", f"out={tmp_path / 'no.mp4'}"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and line in err
    words = [f"actions={robots / 'robot7/actions/e0.npy'}", "embodiment=robot7", "frames=5", f"out={tmp_path / 'yes.mp4'}"]
    assert main(["generate", f"world={folder}", *words]) == 0
