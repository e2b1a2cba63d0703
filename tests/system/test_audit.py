"""R20: what the interpreter does while the verbs run, seen by an audit hook. No unpickling, no network, no programs started but
the decoding child, which is ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, os, sys, traceback
from pathlib import Path

WATCHED = {
    "pickle.find_class", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "os.system",
    "os.exec", "os.spawn", "os.posix_spawn", "subprocess.Popen", "os.fork", "os.forkpty", "os.startfile", "ctypes.dlopen",
}
verb, seen = "", []


def hook(event, arguments):
    if verb and event in WATCHED:
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_stack()[:-1]][-6:]
        seen.append((verb, event, [str(one)[:300] for one in arguments], where))


import torch  # what a library does while it is imported is not ours

sys.addaudithook(hook)
sys.path.insert(0, sys.argv[1])
import hostile_checkpoints, hostile_manifests
from wfm_ar.cli import main

hostile_checkpoints.tiny_world(Path("world"))
Path("folder/data").mkdir(parents=True)
hostile_manifests.sound(Path("folder/data"))
clip = "folder/data/videos/0.mp4"
codes = {}
for line in (
    ["version"],
    ["info", "world"],
    ["data", "check", "folder/data", "decode=true"],
    ["tokenize", "world=world", f"video={clip}", "out=tokens.npy"],
    ["tokenize", "world=world", "tokens=tokens.npy", "out=back.mp4"],
    ["generate", "world=world", f"video={clip}", "prompt_frames=1", "text=go left", "frames=5", "out=made.mp4"],
    ["train", "stage=video_tokenizer", "experiment=smoke", "data=folder/data", "run=run", "steps=1",
     "tokenizer.height=16", "tokenizer.width=16", "stages.video_tokenizer.training.window=1", "stages.video_tokenizer.training.crop=0",
     "tokenizer.time_kernel=1"],
    ["cosmos", "info"],
    ["data", "check", "folder/none"],
    ["generate", "world=/etc/passwd"],
):
    verb = " ".join(line[:2])
    codes[" ".join(line)[:40]] = main(line)
    verb = ""
print("AUDIT" + json.dumps({"codes": codes, "seen": seen}))
"""


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    place = tmp_path_factory.mktemp("audit")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROOT / "tools" / "campaigns")], cwd=place, capture_output=True, text=True, timeout=280
    )
    assert "AUDIT" in done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("AUDIT")[2]) | {"stderr": done.stderr}


def test_the_verbs_ran(audit):
    assert list(audit["codes"].values()) == [0] * 8 + [2] * 2, (audit["codes"], audit["stderr"][-2000:])


def test_nothing_is_unpickled_and_nothing_goes_over_the_network(audit):
    assert [one for one in audit["seen"] if one[1] == "pickle.find_class" or one[1].startswith("socket.")] == []


def test_the_only_program_started_is_the_decoding_child(audit):
    """Documented in wfm_ar/decoding/pool.py. (`wfm data make` starts worker processes of itself too; it is not run here.)"""
    started = [one for one in audit["seen"] if one[1] not in ("ctypes.dlopen",)]
    assert started, "the decoding child itself must be seen, or the hook sees nothing"
    assert [one for one in started if "wfm_ar.decoding.child" not in " ".join(one[2])] == []
