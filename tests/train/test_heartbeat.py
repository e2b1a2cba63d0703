"""Heartbeats between ranks, look by look: no clock, no thread, no second process but where one must die."""

import json
import os
import signal
import time

import pytest

from wfm_ar.train import heartbeat
from wfm_ar.train.heartbeat import NAME, Heartbeat


@pytest.fixture
def ends(monkeypatch):
    """What would have ended the process."""
    codes = []
    monkeypatch.setattr(heartbeat.os, "_exit", codes.append)
    return codes


def pair(run, silence=3.0):
    return Heartbeat(run, 0, 2, silence), Heartbeat(run, 1, 2, silence)


def look(heartbeat, times=1):
    """As its thread does."""
    for _ in range(times):
        for other, heard in heartbeat.others.items():
            heartbeat._look(heartbeat.run / NAME.format(other), heard)
            if (heard.began or heartbeat.together) and heard.looks > heartbeat.silence:
                heartbeat._end(other, heard)


def test_a_rank_that_falls_silent_is_named_with_what_it_did(tmp_path, ends, capsys):
    one, other = pair(tmp_path)
    other.doing = ("checkpoint", 7)
    for _ in range(10):
        other._give()
        look(one)
    assert ends == [] and one.others[1].looks == 0
    look(one, 3)
    assert ends == []
    look(one)
    assert ends == [2]
    assert "rank 1 has not been heard of for 4 s, last in checkpoint of step 7; the run stops" in capsys.readouterr().err


def test_clocks_that_differ_and_looks_that_come_late_mean_nothing(tmp_path, ends):
    one, other = pair(tmp_path)
    for age in (0, 1e6, -1e6, 5):  # as if the other host's clock were off, or a night had passed between two looks
        other._give()
        os.utime(tmp_path / NAME.format(1), (time.time() - age, time.time() - age))
        look(one)
    assert ends == [] and one.others[1].looks == 0


def test_the_sign_of_an_earlier_start_is_not_one(tmp_path, ends, capsys):
    one, _ = pair(tmp_path)
    about = {"section": "step", "step": 3, "start": [*one.start[:-1], "another"], "process": [os.getpid(), 1]}
    (tmp_path / NAME.format(1)).write_text(json.dumps(about))
    look(one, 50)
    assert ends == [] and not one.others[1].began  # it may be importing still: the ranks have not met
    one.all_here()
    look(one, 4)
    assert ends == [2] and "for 4 s, last before its first heartbeat" in capsys.readouterr().err


def test_a_full_disk_does_not_silence_a_rank(tmp_path, ends, monkeypatch):
    one, other = pair(tmp_path)
    other._give()
    look(one)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heartbeat.Path, "write_text", full)
    for turn in range(6):
        other._give()
        os.utime(tmp_path / NAME.format(1), ns=(turn, turn))  # stands for the time that passes
        look(one)
    assert ends == [] and one.others[1].looks == 0
    before = (tmp_path / NAME.format(1)).stat().st_mtime_ns
    other._give()
    assert (tmp_path / NAME.format(1)).stat().st_mtime_ns > before


def test_a_dead_process_is_gone_while_its_parent_has_not_looked_yet(tmp_path):
    one, other = pair(tmp_path)
    if (child := os.fork()) == 0:
        other._give()
        time.sleep(60)
        os._exit(0)
    while not (tmp_path / NAME.format(1)).exists():
        time.sleep(0.01)
    assert one.gone(seconds=0) == []
    os.kill(child, signal.SIGKILL)
    assert one.gone() == [1]  # a zombie
    os.waitpid(child, 0)
    assert one.gone() == [1]
    one.start = [*one.start[:-1], "another"]  # a rank of an earlier start has ended of course
    assert one.gone(seconds=0) == []
