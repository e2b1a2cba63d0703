"""Addresses of the hub, what is downloaded and what is refused, against a stand-in on loopback."""

import contextlib
import socket
import warnings
from pathlib import Path

import pytest

from wfm_ar.data import hub as hub_module
from wfm_ar.data.hub import DATASETS, MODELS, Address, address_of, download, origin
from wfm_ar.errors import BadConfig, HubError, MissingDependency, Note

constants = pytest.importorskip("huggingface_hub.constants")
from hub_server import LARGE, Hub, set_on  # noqa: E402

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
FILES = {"episodes.jsonl": b"{}\n" * 5, "videos/a.mp4": b"v" * (LARGE + 1), ".gitattributes": b"x", "empty.txt": b""}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one data set, on which the library is set; no token, an empty cache."""
    server = Hub()
    set_on(monkeypatch, server.url, tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.put("datasets/me/arm", FILES)
    yield server
    server.close()


def arm(revision: str = "main") -> Address:
    return Address(kind=DATASETS, owner="me", name="arm", revision=revision)


@contextlib.contextmanager
def quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        yield


def got(address: Address, *more) -> Path:
    with quietly():
        return download(address, *more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("text", ["hf://me/arm", "hf:/me/arm", "hf://datasets/me/arm", Path("hf://me/arm")])
def test_an_address(text):
    assert address_of(text, DATASETS) == arm() and str(arm()) == "hf://me/arm"


def test_a_revision():
    for revision in ("v1.0", "0" * 40, "refs/pr/3"):
        assert address_of(f"hf://me/arm@{revision}", DATASETS) == arm(revision)
        assert str(arm(revision)) == f"hf://me/arm@{revision}"


@pytest.mark.parametrize(
    "text", ["hf://arm", "hf://me/arm/x", "hf://../arm", "hf://me/arm@", "hf://me/arm@a..b", "hf://me/a\nb", "hf://models/me/arm"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(BadConfig, match="expected hf://owner/name"):
        address_of(text, DATASETS)


def test_other_names_are_none():
    assert [address_of(name, MODELS) for name in ("tabletop", "runs/a/world", "hf", "hf/x", "https://a/b")] == [None] * 5


def test_a_data_set_comes_whole_and_once(hub):
    folder = got(arm())
    commit = hub.branches["datasets/me/arm"]["main"]
    assert content(folder) == {name: FILES[name] for name in ("episodes.jsonl", "videos/a.mp4", "empty.txt")}  # hidden ones are left out
    assert folder.parts[-5:] == ("datasets", "me", "arm", commit, "arm") and origin(folder) == f"hf://me/arm@{commit}"
    before = len(hub.asked)
    assert got(arm()) == folder and len(hub.asked) == before + 1  # what "main" is, and no more
    assert got(arm(commit)) == folder and len(hub.asked) == before + 1  # a commit that is here is not asked for


def test_a_new_commit_is_another_folder(hub):
    first = got(arm())
    hub.put("datasets/me/arm", {"episodes.jsonl": b"new"})
    second = got(arm())
    assert content(second) == {"episodes.jsonl": b"new"} and content(first)["episodes.jsonl"] == FILES["episodes.jsonl"]
    assert got(arm(first.parent.name)) == first


def test_where_large_files_lie_gets_no_token(hub):
    got(arm())
    assert hub.tokens == {f"Bearer {TOKEN}"} and hub.tokens_elsewhere == {None}


def test_only_what_is_asked_for(hub):
    hub.put("models/me/world", {"world.json": b"{}", "a.bin": b"a", "pytorch_model.bin": b"pickle"})
    folder = got(Address(kind=MODELS, owner="me", name="world"), "world.json", lambda path: ["a.bin", "absent"] if path.is_file() else [])
    assert content(folder) == {"world.json": b"{}", "a.bin": b"a"}
    assert not any("pytorch_model" in path for _, path in hub.asked)
    hub.put("models/me/world", {"a": b"", "b": b""})
    with pytest.raises(HubError, match="hf://me/world: holds no world.json, expected it among its 2 files"):
        got(Address(kind=MODELS, owner="me", name="world"), "world.json", lambda path: [])


@pytest.mark.parametrize("name", ["episodes.jsonl", "videos/a.mp4"])
def test_a_file_that_differs_is_refused_and_fetched_anew(hub, name):
    hub.spoil[name] = b"x" * len(FILES[name])
    with pytest.raises(HubError, match=rf"hf://me/arm: {Path(name).name} \(\d+ bytes\) differs from what the hub lists"):
        got(arm())
    home = Path(constants.HF_HOME)
    assert not any(path.name == "arm" and path.parent.name != "me" for path in home.rglob("arm"))
    hub.spoil.clear()
    assert content(got(arm()))[name] == FILES[name]


def test_a_download_that_broke_off_goes_on(hub):
    hub.spoil["episodes.jsonl"] = b"short"
    with pytest.raises(HubError):
        got(arm())
    hub.spoil.clear()
    before = len(hub.asked)
    got(arm())
    assert not any(path.endswith("a.mp4") for _, path in hub.asked[before:])


@pytest.mark.parametrize("name", ["../out.mp4", "/etc/x", "a/../../b", "a//b", "a\\b", "line\nbreak", "\x1b[31m", "n" * 1001])
def test_names_that_lead_elsewhere_are_refused(hub, name):
    hub.names["videos/a.mp4"] = name
    with pytest.raises(HubError, match="expected one within the repository") as caught:
        got(arm())
    assert not any(method == "GET" and "/resolve/" in path for method, path in hub.asked) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        {"sha": "main"},
        {"sha": None},
        {"siblings": 3},
        {"siblings": [{"rfilename": "a"}]},
        {"siblings": [{"size": 3}]},
        {"id": 3, "sha": "../.."},
    ],
)
def test_an_answer_that_is_none_is_one_line(hub, more):
    hub.more = more
    with pytest.raises(HubError, match="fix: try again later"):
        got(arm())


def test_more_than_the_disk_holds_is_refused_before(hub, monkeypatch):
    from wfm_ar.errors import NoSpace

    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(NoSpace, match=f"has {sum(map(len, FILES.values())) - 1} bytes"):
        got(arm())
    assert not any("/resolve/" in path for _, path in hub.asked)


def test_too_many_files_are_refused(hub, monkeypatch):
    monkeypatch.setattr(hub_module, "MOST_FILES", 3)
    with pytest.raises(HubError, match="got 4 files, expected at most 3"):
        got(arm())


def test_what_is_not_there(hub):
    with pytest.raises(HubError, match=r"hf://me/none: no such repository, or no access to it \(404\).*`hf auth login` that may read it"):
        got(Address(kind=DATASETS, owner="me", name="none"))
    with pytest.raises(HubError, match="hf://me/arm@v9: has no revision 'v9'"):
        got(arm("v9"))
    hub.private = "another"
    with pytest.raises(HubError, match=r"no such repository, or no access to it \(401\)"):
        got(arm())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 429, 500, 503])
def test_the_token_is_in_no_message(hub, status, capsys, caplog):
    hub.status = status
    with pytest.raises(HubError) as caught:
        got(arm())
    assert str(status) in str(caught.value) and TOKEN not in str(caught.value)
    assert TOKEN not in "".join(capsys.readouterr()) + caplog.text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_without_a_connection(hub, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    folder = got(arm())
    set_on(monkeypatch, nobody, Path(constants.HF_HOME).parent)
    commit = folder.parent.name
    with pytest.warns(
        Note, match=rf"hf://me/arm: the hub cannot be reached \(ConnectError\).*; commit {commit}, downloaded before, is used"
    ):
        assert download(arm()) == folder
    with pytest.raises(HubError, match=r"hf://me/arm@v2: the hub cannot be reached \(ConnectError\), expected a connection; fix: connect"):
        download(arm("v2"))


def test_offline_by_wish(hub, monkeypatch):
    folder = got(arm())
    before = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.warns(Note, match="OfflineModeIsEnabled.*is used"):
        assert download(arm()) == folder
    with pytest.raises(HubError, match="cannot be reached"):
        got(arm("v2"))
    assert len(hub.asked) == before


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(hub_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="hf://me/arm: needs the package huggingface_hub.*; fix: pip install"):
        download(arm())


def test_other_paths_are_their_own_origin():
    assert origin("/data/arm") == "/data/arm"
    assert origin(f"/x/wfm-ar/datasets/me/arm/{'0' * 40}/arm:mine") == f"hf://me/arm@{'0' * 40}:mine"
    assert origin("a/wfm-ar/datasets/me/arm/main/arm") == "a/wfm-ar/datasets/me/arm/main/arm"
