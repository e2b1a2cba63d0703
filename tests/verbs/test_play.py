"""`wfm play` as a process: where it listens, and that Ctrl+C ends it with its recordings whole."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("pyarrow")

import aiohttp  # noqa: E402
from play_client import Player  # noqa: E402

from wfm_ar.cli import main  # noqa: E402
from wfm_ar.data.check import check_data  # noqa: E402
from wfm_ar.data.formats import open_episodes  # noqa: E402


def test_an_interrupt_ends_it_with_the_recordings_whole(tmp_path):
    command = [sys.executable, "-m", "wfm_ar", "play", "world=tabletop", "port=0", "open=false", f"out={tmp_path}/played"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        address = process.stdout.readline().split()[0].rstrip("/")

        async def scenario():
            async with aiohttp.ClientSession() as http, http.ws_connect(f"{address}/ws", max_msg_size=0) as socket:
                player = Player(socket)
                welcome = await player.news("welcome")
                sample = welcome["sources"]["sample"][0]
                await player.start("sample", id=sample["id"], seed=1)
                assert (await player.news("stats"))["memory_mib"] > 0
                await player.send("record", on=True)
                for _ in range(2):
                    await player.step([0.02, 0.0])
                process.send_signal(signal.SIGINT)
                with pytest.raises(AssertionError, match="closed"):
                    await player.news("nothing more")
                assert player.socket.close_code == 1001
                return sample["text"]

        text = asyncio.run(asyncio.wait_for(scenario(), 120))
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "1 played episode" in out
    episodes = open_episodes(tmp_path / "played/episodes")
    assert len(episodes) == 1 and episodes[0].text == text and not check_data(tmp_path / "played/episodes", decode=True)


BAD = [("port=99999", "port: got 99999"), ("sessions=0", "sessions: got 0"), ("memory=1", "memory: got 1"), ("world=tabletopp", "did you")]


@pytest.mark.parametrize(("key", "said"), BAD)
def test_what_cannot_be_is_one_line(capsys, key, said):
    assert main(["play", key]) == 2
    assert said in capsys.readouterr().err


def test_a_port_in_use_is_one_line(capsys, tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["play", f"port={taken.getsockname()[1]}", "open=false", f"out={tmp_path}/played"]) == 2
    assert "cannot listen" in capsys.readouterr().err and not (tmp_path / "played").exists()
