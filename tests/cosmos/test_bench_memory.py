"""What the memory bench does, at tiny widths on the CPU, with a gauge that counts the tensors Python holds instead of a card's bytes."""

import gc
import re

import pytest
import torch

from wfm_ar.cli import main, settings_of
from wfm_ar.cosmos import bench_memory as module
from wfm_ar.cosmos.bench import NETWORKS
from wfm_ar.cosmos.bench_memory import bench_memory, random_network
from wfm_ar.cosmos.clock import Clock
from wfm_ar.cosmos.describe import memory
from wfm_ar.cosmos.shapes import cache_bytes
from wfm_ar.cosmos.synth import tiny
from wfm_ar.errors import BadConfig
from wfm_ar.rollout.int8 import Int8Linear

SIZE = (33, 64, 96)  # a grid of 4 x 6, 24 tokens a latent
SMALL = (17, 32, 48)
CONFIGS = {name: tiny(name) for name in NETWORKS}


class Tensors:
    """The memory that tensors of this process take; the most is that of the moments when it was looked at."""

    def __init__(self):
        self.high = self.clears = 0

    def clear(self):
        gc.collect()
        self.high, self.clears = 0, self.clears + 1

    def held(self):
        tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter) and one.device.type == "cpu"]
        held = sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())
        self.high = max(self.high, held)
        return held

    def most(self):
        return self.high


class Looking(Clock):
    """Has the gauge look while what was timed still stands."""

    def time(self, run, times, warm=0):
        taken = super().time(run, times, warm)
        GAUGE.held()
        return taken


GAUGE = Tensors()


def taken(*networks: str, steps: int = 3, size=SIZE):
    return list(bench_memory(networks, steps, Looking("cpu"), GAUGE, CONFIGS, size))


@pytest.mark.parametrize("name", ["4b", "13b"])
def test_a_world_model_in_bf16_and_in_8_bits(name):
    """Its weights are those that are computed on the meta device, and it works beside the cache of a whole clip."""
    GAUGE.clear()
    before = GAUGE.held()
    made = taken(name)
    assert [one.int8 for one in made] == [False, True] and not any(one.failure for one in made)
    for one, gb in zip(made, memory(CONFIGS[name]), strict=True):
        assert 0 <= one.weights - 1e9 * gb < 2000  # and the rotary frequencies
        assert one.peak - before - one.weights >= cache_bytes(CONFIGS[name], 5 * 24)
        assert re.fullmatch(rf"{name} (bf16|int8), 33 frames from 9: weights 0\.\d\d GB, peak 0\.\d\d GB, \S+ s a token", str(one))
    del made
    GAUGE.clear()
    assert GAUGE.held() - before < 2000  # nothing is left for the next one


def test_the_decoder_and_both_tokenizers():
    made = taken("decoder-7b", "dv8x16x16", "cv8x8x8", steps=2, size=SMALL)
    doing = [f"{one.name} {one.doing}" for one in made]
    assert doing == [
        "decoder-7b a guided call for 8 latents", "decoder-7b a guided call for 8 latents",
        "dv8x16x16 decoding 17 frames at once", "dv8x16x16 decoding 17 frames latent by latent",
        "cv8x8x8 decoding 17 frames at once", "cv8x8x8 decoding 57 frames at once",
    ]  # fmt: skip
    expected = [*memory(CONFIGS["decoder-7b"]), *(memory(CONFIGS[one.name])[0] for one in made[2:])]
    for one, gb in zip(made, expected, strict=True):
        assert not one.failure and 0 <= one.weights - 1e9 * gb < 4000 and one.peak >= one.weights


def test_the_prompt_is_what_a_generation_prefills_and_the_steps_are_the_clips_last(monkeypatch):
    seen = []
    features = module.WorldModel.features

    def watched(self, ids_BL, positions_BL3, *rest, cache, context=None):
        seen.append((ids_BL.shape[1], positions_BL3[0, -1].tolist(), cache.longest, cache.capacity, context is not None))
        return features(self, ids_BL, positions_BL3, *rest, cache=cache, context=context)

    monkeypatch.setattr(module.WorldModel, "features", watched)
    taken("5b")
    half = len(seen) // 2
    assert seen[:half] == seen[half:]  # in 8 bits the same
    prompt, *steps = seen[:half]
    assert prompt == (1 + 48, [1, 3, 5], 0, 121, True)  # BOV and two latents
    # twice three tokens, once to warm up; the very last of the clip is not fed
    assert steps == [(1, [4, token // 6, token % 6], 1 + 96 + token, 121, False) for token in range(17, 23)]


def test_8_bits_are_made_layer_by_layer(monkeypatch):
    """So that the whole network in bf16 is never there: the largest moment while it is made is below that."""
    config, moments = tiny("4b"), []
    put = module.put_int8
    monkeypatch.setattr(module, "put_int8", lambda *args: (put(*args), moments.append(GAUGE.held())))
    GAUGE.clear()
    before = GAUGE.held()
    network = random_network(config, "cpu", torch.bfloat16, int8=True)
    linear = sum(one.weight8.numel() for one in network.modules() if isinstance(one, Int8Linear))
    layer = 2 * max(one.weight8.numel() for one in network.modules() if isinstance(one, Int8Linear))
    assert len(moments) == 2 * 4 and max(moments) - before < linear * 1.2 + layer < 2 * linear


def test_what_does_not_fit_says_so_and_the_next_begins(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(module, "put_int8", full)
    lines = [str(one) for one in taken("4b", "dv8x16x16", steps=2, size=SMALL)]
    assert len(lines) == 4 and "weights" in lines[0] and "weights" in lines[2]
    assert lines[1] == "4b int8, 17 frames from 9: does not fit: CUDA out of memory. Tried to allocate 2.00 GiB"


def test_what_cannot_be_asked_for(capsys):
    with pytest.raises(BadConfig, match="networks: got .decoder-70b. .did you mean"):
        taken("4b", "decoder-70b")
    with pytest.raises(BadConfig, match="steps: got 36, expected at most 35"):
        taken("4b", steps=36)
    for device in ("cpu", "auto"):
        if device == "cpu" or not torch.cuda.is_available():
            assert main(["bench", "cosmos", "work=memory", f"device={device}"]) == 2
            told = capsys.readouterr()
            assert told.err.count("\n") == 1 and "work: got memory on the CPU, expected a CUDA device" in told.err and not told.out


def test_networks_on_the_command_line():
    assert settings_of("bench cosmos", ["networks=4b,decoder-7b"]).networks == ("4b", "decoder-7b")
    assert settings_of("bench cosmos", ["networks=decoder-7b"]).networks == ("decoder-7b",)
    assert settings_of("bench cosmos", []).networks == NETWORKS
