"""Two ranks on the CPU (gloo, FSDP2): the same losses and weights as one process, checkpoints that both can read, and no rank
that hangs in silence. The ranks are forked here with the environment that torchrun would give them; torchrun itself runs in
tests/system/test_ranks.py."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import tiny_stages as tiny
from torch.distributed import TCPStore

from wfm_ar.errors import BadConfig, NoSpace, WfmError
from wfm_ar.train import distributed
from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint, verified_checkpoints
from wfm_ar.train.disk import Disk
from wfm_ar.train.distributed import all_ranks
from wfm_ar.train.loop import train

BOTH = {"accumulate": 2, "num_workers": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


def start_ranks(work, run: Path, silence: float = 20.0) -> list[int]:
    """Two children that call work(ranks) -> their pids. What they say goes to run/told-<rank>."""
    run.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(2):
        if child := os.fork():
            children.append(child)
            continue
        code = 99
        with contextlib.suppress(BaseException):
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            sys.stdout = sys.stderr = open(run / f"told-{rank}", "w", buffering=1)  # noqa: SIM115
            os.dup2(sys.stderr.fileno(), 2)
            try:
                with all_ranks(run, "cpu", silence) as ranks:
                    work(ranks)
                code = 0
            except WfmError as error:
                print(error)
                code = 2
            except SystemExit as stop:
                code = stop.code
            except BaseException:
                import traceback

                traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    return children


def ends(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def told(run: Path) -> str:
    return "".join((run / f"told-{rank}").read_text() for rank in range(2))


def history(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "samples_per_s"} for row in rows]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> Path:
    """Of each stage: `one` and `two`, by one process and by two ranks; `two-one` and `one-two`, begun by one kind and ended by the
    other."""
    place = tmp_path_factory.mktemp("runs")
    config = tiny.loop_config(6, **BOTH)
    for name in tiny.STAGES:
        train(tiny.make_stage(name, data), config, place / name / "one")
        shutil.copytree(place / name / "one" / "step-000003", place / name / "one-two" / "step-000003")

    def work(ranks):
        for name in tiny.STAGES:
            for kind in ("two", "one-two"):
                train(tiny.make_stage(name, data), config, place / name / kind, ranks=ranks)

    run = place / "ranks"
    assert ends(start_ranks(work, run)) == [0, 0], told(run)
    for name in tiny.STAGES:
        shutil.copytree(place / name / "two" / "step-000003", place / name / "two-one" / "step-000003")
        train(tiny.make_stage(name, data), config, place / name / "two-one")
    return place


@pytest.mark.parametrize("name", tiny.STAGES)
def test_two_ranks_are_one_process_at_the_same_global_batch(runs, name):
    one, _ = load_checkpoint(newest_checkpoint(runs / name / "one"))
    start, _ = load_checkpoint(runs / name / "one" / "step-000003")
    moved = max(float((one["model"][key] - start["model"][key]).abs().max()) for key in one["model"])
    assert moved > 1e-3
    for kind in ("two", "two-one", "one-two"):
        other, state = load_checkpoint(newest_checkpoint(runs / name / kind))
        assert state["step"] == 6 and other.keys() == one.keys()
        for group in one:
            assert other[group].keys() == one[group].keys()
            for key, tensor in one[group].items():
                assert float((other[group][key] - tensor).abs().max()) <= 1e-5, (kind, group, key)
    expected, got = history(runs / name / "one"), history(runs / name / "two")
    assert [row["step"] for row in got] == [2, 4, 5, 6, 6]
    for one_row, two_row in zip(expected, got, strict=True):
        assert two_row == pytest.approx(one_row, abs=1e-5, rel=1e-5)


def test_the_ranks_wrote_shards_and_no_pickle(runs):
    folder = newest_checkpoint(runs / "world_model" / "two")
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 8 and all(name.endswith((".safetensors", ".json")) for name in names)
    assert {name[:11] for name in names if name.startswith("shard")} == {"shard-00001", "shard-00002"}
    sizes = [sum(p.stat().st_size for p in folder.glob(f"shard-0000{rank}-*")) for rank in (1, 2)]
    assert 0.6 < sizes[0] / sizes[1] < 1.7  # each rank about half
    only, _ = load_checkpoint(folder, groups=("ema",))
    assert only.keys() == {"ema"}
    broken = runs / "broken"
    shutil.copytree(folder, broken / folder.name)
    (broken / folder.name / names[-1]).unlink()
    assert verified_checkpoints(broken) == []


def test_micro_batches_that_cannot_be_dealt_out_are_refused(data, tmp_path):
    class Two:
        size = 2

    with pytest.raises(BadConfig, match="accumulate: got 1.*accumulate=2"):
        train(tiny.make_stage("world_model", data), tiny.loop_config(2), tmp_path, ranks=Two())


def endless(data, run, ranks, **settings):
    config = tiny.loop_config(100_000, **BOTH, **({"val_every": 100_000, "log_every": 100_000, "checkpoint_every": 10} | settings))
    train(tiny.make_stage("world_model", data), config, run / "world_model", ranks=ranks)


def wait_for_checkpoint(run: Path, children: list[int]) -> None:
    for _ in range(2000):
        if newest_checkpoint(run / "world_model") is not None:
            return
        time.sleep(0.05)
    for child in children:
        os.kill(child, signal.SIGKILL)
    raise AssertionError(told(run))


@pytest.mark.parametrize(
    ("harm", "victim"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 1)], ids=["kill0", "kill1", "stop1"]
)
def test_a_rank_that_dies_or_stands_still_ends_the_other_with_a_named_error(data, tmp_path, harm, victim):
    run = tmp_path / "run"
    children = start_ranks(lambda ranks: endless(data, run, ranks), run, silence=15.0)
    wait_for_checkpoint(run, children)
    began = time.monotonic()
    os.kill(children[victim], harm)
    other = ends([children[1 - victim]])[0]
    took = time.monotonic() - began
    if harm == signal.SIGSTOP:
        os.kill(children[victim], signal.SIGKILL)
    ends([children[victim]])
    words = (run / f"told-{1 - victim}").read_text()
    assert other == 2 and took < 60, (other, took, words)
    assert (f"rank {victim} has gone" if harm == signal.SIGKILL else f"rank {victim} has not been heard of for") in words
    assert "resume=auto" in words and newest_checkpoint(run / "world_model") is not None


def test_a_rank_that_stands_still_before_the_ranks_have_met_is_named(tmp_path, monkeypatch):
    meet = distributed._meeting_place

    def stopping(limit):
        if os.environ["RANK"] == "1":
            time.sleep(1.5)  # its first sign is there
            os.kill(os.getpid(), signal.SIGSTOP)
        return meet(limit)

    monkeypatch.setattr(distributed, "_meeting_place", stopping)
    began, children = time.monotonic(), start_ranks(lambda ranks: None, tmp_path / "run", silence=4.0)
    assert ends(children[:1]) == [2] and time.monotonic() - began < 30
    os.kill(children[1], signal.SIGKILL)
    ends(children[1:])
    assert "rank 1 has not been heard of for 5 s, last in setup of step 0" in (tmp_path / "run" / "told-0").read_text()


def test_a_new_start_does_not_meet_the_ranks_of_the_one_before(monkeypatch):
    """torchrun's default rendezvous keeps one store over all restarts: a new rank found the address of a dead one in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agent = TCPStore("127.0.0.1", port, is_master=True)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "1", "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}
    for name, value in (told | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    stores = []
    for count in ("0", "1", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        store, rank, size = distributed._meeting_place(timedelta(seconds=20))
        assert (rank, size) == (1, 2)
        stores.append(store)
    stores[0].set("address", "of a dead rank")
    assert not stores[1].check(["address"])
    stores[1].set("address", "of a living one")
    assert stores[2].get("address") == b"of a living one"
    assert agent.num_keys() >= 2


def test_a_signal_to_one_rank_saves_and_ends_both_and_a_full_disk_stops_both(data, tmp_path):
    run = tmp_path / "run"
    children = start_ranks(lambda ranks: endless(data, run, ranks), run)
    wait_for_checkpoint(run, children)
    os.kill(children[1], signal.SIGTERM)
    assert ends(children) == [143, 143]
    step = load_checkpoint(newest_checkpoint(run / "world_model"))[1]["step"]

    def without_space(ranks):
        original = Disk.before

        def full(self, operation, path):
            if operation == "create":
                raise OSError(28, "No space left on device")
            original(self, operation, path)

        Disk.before = full
        with pytest.raises(NoSpace):
            endless(data, run, ranks)
        raise WfmError("as expected")

    assert ends(start_ranks(without_space, run)) == [2, 2], told(run)
    assert "as expected" in told(run) and not list((run / "world_model").glob(".tmp-*"))
    assert load_checkpoint(newest_checkpoint(run / "world_model"))[1]["step"] == step
