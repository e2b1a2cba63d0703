"""A world in every way that Python runs things beside each other: processes by all three methods, threads, asyncio."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import asyncio, json, multiprocessing, sys, threading
import numpy as np, torch, wfm_ar

METHODS = ("fork", "forkserver", "spawn")
WORLD = None

def tokens(world):
    video = world.encode(np.zeros((5, 128, 128, 3), np.uint8))
    clip = world.generate(text="push the red cube left", num_frames=9, seed=0, refine=False)
    return [video.tolist(), clip.tokens.tolist()]

def in_a_process(pipe):
    pipe.send((tokens(WORLD or wfm_ar.load_world("tabletop")), torch.get_num_threads()))

def in_threads(world):
    made = []
    threads = [threading.Thread(target=lambda: made.append(tokens(world))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made

async def in_asyncio(world):
    return await asyncio.gather(*(asyncio.to_thread(tokens, world) for _ in range(2)))

if __name__ == "__main__":
    torch.set_num_threads(2)
    WORLD = wfm_ar.load_world("tabletop")
    alone, told = tokens(WORLD), {}
    children = {}
    for method in METHODS:
        context = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        children[method] = context.Process(target=in_a_process, args=(theirs,)), ours
        children[method][0].start()
    for method, (child, pipe) in children.items():
        told[method] = pipe.recv() if pipe.poll(90) else [None, "no answer in 90 s"]
        told[method] = [told[method][0] == alone, told[method][1]]
        child.kill()
        child.join()
    told["threads"] = [one == alone for one in in_threads(WORLD)]
    told["asyncio"] = [one == alone for one in asyncio.run(in_asyncio(WORLD))]
    print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has used threads")
def test_a_world_gives_the_same_tokens_in_processes_threads_and_asyncio(tmp_path) -> None:
    script = tmp_path / "beside.py"
    script.write_text(SCRIPT)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("fork") == [True, 1], "a forked process computes with one thread"
    assert told == {"forkserver": [True, 2], "spawn": [True, 2], "threads": [True, True], "asyncio": [True, True]}
