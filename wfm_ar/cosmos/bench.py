"""How fast the published shapes run here: decoding, many futures of one past, prefill, the tokenizer.

Weights are random: speed does not depend on them. Beside each number stands that of the published code on a 2-core AVX2 CPU in
float32, where it was measured (its default attention path in brackets): another machine than yours, so read the ratios as
orders. `published` measures the same network here with attention as the published code does it: over every slot of the cache,
behind a mask, with keys and values repeated to all heads.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from wfm_ar.cosmos.shapes import VIDEO_TOKENIZERS
from wfm_ar.errors import BadConfig, nearest
from wfm_ar.rollout.cosmos_folder import materialise
from wfm_ar.tokenizers.video.model import VideoTokenizer
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

MODEL = WorldModelConfig(
    vocab=64000, out_vocab=64000, layers=8, dim=1024, heads=16, kv_heads=4, head_dim=64, hidden=3584, theta=500000.0
)  # fmt: skip
CAPACITY, POSITION, PROMPT, LATENT, FUTURES = 12800, 6144, 5120, 2560, 8
WORKS = ("decode", "batch", "prefill", "tokenizer", "published")


@dataclass(frozen=True)
class Spread:
    """Seconds of some runs."""

    seconds: tuple[float, ...]

    @property
    def middle(self) -> float:
        return median(self.seconds)

    def __str__(self) -> str:
        return f"{self.middle:.4g} s ({min(self.seconds):.4g} to {max(self.seconds):.4g})"


class EverySlot(KVCache):
    """A cache that is read as the published code reads it: every slot, masked, keys and values repeated to all heads."""

    def attend(self, layer: int, q_BNTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        T, group = q_BNTK.shape[2], q_BNTK.shape[1] // k_BHTK.shape[1]
        k, v = (x.repeat_interleave(group, 1) for x in self.update(layer, k_BHTK, v_BHTK))
        mask_TL = torch.ones(T, self.capacity, dtype=torch.bool, device=k.device).tril_(self.longest)
        return F.scaled_dot_product_attention(q_BNTK, k, v, attn_mask=mask_TL)


@dataclass(frozen=True)
class Clock:
    """What seconds are. The process's own CPU-seconds tell more on a busy machine; with more than one thread they add up."""

    device: str
    cpu: bool = False  # CPU-seconds, else wall-clock

    def time(self, run: Callable[[], object], times: int, warm: int = 0) -> Spread:
        """Seconds of each of `times` runs, after `warm` that do not count."""
        now = time.process_time if self.cpu else time.perf_counter
        seconds = []
        for _ in range(warm + times):
            self._wait()
            begun = now()
            run()
            self._wait()
            seconds.append(now() - begun)
        return Spread(tuple(seconds[warm:]))

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


def bench(
    works: tuple[str, ...] = WORKS[:4], steps: int = 8, repeats: int = 3, device: str = "cpu", cpu_seconds: bool = False
) -> Iterator[str]:
    """One line a measurement: the median of `steps` tokens, or of `repeats` runs of what is longer, and its range.

    Raises BadConfig for an unknown work and for fewer than 1 step or repeat, and for CPU-seconds of another device.
    """
    for work in works:
        if work not in WORKS:
            raise BadConfig(f"work: got {work!r}{nearest(work, WORKS)}, expected some of {list(WORKS)}; fix: choose some")
    if min(steps, repeats) < 1:
        raise BadConfig(f"steps, repeats: got {steps}, {repeats}, expected at least 1; fix: 8 and 3")
    if cpu_seconds and device != "cpu":
        raise BadConfig(f"cpu_seconds: got true on {device}, expected false; fix: leave it out")
    clock = Clock(device, cpu_seconds)
    copy = copy_bandwidth(clock)
    yield f"copy bandwidth: {copy / 1e9:.1f} GB/s, {torch.get_num_threads()} threads, {device}, {torch.backends.cpu.get_cpu_capability()}"
    with torch.inference_mode():
        if set(works) - {"tokenizer"}:
            with torch.device("meta"):
                model = WorldModel(MODEL)
            shapes = {name: p.shape for name, p in model.named_parameters()}
            materialise(model, lambda name: torch.randn(shapes[name], device=device) * 0.02, device)
            if {"decode", "batch"} & set(works):
                yield from _decoding(model, "batch" in works, steps, clock, copy)
            if "prefill" in works:
                taken = clock.time(lambda: _prefill(model, model.new_cache(1, PROMPT + 1)), repeats)
                rate = PROMPT / taken.middle
                yield f"prefill of {PROMPT} tokens: {rate:.0f} tokens/s, {taken}; published 57: {rate / 57:.1f}x"
            if "published" in works:
                yield from _published(model, steps, clock)
        if "tokenizer" in works:
            yield from _tokenizer(repeats, clock)


