"""How fast the published shapes run here: decoding, prefill, the tokenizer, many futures of one past.

Weights are random: speed does not depend on them. Beside each number stands that of the published code on a 2-core AVX2 CPU in
float32, where it was measured (its default attention path in brackets).
"""

import time
from collections.abc import Callable, Iterator

import torch

from wfm_ar.cosmos.shapes import VIDEO_TOKENIZERS
from wfm_ar.errors import BadConfig, nearest
from wfm_ar.rollout.cosmos_folder import materialise
from wfm_ar.rollout.cosmos_roll import PREFILL
from wfm_ar.tokenizers.video.model import VideoTokenizer
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

MODEL = WorldModelConfig(
    vocab=64000, out_vocab=64000, layers=8, dim=1024, heads=16, kv_heads=4, head_dim=64, hidden=3584, theta=500000.0
)  # fmt: skip
CAPACITY, POSITION, PROMPT = 12800, 6144, 5120
WORKS = ("decode", "prefill", "batch", "tokenizer")


def bench(works: tuple[str, ...] = WORKS, steps: int = 8, device: str = "cpu") -> Iterator[str]:
    """One line a measurement. Raises BadConfig for an unknown work or fewer than 1 step."""
    for work in works:
        if work not in WORKS:
            raise BadConfig(f"work: got {work!r}{nearest(work, WORKS)}, expected some of {list(WORKS)}; fix: choose some")
    if steps < 1:
        raise BadConfig(f"steps: got {steps}, expected at least 1; fix: 8")
    copy = copy_bandwidth(device)
    yield f"copy bandwidth: {copy / 1e9:.1f} GB/s, {torch.get_num_threads()} threads, {device}"
    with torch.inference_mode():
        if set(works) - {"tokenizer"}:
            with torch.device("meta"):
                model = WorldModel(MODEL)
            shapes = {name: p.shape for name, p in model.named_parameters()}
            materialise(model, lambda name: torch.randn(shapes[name], device=device) * 0.02, device)
            yield from _world_model(model, works, steps, device, copy)
        if "tokenizer" in works:
            yield from _tokenizer(device)


def copy_bandwidth(device: str, size: int = 2**28) -> float:
    """Bytes a second that a plain copy reads and writes, best of three."""
    one = torch.ones(size // 4, device=device)
    two = torch.empty_like(one)
    return max(2 * size / _wall(lambda: two.copy_(one), device) for _ in range(3))


def _world_model(model: WorldModel, works: tuple[str, ...], steps: int, device: str, copy: float) -> Iterator[str]:
    read = 4 * sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embedding"))
    live = 4 * 2 * MODEL.layers * MODEL.kv_heads * MODEL.head_dim * POSITION
    single = None
    if {"decode", "batch"} & set(works):
        single = _decode(model, 1, steps, device)
        rate = (read + live) / single
        yield (
            f"decode at position {POSITION} of {CAPACITY}: {single:.4f} s a token, {rate / 1e9:.1f} GB/s, {100 * rate / copy:.0f}% of "
            f"copying (which reads and writes); published 1.65 (0.94) s: {1.65 / single:.1f}x ({0.94 / single:.1f}x)"
        )
    if "batch" in works:
        eight = _decode(model, 8, steps, device)
        yield f"8 futures of one past: {eight:.4f} s a token of each, {8 * single / eight:.1f}x of 8 single runs"
    if "prefill" in works:
        seconds = _prefill(model, device)
        yield f"prefill of {PROMPT} tokens: {PROMPT / seconds:.0f} tokens/s; published 57: {PROMPT / seconds / 57:.1f}x"


def _decode(model: WorldModel, rows: int, steps: int, device: str) -> float:
    """Seconds a step of `rows` rows whose cache holds POSITION tokens."""
    cache = KVCache(
        MODEL.layers, rows, CAPACITY if rows == 1 else POSITION + steps + 2, MODEL.kv_heads, MODEL.head_dim, torch.float32, device
    )
    cache.k[..., :POSITION, :].normal_()
    cache.v[..., :POSITION, :].normal_()
    cache.advance(POSITION)
    ids = torch.zeros(rows, 1, dtype=torch.int64, device=device)
    positions = torch.tensor([[[2, 16, 0]]], device=device).expand(rows, -1, -1)

    def step() -> None:
        model.head(model.features(ids, positions, cache=cache)[:, -1]).argmax(-1)

    step()
    return _wall(lambda: [step() for _ in range(steps)], device) / steps


def _prefill(model: WorldModel, device: str) -> float:
    cache = model.new_cache(1, PROMPT + 1)
    ids = torch.zeros(1, PROMPT, dtype=torch.int64, device=device)
    place = torch.arange(PROMPT, device=device)
    positions = torch.stack((place // 2560, place // 64 % 40, place % 64), -1)[None]

    def run() -> None:
        for start in range(0, PROMPT, PREFILL):
            part = slice(start, start + PREFILL)
            hidden = model.features(ids[:, part], positions[:, part], cache=cache)
        model.head(hidden[:, -1])

    return _wall(run, device)


def _tokenizer(device: str) -> Iterator[str]:
    with torch.device("meta"):
        tokenizer = VideoTokenizer(VIDEO_TOKENIZERS["dv8x16x16"])
    shapes = {name: p.shape for name, p in tokenizer.named_parameters()}
    materialise(tokenizer, lambda name: torch.randn(shapes[name], device=device) * 0.02, device)
    video = torch.rand(1, 3, 17, 256, 256, device=device) * 2 - 1
    tokens = torch.zeros(1, 3, 16, 16, dtype=torch.int64, device=device)
    for name, run, published in (("encode", lambda: tokenizer.encode(video), 6.6), ("decode", lambda: tokenizer.decode(tokens), 12.1)):
        begun = time.process_time()
        wall = _wall(run, device)
        cpu = time.process_time() - begun
        told = f"{wall:.2f} s, {cpu:.2f} CPU-seconds; published {published} CPU-seconds: {published / cpu:.1f}x"
        yield f"DV8x16x16 {name} of 17 frames 256x256: {told}"


def _wall(run: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
