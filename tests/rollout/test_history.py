"""What a rollout keeps of the past: equal to tuples of tensors in all it gives, and no more memory than its numbers."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from wfm_ar.rollout.history import LEAST, History


def _item(i: int) -> torch.Tensor:
    return torch.arange(6).view(2, 3) + 10 * i


def test_it_holds_what_was_appended() -> None:
    history, items = History([_item(0)]), [_item(0)]
    for i in range(1, 5 * LEAST):
        history, items = history.append(_item(i)), [*items, _item(i)]
    assert len(history) == 5 * LEAST and torch.equal(history.stacked(), torch.stack(items))
    assert torch.equal(history[-1], items[-1]) and torch.equal(history[3], items[3])
    assert torch.equal(torch.stack(history[7:40:2]), torch.stack(items[7:40:2]))
    with pytest.raises(IndexError):
        history[5 * LEAST]


def test_missing_items() -> None:
    history = History.missing(2).append(None).append(_item(3)).append(None)
    assert [item is None for item in history] == [True, True, True, False, True] and torch.equal(history[3], _item(3))
    assert not History() and [item is None for item in History([None, _item(1)])] == [True, False]


def test_forks_part_and_change_nothing_of_each_other() -> None:
    start = History([_item(0)])
    for i in range(1, LEAST + 3):
        start = start.append(_item(i))
    one, other = start.append(_item(100)), start.append(_item(200))
    again = one.append(_item(101))
    assert torch.equal(one[-1], _item(100)) and torch.equal(other[-1], _item(200)) and len(start) == LEAST + 3
    assert torch.equal(again.stacked()[:-1], one.stacked()) and torch.equal(start.stacked(), other.stacked()[:-1])


def test_a_stack_is_the_callers_own() -> None:
    history = History([_item(0)])
    history.stacked().zero_()
    assert torch.equal(history[0], _item(0))


def test_forks_that_are_appended_to_at_once_by_many_threads() -> None:
    start, made = History([_item(0)]), {}

    def go_on(k: int) -> None:
        history = start
        for i in range(200):
            history = history.append(_item(1000 * k + i))
        made[k] = history

    threads = [threading.Thread(target=go_on, args=(k,)) for k in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, history in made.items():
        assert torch.equal(history.stacked()[1:], torch.stack([_item(1000 * k + i) for i in range(200)]))


GROWTH = """
import sys
import torch
from tiny_world import make_actions, make_parts
from wfm_ar.rollout.world import World

stream = World(make_parts(refine=False)).start(seed=1)
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
actions, before = make_actions(2), None
for latent in range(1201):
    stream.step(actions if latent else None)
    kept = torch.empty(2**16).fill_(1.0)  # what a larger world takes and gives back at every latent
    if latent == 200:
        before = resident()
print(resident() - before, len(stream.tokens))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_a_stream_stays_flat() -> None:
    """1,000 latents of 48 bytes of tokens and 32 of actions: far below a MiB, whatever lies between them (as tuples: 96 MiB)."""
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    grown, latents = done.stdout.split()
    assert int(latents) == 1201 and float(grown) < 3, f"{grown} MiB more after 1,000 latents"
