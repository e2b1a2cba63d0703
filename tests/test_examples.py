"""The programs of docs/examples/, each at a tiny size, and those parts of README and docs that take seconds, as printed."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import wfm_ar
from wfm_ar.cli import main as wfm

EXAMPLES = Path(wfm_ar.__file__).resolve().parent.parent / "docs" / "examples"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not EXAMPLES.is_dir(), reason="needs the checkout")]


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "samples"
    assert wfm(["samples", f"out={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def rate() -> int:
    return wfm_ar.load_world("tabletop").rate


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_futures(samples, rate, tmp_path):
    frames = example("futures").main(samples / "start.png", "move at random", 2, 1 + 2 * rate, tmp_path / "f.mp4")
    one, other = np.split(frames, 2, axis=2)
    assert len(frames) == 1 + 2 * rate and (tmp_path / "f.mp4").is_file()
    assert np.array_equal(one[0], other[0]) and not np.array_equal(one[-1], other[-1])


def test_gamepad_loop(samples, rate, tmp_path):
    frames = example("gamepad_loop").main(samples / "start.png", 2, tmp_path / "no_gamepad", tmp_path / "g.mp4")
    assert len(frames) == 1 + 2 * rate and not np.array_equal(frames[0], frames[-1])


def test_a_gamepad_is_read(tmp_path):
    module = example("gamepad_loop")
    events = [(0, 32767, 2, 0), (1, -16384, 2 | 0x80, 1), (2, 1, 1, 0), (3, 9, 2, 5)]  # two axes; a button; another axis
    (tmp_path / "js0").write_bytes(b"".join(module.EVENT.pack(*event) for event in events))
    assert module.Stick(tmp_path / "js0").read() == pytest.approx((1.0, 0.5), abs=1e-3)


def test_plan_to_goal(samples, rate, tmp_path):
    costs = example("plan_to_goal").main(samples / "start.png", samples / "goal.png", 1 + 8 + rate, 2, 1, tmp_path / "p.mp4")
    assert len(costs) == 2 and all(0 < cost < 255 for cost in costs) and (tmp_path / "p.mp4").is_file()


def test_train_on_lerobot(samples, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    stages = ("video_tokenizer", "world_model", "diffusion_decoder")
    few = [f"stages.{stage}.{key}" for stage in stages for key in ("steps=4", "val_every=4", "checkpoint_every=4")]
    world = example("train_on_lerobot").main(samples / "episodes", tmp_path / "set", tmp_path / "run", [*few, "num_workers=0"])
    assert (world / "world.json").is_file() and (tmp_path / "run" / "first.mp4").is_file()
    assert wfm_ar.load_world(world).action_schema is not None


def test_agent_in_world(samples):
    pytest.importorskip("gymnasium")
    rewards = example("agent_in_world").main(samples / "start.png", samples / "goal.png", 2, 2)
    assert len(rewards) == 2 and all(-255 < reward < 0 for reward in rewards)


def test_score_policies(samples):
    found = example("score_policies").main(samples / "start.png", samples / "goal.png", None, 1, 1)
    assert set(found) == {"still", "right", "imagined"} and list(found.values()) == sorted(found.values())


def test_surprise_map(samples, rate, tmp_path):
    module = example("surprise_map")
    nats = module.main(samples / "episodes", 1, 1 + 2 * rate, tmp_path / "s.mp4")
    assert nats.shape[0] == 3 and (nats >= 0).all()
    world = wfm_ar.load_world("tabletop")
    noise = np.random.default_rng(0).integers(0, 256, (1 + 2 * rate, world.height, world.width, 3), dtype=np.uint8)
    odd = module.surprise(world, noise, np.zeros((2 * rate, 2), np.float32), None)
    assert odd[1:].mean() > 2 * nats[1:].mean()  # noise surprises more than what it was trained on


def test_the_notebook_is_the_example_and_runs(tmp_path, monkeypatch):
    import json
    import runpy

    spec = importlib.util.spec_from_file_location("notebook", EXAMPLES.parents[1] / "tools" / "notebook.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    kept = json.loads(maker.NOTEBOOK.read_text())
    assert kept == maker.notebook(), "fix: python tools/notebook.py"
    code = ["".join(cell["source"]) for cell in kept["cells"] if cell["cell_type"] == "code"]
    script = "\n".join(code).replace('"move at random", 4, 33', '"move at random", 2, 9').replace("[0, 8, 16, 32]", "[0, 8]")
    (tmp_path / "cells.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    frames = runpy.run_path(str(tmp_path / "cells.py"))["frames"]
    assert len(frames) == 9 and (tmp_path / "futures.mp4").is_file()


def test_every_example_is_on_the_page_and_tested():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    page = (EXAMPLES.parent / "examples.md").read_text()
    here = Path(__file__).read_text()
    assert names and all(f"docs/examples/{name}.py" in page and f'example("{name}")' in here for name in names)


QUICK = (
    "--help",
    "doctor",
    "version",
    "samples",
    "generate",
    "info",
    "data check",
    "data stats",
)  # and `plan`, which takes half a minute, once
ELSEWHERE = ("runs/", "mydata", "robot/", "recordings", "data/", "worlds/", "hf://")  # what a reader has, or makes in hours
PAGES = {"README.md": 4, "docs/quickstart.md": 5, "docs/rollout.md": 7, "docs/robot.md": 3}  # -> commands that are run, at least


def quick_commands(page: str) -> list[str]:
    """The page's commands that take seconds and whose inputs are there by then, as printed, in order."""
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", (EXAMPLES.parents[1] / page).read_text())
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("wfm ")]
    quick = (*QUICK, "plan") if page == "README.md" else QUICK
    return [line for line in lines if line.removeprefix("wfm ").startswith(quick) and not any(word in line for word in ELSEWHERE)]


@pytest.mark.parametrize("page", PAGES)
def test_a_pages_quick_commands_and_python_as_printed(page, tmp_path):
    """In one folder that is empty at first, through a shell, on the installed command line; then the page's Python."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    lines = quick_commands(page)
    assert len(lines) >= PAGES[page] and any(line.startswith("wfm samples out=samples") for line in lines), lines
    script = "\n".join(["set -euo pipefail", f'wfm() {{ "{sys.executable}" -m wfm_ar "$@"; }}', *lines])
    run = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    for made in re.findall(r" out=([\w./]+)", "\n".join(lines)):
        assert (tmp_path / made).exists(), made
    code = "\n".join(re.findall(r"(?ms)^```python\n(.*?)^```", (EXAMPLES.parents[1] / page).read_text()))
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
