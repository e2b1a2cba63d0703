"""`wfm push` and worlds and data sets by their address, on a stand-in for the hub on loopback."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from wfm_ar.cli import main
from wfm_ar.errors import BadCheckpoint, HubError
from wfm_ar.rollout.find_world import SHIPPED
from wfm_ar.rollout.world import load_world, save_world

constants = pytest.importorskip("huggingface_hub.constants")
from hub_server import Hub, set_on  # noqa: E402
from tiny_world import make_parts  # noqa: E402

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
REPORT = {"world_sha256": "", "data": "arm", "episodes": 7, "started": "2026-01-02T03:04:05+00:00", "machine": {"name": "a laptop"}}
REPORT |= {"versions": {"wfm-ar": "0.2.0"}, "bars": [{"key": "tokenizer.psnr", "measured": 31.5, "passed": True, "reaches_aim": False}]}
REPORT |= {"verdict": {"alarms": [], "good_for": ["following actions"], "not_good_for": ["fine detail\x1b[2J"], "next": []}}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = Hub()
    set_on(monkeypatch, server.url, tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    server.private = TOKEN
    yield server
    server.close()


@pytest.fixture
def world(tmp_path) -> Path:
    return save_world(tmp_path / "mine" / "world", make_parts(), card="# mine\n\nTrained on a table.\n")


def report_of(world: Path, path: Path, **changed) -> Path:
    sha = hashlib.sha256((world / "world.json").read_bytes()).hexdigest()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(REPORT | {"world_sha256": sha} | changed))
    return path


def wfm(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    assert TOKEN not in out + err
    return code, out, err


def test_a_world_goes_up_and_comes_back(hub, world, capsys):
    code, out, err = wfm(capsys, "push", f"world={world}", "to=hf://me/table")
    commit = hub.branches["models/me/table"]["main"]
    assert code == 0 and out.startswith(f"hf://me/table@{commit}: ") and out.count("\n") == 2 and "wfm evaluate" in out and not err
    assert hub.made["models/me/table"]["name"] == "table" and hub.messages == ["wfm push: world"]
    back, sent = load_world("hf://me/table"), load_world(world)
    assert back.name == "table"
    for name, module in sent.parts.modules().items():
        other = back.parts.modules()[name].state_dict()
        assert all(torch.equal(tensor, other[key]) for key, tensor in module.state_dict().items())
    code, out, err = wfm(capsys, "info", "hf://me/table")
    assert code == 0 and out.startswith("table: ") and commit in out


def test_a_repository_is_private_unless_told_otherwise(hub, world, capsys):
    wfm(capsys, "push", f"world={world}", "to=hf://me/hidden")
    wfm(capsys, "push", f"world={world}", "to=hf://me/seen", "private=false")
    seen = [hub.made[f"models/me/{name}"] for name in ("hidden", "seen")]
    assert [one.get("private", one.get("visibility") == "private") for one in seen] == [True, False]


def test_what_was_there_is_replaced_in_one_commit(hub, world, capsys):
    hub.put("models/me/table", {"old.safetensors": b"x", "world.json": b"{}", ".gitattributes": b"y"})
    code, out, err = wfm(capsys, "push", f"world={world}", "to=hf://me/table", "message=a new one")
    files = hub.files("models/me/table")
    assert code == 0 and "old.safetensors" not in files and files[".gitattributes"] == b"y", err
    assert len(hub.commits["models/me/table"]) == 2 and hub.messages == ["a new one"]


def test_a_branch_leaves_main_alone(hub, world, capsys):
    before = hub.put("models/me/table", {"a.txt": b"x"})
    assert wfm(capsys, "push", f"world={world}", "to=hf://me/table@v2")[0] == 0
    assert hub.branches["models/me/table"]["main"] == before and "world.json" in hub.files("models/me/table", "v2")
    assert load_world("hf://me/table@v2").name == "table"
    code, out, err = wfm(capsys, "push", f"world={world}", f"to=hf://me/table@{before}")
    assert code == 2 and "expected a branch or none" in err


def test_the_card_says_what_the_report_does(hub, world, capsys):
    report = report_of(world, world.parent / "verdict" / "report.json")
    assert wfm(capsys, "push", f"world={world}", "to=hf://me/table", "license=apache-2.0")[0] == 0
    files = hub.files("models/me/table")
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: wfm-ar\n") and 'license: "apache-2.0"\n---\n# table\n' in card
    assert "- following actions" in card and "- fine detail\\x1b[2J" in card and "31.50 dB" in card and "7 held-out episodes of arm" in card
    assert card.count("Trained on a table.") == 1 and "# mine" not in card and "wfm generate world=hf://me/table " in card
    assert files["report.json"] == report.read_bytes()
    listed = json.loads(files["world.json"])["files"]["README.md"]
    assert listed == {"bytes": len(files["README.md"]), "sha256": hashlib.sha256(files["README.md"]).hexdigest()}


def test_a_card_does_not_grow_when_a_world_goes_on(hub, world, capsys):
    wfm(capsys, "push", f"world={world}", "to=hf://me/table")
    first = hub.files("models/me/table")["README.md"]
    assert wfm(capsys, "push", "world=hf://me/table", "to=hf://you/table")[0] == 0
    assert hub.files("models/you/table")["README.md"] == first.replace(b"hf://me/", b"hf://you/")


def test_a_report_of_another_world_is_refused(hub, world, tmp_path, capsys):
    report = report_of(world, tmp_path / "report.json", world_sha256="0" * 64)
    code, out, err = wfm(capsys, "push", f"world={world}", "to=hf://me/table", f"report={report}")
    assert code == 2 and "is of a world.json of sha256 000" in err and not hub.commits
    report_of(world, world.parent / "verdict" / "report.json", world_sha256="0" * 64)  # of an earlier state of the run
    assert wfm(capsys, "push", f"world={world}", "to=hf://me/table")[0] == 0
    assert b"Not measured" in hub.files("models/me/table")["README.md"]


@pytest.mark.parametrize(
    "changed", [{"bars": [{"key": "x"}]}, {"bars": 3}, {"verdict": {"alarms": [3]}}, {"machine": None}, {"episodes": "7"}]
)
def test_a_report_that_is_none_is_refused(hub, world, tmp_path, capsys, changed):
    report = report_of(world, tmp_path / "report.json", **changed)
    code, out, err = wfm(capsys, "push", f"world={world}", "to=hf://me/table", f"report={report}")
    assert code == 2 and f"{next(iter(changed))}: is not as `wfm evaluate` writes it" in err and not hub.asked


def test_a_broken_world_is_not_uploaded(hub, world, capsys):
    path = world / "world_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    code, out, err = wfm(capsys, "push", f"world={world}", "to=hf://me/table")
    assert code == 2 and "world_model.safetensors: got sha256" in err and not hub.asked


@pytest.mark.parametrize("name", ["world_model.safetensors", "README.md"])
def test_a_world_that_was_changed_on_the_hub_is_refused(hub, world, capsys, name):
    wfm(capsys, "push", f"world={world}", "to=hf://me/table")
    files = hub.files("models/me/table")
    hub.put("models/me/table", files | {name: files[name][:-1] + b"\1"})
    with pytest.raises(BadCheckpoint, match=rf"{name}: got sha256"):
        load_world("hf://me/table")


def test_what_world_json_does_not_list_is_not_fetched(hub, world, capsys):
    wfm(capsys, "push", f"world={world}", "to=hf://me/table")
    hub.put("models/me/table", hub.files("models/me/table") | {"pytorch_model.bin": b"\x80\x04"})
    load_world("hf://me/table")
    assert not any(path.endswith(".bin") for _, path in hub.asked)
    files = {name: content for name, content in hub.files("models/me/table").items() if name != "world_model.safetensors"}
    hub.put("models/me/table", files)
    with pytest.raises(BadCheckpoint, match="world_model.safetensors is missing"):
        load_world("hf://me/table")
    hub.put("models/me/table", {"world.json": b"[]"})
    with pytest.raises(BadCheckpoint, match="files: expected an object of names"):
        load_world("hf://me/table")


def test_refusals_are_one_line(hub, world, capsys):
    for status, told in ((401, "`hf auth login` that may write there"), (403, "access is refused"), (500, "not at work")):
        hub.status = status
        code, out, err = wfm(capsys, "push", f"world={world}", "to=hf://me/table")
        assert code == 2 and err.count("\n") == 1 and told in err and str(status) in err, err
        code, out, err = wfm(capsys, "generate", "world=hf://me/table", "out=a.mp4")
        assert code == 2 and err.count("\n") == 1 and err.startswith("wfm generate: hf://me/table: "), err
    hub.status = 0
    with pytest.raises(HubError, match="no such repository"):
        load_world("hf://me/none")


@pytest.mark.parametrize(("key", "told"), [("to=me/table", "expected hf://owner/name"), ("license=Apache 2", "expected a name such as")])
def test_settings_are_checked_first(hub, world, capsys, key, told):
    keys = {"to": "to=hf://me/table"} | {key.partition("=")[0]: key}
    code, out, err = wfm(capsys, "push", f"world={world}", *keys.values())
    assert code == 2 and told in err and not hub.asked


def test_a_data_set_is_read_like_any_folder(hub, tmp_path, capsys):
    samples = SHIPPED / "tabletop" / "samples"
    hub.put("datasets/me/arm", {path.relative_to(samples).as_posix(): path.read_bytes() for path in samples.rglob("*") if path.is_file()})
    shutil.copytree(samples, tmp_path / "here")
    code, out, err = wfm(capsys, "data", "check", "hf://me/arm", "sheet=null")
    commit = hub.branches["datasets/me/arm"]["main"]
    assert code == 0 and f"{commit}/arm: episodes.jsonl, 8 episodes" in out and "downloading" in err, out + err
    code, out, err = wfm(capsys, "data", "stats", "path=hf://me/arm:here", "out=both.html", "samples=false")
    assert code == 0 and "16 episodes" in out, err
    files = hub.files("datasets/me/arm")
    hub.put("datasets/me/arm", files | {"actions/000016.npy": b"\x93NUMPY\x01\x00\x02\x00\x80\x04"})
    code, out, err = wfm(capsys, "data", "check", "hf://me/arm", "sheet=null")
    assert code == 2 and "000016.npy" in out + err


def test_a_row_of_a_batch_cannot_make_a_command_connect(hub, world, tmp_path, capsys):
    hub.put("datasets/me/arm", {"a.mp4": b""})
    (tmp_path / "rows.jsonl").write_text('{"data": "hf://me/arm"}\n')
    code, out, err = wfm(capsys, "generate", f"world={world}", "batch=rows.jsonl", "out=clips")
    assert code == 2 and "line 1: data: got 'hf:/me/arm' in a row, expected a folder" in err and not hub.asked
