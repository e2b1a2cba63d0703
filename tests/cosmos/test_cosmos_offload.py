"""Parts that wait on the CPU: the same tokens and frames as without, and the device's memory given back to the last byte.

The device is played by the CPU: what is moved to it lies in arrays of its own that report when nothing refers to them any more,
so a view, a cache or a copy that outlives the work is seen.
"""

import gc
import weakref
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wfm_ar.cli import main
from wfm_ar.rollout import text_context
from wfm_ar.rollout.text_context import TextReader
from wfm_ar.rollout.world import OFFLOAD, World, load_world

PLACE = torch.device("cpu:0")  # tells the device from "cpu", where parts wait
SETTINGS = {"num_frames": 9, "seed": 2, "refine_steps": 2}
COMBINATIONS = [parts for count in range(len(OFFLOAD) + 1) for parts in combinations(sorted(OFFLOAD), count)]


class Ledger:
    """Bytes on the device, and what they were while each network worked."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held, self.at_work = 0, {name: set() for name in world.modules}
        self.sizes = {name: sum(t.nbytes for t in (*m.parameters(), *m.buffers())) for name, m in world.modules.items()}
        monkeypatch.setattr(nn.Module, "to", lambda module, place: self.move(module, place))
        for name, module in world.modules.items():
            if name not in world.placement.stay:
                self.move(module, PLACE)
            for part in module.modules():
                part.register_forward_pre_hook(lambda *_, name=name: self.at_work[name].add(self.held))
        world.placement.device = PLACE

    def move(self, module: nn.Module, place: torch.device | str) -> nn.Module:
        return module._apply(self._on_device if torch.device(place) == PLACE else Tensor.clone)

    def _on_device(self, tensor: Tensor) -> Tensor:
        array = tensor.detach().numpy().copy()
        self.held += array.nbytes
        weakref.finalize(array, self._free, array.nbytes)
        return torch.from_numpy(array)

    def _free(self, size: int) -> None:
        self.held -= size


def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def plain(place):
    return load_world(place / "5b").generate(clip(), text=str(place / "text.safetensors"), **SETTINGS)


@pytest.mark.parametrize("parts", COMBINATIONS, ids=lambda parts: "+".join(parts) or "none")
def test_each_combination_gives_the_same_clip_and_its_memory_back(place, plain, monkeypatch, parts):
    world = load_world(place / "5b", offload=parts)
    ledger = Ledger(world, monkeypatch)
    waiting = {name for part in parts for name in OFFLOAD[part]}
    resident = sum(size for name, size in ledger.sizes.items() if name not in waiting)
    assert ledger.held == resident
    rollout = world.generate(clip(), text=str(place / "text.safetensors"), **SETTINGS)
    assert np.array_equal(rollout.tokens, plain.tokens) and np.array_equal(rollout.frames, plain.frames)
    gc.collect()
    assert ledger.held == resident  # given back: nothing of a waiting part is left on the device
    together = [{"world_model"}, {"video_tokenizer"}, {"diffusion_decoder", "latent_tokenizer"}]  # what works at one time
    for group in together:
        expected = resident + sum(ledger.sizes[name] for name in group & waiting)
        for name in group:
            assert ledger.at_work[name] == {expected}, name
    if not resident:  # all on their turn: the most at once is the largest group
        most = max(sum(ledger.sizes[name] for name in group) for group in together)
        assert max(max(seen) for seen in ledger.at_work.values()) == most < sum(ledger.sizes.values())


def test_a_stream_gives_its_parts_back_between_two_steps(place, monkeypatch):
    world = load_world(place / "4b", offload=("model", "tokenizer", "decoder"))
    ledger = Ledger(world, monkeypatch)
    stream = world.start(clip(), seed=3)
    frames = [stream.given_frames]
    for _ in range(2):
        gc.collect()
        assert ledger.held == 0
        frames.append(stream.step())
    whole = load_world(place / "4b").generate(clip(), num_frames=17, seed=3, refine=False)
    assert np.array_equal(stream.tokens, whole.tokens) and np.array_equal(np.concatenate(frames), whole.frames)


def test_the_text_encoder_is_gone_before_the_world_model_works(place, monkeypatch):
    """Its weights would be the largest of all: it lives for the texts of a batch, offloaded or not."""

    class Encoder(nn.Linear):
        config = type("Config", (), {"d_model": 32})

        def forward(self, input_ids: Tensor) -> object:
            return type("Out", (), {"last_hidden_state": super().forward(input_ids.float())[None]})

    alive, loads, seen = weakref.WeakSet(), [], []

    def load(name: str, text: str) -> tuple[Callable, nn.Module]:
        encoder = Encoder(4, 32).eval()
        alive.add(encoder)
        loads.append(name)
        words = type("Ids", (), {"input_ids": torch.ones(5, 4, dtype=torch.int64)})
        return lambda *_, **__: words, encoder

    monkeypatch.setattr(text_context, "load_encoder", load)
    world = load_world(place / "5b", offload=("text",), text_encoder="mine")
    world.modules["world_model"].embedding.register_forward_pre_hook(lambda *_: seen.append(len(alive)))
    world.generate(clip(), text="the arm pours tea", num_frames=9, refine=False)
    assert loads == ["mine"] and seen and set(seen) == {0}
    reader = TextReader(16, 32)
    reader.read("tea")
    assert len(alive) == 1  # the count does see one that lives


def test_lists_on_the_command_line_need_no_brackets(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clips = {}
    for name, more in {
        "plain": [],
        "bare": ["offload=text,decoder,tokenizer"],
        "list": ["offload=[text,decoder,tokenizer]"],
        "one": ["offload=model"],
    }.items():
        given = [f"world={place / '4b'}", f"image={place / 'in.png'}", "frames=9", "refine_steps=2", f"out={name}.mp4"]
        code = main(["generate", *given, *more])
        assert code == 0, capsys.readouterr().err
        clips[name] = (np.load(tmp_path / f"{name}.tokens.npy").tolist(), (tmp_path / f"{name}.mp4").read_bytes())
    assert all(one == clips["plain"] for one in clips.values())
    assert main(["generate", f"world={place / '4b'}", f"image={place / 'in.png'}", "offload=text,decodr", "out=no.mp4"]) == 2
    assert "offload: got 'decodr' (did you mean \"decoder\"?), expected some of" in capsys.readouterr().err
    assert not (tmp_path / "no.mp4").exists()
