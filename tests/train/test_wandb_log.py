"""Numbers and pictures on Weights & Biases, offline: read back from the file that `wandb sync` would send."""

import json
import struct
import warnings

import pytest
import torch

from wfm_ar.cli import settings_of
from wfm_ar.errors import BadConfig, MissingDependency, Note
from wfm_ar.train import wandb_log
from wfm_ar.train.checkpoint import load_checkpoint
from wfm_ar.train.loop import train
from wfm_ar.train.settings import LoopConfig, OptimizerConfig
from wfm_ar.train.wandb_log import ID, WandbLog

wandb = pytest.importorskip("wandb")


class LineStage:
    """Fits a line; validation shows a picture."""

    name = "line"

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(1, 1)

    def batch(self, step, size, seed):
        return {"x": torch.randn(size, 1, generator=torch.Generator().manual_seed(step))}

    def loss(self, model, batch, generator):
        noise = torch.randn(batch["x"].shape, generator=generator)
        return (model(batch["x"]) - 3 * batch["x"] - noise).square().mean(), {"ambient": torch.rand(())}

    def clip_ids(self, batch):
        return ["a clip"]

    def validate(self, model, device):
        return {"val_weight": float(model.weight.mean())}, {"view": torch.full((4, 6, 3), 200, dtype=torch.uint8)}

    def describe(self):
        return {"model": {"width": 1}}


def config(steps: int, logger: str) -> LoopConfig:
    often = {"log_every": 1, "val_every": 3, "checkpoint_every": 3, "batch_size": 8, "num_workers": 0}
    return LoopConfig(steps=steps, logger=logger, optimizer=OptimizerConfig(lr=0.1, warmup_steps=2), **often)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for name, value in {"MODE": "offline", "DIR": tmp_path, "CONFIG_DIR": tmp_path, "CACHE_DIR": tmp_path, "DATA_DIR": tmp_path}.items():
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    wandb.teardown()


def messages(content: bytes) -> list[bytes]:
    """Of a .wandb file: seven bytes, then LevelDB's log format: blocks of 32 KiB of pieces with CRC, length and kind."""
    found, at, block = [b""], 7, 32768
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        found[-1] += content[at + 7 : at + 7 + length]
        if kind in (1, 4):  # whole, or the last piece
            found.append(b"")
        at += 7 + length
    return found[:-1]


def records(run) -> tuple[list[dict], dict, list]:
    """(rows, configuration, run headers) of all offline files below a stage's folder, in the order they were written."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows, settings, headers = [], {}, []
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        for data in messages(path.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("history"):
                rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
            if record.HasField("run"):
                headers.append(record.run)
                settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return rows, settings, headers


@pytest.mark.slow
def test_what_the_log_says_is_there_and_training_is_the_same(offline, tmp_path, capsys):
    plain = train(LineStage(), config(6, "tensorboard"), tmp_path / "plain" / "line")
    run = tmp_path / "mine" / "line"
    train(LineStage(), config(3, "wandb"), run)
    logged_too = train(LineStage(), config(6, "wandb"), run)  # goes on
    ours, theirs = (load_checkpoint(folder)[0]["ema"] for folder in (plain, logged_too))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    rows, settings, headers = records(run)
    logged = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [row["step"] for row in logged] == [1, 2, 3, 3, 4, 5, 6, 6]
    for row, line in zip(rows, logged, strict=True):
        assert all(row[key] == pytest.approx(value) for key, value in line.items())
    assert [(row["view.width"], row["view.height"]) for row in rows if "view._type" in row] == [(6, 4), (6, 4)]
    assert settings["loop"]["optimizer"]["lr"] == 0.1 and settings["stage"] == {"model": {"width": 1}}
    assert {header.run_id for header in headers} == {(run / ID).read_text()}
    assert {(header.project, header.run_group, header.display_name) for header in headers} == {("wfm-ar", "mine", "mine/line")}
    assert not any(header.git.remote_url or header.git.commit for header in headers)
    assert capsys.readouterr().err == ""


class Refusing:
    """A run of wandb's that fails."""

    url = ""

    def log(self, row):
        raise ConnectionError("key 123")

    def finish(self):
        raise TimeoutError("key 123")


def made(tmp_path, monkeypatch) -> WandbLog:
    run = Refusing()
    run.define_metric = lambda *args, **more: None
    monkeypatch.setattr(wandb, "init", lambda **how: run)
    (tmp_path / "mine" / "line").mkdir(parents=True)
    return WandbLog(tmp_path / "mine" / "line", 0, config(3, "wandb"), {})


def test_a_service_that_fails_ends_no_training(tmp_path, monkeypatch):
    log = made(tmp_path, monkeypatch)
    with pytest.warns(Note, match=r"failed at step 2 \(ConnectionError\); training goes on without it") as told:
        log.write(2, {"loss": 1.0}, {})
    assert "123" not in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.write(3, {"loss": 1.0}, {})
        log.close()


def test_an_end_that_fails_is_a_note(tmp_path, monkeypatch):
    with pytest.warns(Note, match=r"could not end \(TimeoutError\); `wandb sync` sends what is left"):
        made(tmp_path, monkeypatch).close()


def test_without_a_login_it_is_told_in_one_line(tmp_path, monkeypatch):
    def init(**how):
        raise wandb.errors.UsageError("the key abc is wrong")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(BadConfig, match=r"logger: wandb cannot begin \(UsageError\).*WANDB_MODE=offline") as caught:
        WandbLog(tmp_path, 0, config(3, "wandb"), {})
    assert "abc" not in str(caught.value) and not (tmp_path / ID).exists()


def test_a_missing_package_is_told_with_the_settings(monkeypatch):
    monkeypatch.setattr(wandb_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="logger: needs the package wandb.*; fix: pip install"):
        settings_of("train", ["data=x", "logger=wandb"])
    assert settings_of("train", ["data=x"]).logger == "tensorboard"


def test_other_loggers_are_refused():
    with pytest.raises(BadConfig, match="logger"):
        settings_of("train", ["data=x", "logger=trackio"])
