"""The files of clips: all of them or none, batches that go on where they were cut short, places that cannot be written."""

import json
from datetime import datetime
from pathlib import Path

import pytest
import tiny_world as tiny

from wfm_ar.cli import main
from wfm_ar.data.video import write_video
from wfm_ar.errors import NoSpace
from wfm_ar.rollout.world_folder import save_world
from wfm_ar.verbs import generate, outputs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    save_world(folder / "world", tiny.make_parts())
    write_video(folder / "in.mp4", tiny.make_video(5), 10)
    (folder / "p.jsonl").write_text("".join(json.dumps({"id": name, "seed": i}) + "\n" for i, name in enumerate("abc")))
    return folder


@pytest.fixture
def batch(place, tmp_path, monkeypatch, capsys):
    """Runs a batch of three rows into tmp_path/clips -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*more: str) -> tuple[int, str, str]:
        code = main(["generate", f"world={place / 'world'}", f"batch={place / 'p.jsonl'}", "frames=3", "batch_size=1", "out=clips", *more])
        return code, *capsys.readouterr()

    return run


def full_from(call: int, monkeypatch) -> None:
    """The disk is full at this contact sheet, and from then on."""
    real, left = outputs.write_contact_sheet, [call]

    def write(*arguments, **named):
        left[0] -= 1
        if left[0] <= 0:
            raise NoSpace("sheet: no space left on the disk; fix: free some space")
        return real(*arguments, **named)

    monkeypatch.setattr(outputs, "write_contact_sheet", write)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_batch_that_was_cut_short_goes_on(batch, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        full_from(2, broken)
        code, _, err = batch()
    assert code == 2 and "no space left" in err
    first = times(tmp_path / "clips")
    assert first.keys() == {f"a{suffix}" for suffix in (".mp4", *outputs.BESIDE)}  # of the row that met the full disk nothing is left
    rolled = []
    real = generate._roll
    monkeypatch.setattr(generate, "_roll", lambda world, prompts, *rest: rolled.extend(prompts) or real(world, prompts, *rest))
    code, out, _ = batch()
    assert code == 0 and "a.mp4: made already" in out and [prompt.seed for prompt in rolled] == [1, 2]
    after = times(tmp_path / "clips")
    assert {name: after[name] for name in first} == first and len(after) == 15
    code, out, _ = batch()
    assert code == 0 and out.count("made already") == 3 and len(rolled) == 2
    assert batch("overwrite=true")[0] == 0 and len(rolled) == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda clips: (clips / "b.mp4").unlink(), "b.png: exists already"),  # a row without its clip is not made
        (lambda clips: (clips / "b.json").write_text("{}"), "b.mp4: exists already"),
        (lambda clips: (clips / "b.json").unlink(), "b.mp4: exists already"),
    ],
)
def test_rows_that_are_something_else_are_refused_before_the_work(batch, tmp_path, monkeypatch, change, told):
    assert batch()[0] == 0
    change(tmp_path / "clips")
    before = times(tmp_path / "clips")
    monkeypatch.setattr(generate, "_roll", lambda *arguments: pytest.fail("rolled"))
    code, _, err = batch()
    assert code == 2 and told in err and err.count("\n") == 1 and times(tmp_path / "clips") == before


def test_other_settings_make_other_clips(batch):
    assert batch()[0] == 0
    code, _, err = batch("temperature=0.5")
    assert code == 2 and "a.mp4: exists already" in err


def test_files_that_were_whole_when_their_process_was_killed_are_put_in_place(batch, tmp_path, capsys):
    assert batch()[0] == 0
    clips = tmp_path / "clips"
    (clips / ".new-b.mp4-123").mkdir()
    for path in clips.glob("b.*"):
        path.rename(clips / ".new-b.mp4-123" / path.name)
    (clips / ".tmp-c.mp4-123").mkdir()
    code, out, err = batch()
    assert code == 0 and out.count("made already") == 3
    assert "note: clips/b.mp4: a process that wrote it was stopped; its files were whole and are in their places now\n" in err
    assert len(times(clips)) == 15


VERBS = {
    "generate": ("world={}/world", "frames=3"),
    "generate save=lerobot": ("world={}/world", "frames=3"),
    "plan": ("world={}/world", "image={}/in.png", "goal={}/in.png"),
    "demo": ("world={}/world", "data={}/none"),
    "evaluate": ("world={}/world", "data={}/none"),
    "tokenize": ("world={}/world", "video={}/in.mp4"),
    "data convert": ("src={}/in.mp4",),
}


@pytest.mark.parametrize("words", VERBS)
def test_a_place_that_cannot_be_written_is_told_before_the_work(place, tmp_path, monkeypatch, capsys, words):
    monkeypatch.setattr("wfm_ar.rollout.world_folder.read_world", lambda *arguments: pytest.fail("a world was loaded"))
    monkeypatch.setattr("wfm_ar.rollout.world.read_world", lambda *arguments: pytest.fail("a world was loaded"))
    (tmp_path / "file").write_text("mine")
    name = {"tokenize": "a.npy", "generate": "a.mp4", "plan": "a.mp4"}.get(words, "a")
    assert main([*words.split(), *(word.format(place) for word in VERBS[words]), f"out={tmp_path / 'file' / name}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "file" in err and "fix: " in err and "cannot be written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_outputs_that_nobody_named_have_names_of_their_own(tmp_path, monkeypatch):
    """Two in one second too: the next is the first that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(outputs, "datetime", Stopped)
    made = []
    for _ in range(3):
        path = outputs.new_output("plan", ".mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        made.append(path.as_posix())
    assert made == [f"outputs/plan/2026-01-02_03-04-05{more}.mp4" for more in ("", "-2", "-3")]
    assert outputs.new_output("generate", "").as_posix() == "outputs/generate/2026-01-02_03-04-05"


class Stopped(datetime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz=None):
        return datetime(2026, 1, 2, 3, 4, 5, tzinfo=tz)