def copy_bandwidth(clock: Clock, size: int = 2**28) -> float:
    """Bytes a second that a plain copy reads and writes, best of three."""
    one = torch.ones(size // 4, device=clock.device)
    two = torch.empty_like(one)
    return 2 * size / min(clock.time(lambda: two.copy_(one), 3).seconds)


def _decoding(model: WorldModel, batch: bool, steps: int, clock: Clock, copy: float) -> Iterator[str]:
    read = 4 * sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embedding"))
    live = 4 * 2 * MODEL.layers * MODEL.kv_heads * MODEL.head_dim * POSITION
    past = _filled(model.new_cache(1, CAPACITY), POSITION)
    single = _decode(model, past, 1, steps, clock)
    rate = (read + live) / single.middle
    yield (
        f"decode at position {POSITION} of {CAPACITY}: {single} a token, {rate / 1e9:.1f} GB/s, {100 * rate / copy:.0f}% of "
        f"copying (which reads and writes); published 1.65 (0.94) s: {1.65 / single.middle:.1f}x ({0.94 / single.middle:.1f}x)"
    )
    if not batch:
        return
    past.truncate(POSITION)
    futures = past.fork(torch.zeros(FUTURES, dtype=torch.int64))
    many = _decode(model, futures, FUTURES, steps, clock)
    yield f"{FUTURES} futures of one past: {many} a token of each, {FUTURES * single.middle / many.middle:.1f}x of {FUTURES} single runs"
    _filled(futures, LATENT - futures.longest)
    later = _decode(model, futures, FUTURES, steps, clock)
    del futures
    single = _decode(model, _filled(past, LATENT), 1, steps, clock)
    times = FUTURES * single.middle / later.middle
    yield f"the same {LATENT} tokens later, each with its own: {later}; single {single}: {times:.1f}x"


def _filled(cache: KVCache, count: int) -> KVCache:
    """The cache with `count` more tokens of random keys and values."""
    start, stop = cache.longest, cache.longest + count
    cache.k[..., start:stop, :].normal_()
    cache.v[..., start:stop, :].normal_()
    cache.advance(count)
    return cache


def _decode(model: WorldModel, cache: KVCache, rows: int, steps: int, clock: Clock) -> Spread:
    """Steps of `rows` rows behind what the cache holds."""
    ids = torch.zeros(rows, 1, dtype=torch.int64, device=clock.device)
    positions = torch.tensor([[[2, 16, 0]]], device=clock.device).expand(rows, -1, -1)
    return clock.time(lambda: model.head(model.features(ids, positions, cache=cache)[:, -1]).argmax(-1), steps, warm=2)


def _prefill(model: WorldModel, cache: KVCache) -> Tensor:
    ids = torch.zeros(1, PROMPT, dtype=torch.int64, device=cache.k.device)
    place = torch.arange(PROMPT, device=cache.k.device)
    positions = torch.stack((place // 2560, place // 64 % 40, place % 64), -1)[None]
    return model.head(model.features(ids, positions, cache=cache)[:, -1])


def _published(model: WorldModel, steps: int, clock: Clock) -> Iterator[str]:
    def every_slot() -> EverySlot:
        like = model.new_cache(1, 0).k
        return EverySlot(MODEL.layers, 1, CAPACITY, MODEL.kv_heads, MODEL.head_dim, like.dtype, like.device)

    for path, context in (("forced", sdpa_kernel(SDPBackend.MATH)), ("default", nullcontext())):
        with context:
            taken = _decode(model, _filled(every_slot(), POSITION), 1, steps, clock)
        yield f"the published way of attending here, its {path} path: decode {taken} a token"
    taken = clock.time(lambda: _prefill(model, every_slot()), 1)
    yield f"the published way of attending here: prefill {PROMPT / taken.middle:.0f} tokens/s"


def _tokenizer(repeats: int, clock: Clock) -> Iterator[str]:
    device = clock.device
    with torch.device("meta"):
        tokenizer = VideoTokenizer(VIDEO_TOKENIZERS["dv8x16x16"])
    shapes = {name: p.shape for name, p in tokenizer.named_parameters()}
    materialise(tokenizer, lambda name: torch.randn(shapes[name], device=device) * 0.02, device)
    video = torch.rand(1, 3, 17, 256, 256, device=device) * 2 - 1
    tokens = torch.zeros(1, 3, 16, 16, dtype=torch.int64, device=device)
    for name, run, published in (("encode", lambda: tokenizer.encode(video), 6.6), ("decode", lambda: tokenizer.decode(tokens), 12.1)):
        begun = time.process_time()
        taken = clock.time(run, repeats)
        cpu = (time.process_time() - begun) / repeats
        told = f"{taken}, {cpu:.2f} CPU-seconds; published {published} CPU-seconds: {published / cpu:.1f}x"
        yield f"DV8x16x16 {name} of 17 frames 256x256: {told}"
