"""How fast the published shapes run here: decoding, many futures of one past, prefill, the tokenizer; and, on a card, their memory.

Weights are random: speed does not depend on them. Beside each number stands that of the published code on a 2-core AVX2 CPU in
float32, where it was measured (its default attention path in brackets): another machine than yours, so read the ratios as
orders. `published` measures the published way here, in turns with ours, and gives the ratio: attention over every slot of the
cache, behind a mask, with keys and values repeated to all heads; the tokenizer as a plain sequence of operations, channels first,
each step of padding, norm, gate and attention a pass of its own.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wfm_ar.cosmos.bench_memory import CardMemory, bench_memory
from wfm_ar.cosmos.clock import Clock, Spread
from wfm_ar.cosmos.shapes import VIDEO_TOKENIZERS
from wfm_ar.errors import BadConfig, nearest
from wfm_ar.haar import haar_patch, haar_unpatch
from wfm_ar.rollout.cosmos_folder import materialise
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.tokenizers.video.blocks import Level, Middle, ResBlock
from wfm_ar.tokenizers.video.causal_conv import CausalConv3d, Downsample, Upsample
from wfm_ar.tokenizers.video.model import VideoTokenizer
from wfm_ar.without_memory import without_memory
from wfm_ar.world_model.captured_roll import captured_roll
from wfm_ar.world_model.decode_step import LONGEST, DecodeStep, weights_of
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.steps import decodes_in_half
from wfm_ar.world_model.transformer import Decoding, WorldModel, WorldModelConfig

MODEL = WorldModelConfig(
    vocab=64000, out_vocab=64000, layers=8, dim=1024, heads=16, kv_heads=4, head_dim=64, hidden=3584, theta=500000.0
)  # fmt: skip
NETWORKS = ("4b", "5b", "12b", "13b", "decoder-7b", "dv8x16x16", "cv8x8x8")  # that worlds are made of
CAPACITY, POSITION, PROMPT, LATENT, FUTURES = 12800, 6144, 5120, 2560, 8
AHEAD = 16  # tokens that a run decodes on CUDA, where a latent is replays of one captured graph, in one go
WORKS = ("decode", "batch", "prefill", "tokenizer", "published", "memory")


class EverySlot(KVCache):
    """A cache that is read as the published code reads it: every slot, masked, keys and values repeated to all heads."""

    def attend(self, layer: int, q_BNTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        T, group = q_BNTK.shape[2], q_BNTK.shape[1] // k_BHTK.shape[1]
        k, v = (x.repeat_interleave(group, 1) for x in self.update(layer, k_BHTK, v_BHTK))
        mask_TL = torch.ones(T, self.capacity, dtype=torch.bool, device=k.device).tril_(self.longest)
        return F.scaled_dot_product_attention(q_BNTK, k, v, attn_mask=mask_TL)


def bench(
    works: tuple[str, ...] = WORKS[:4],
    steps: int = 8,
    repeats: int = 3,
    device: str = "cpu",
    cpu_seconds: bool = False,
    networks: tuple[str, ...] = NETWORKS,
    decoding: str = Decoding.HALF.value,
) -> Iterator[str]:
    """One line a measurement: the median of `steps` tokens, or of `repeats` runs of what is longer, and its range.

    networks: whose memory is measured. decoding: half or exact, on a CPU. Raises BadConfig for an unknown work, network or decoding and
    for fewer than 1 step or repeat, for CPU-seconds of another device, and for memory on the CPU.
    """
    for work in works:
        if work not in WORKS:
            raise BadConfig(f"work: got {work!r}{nearest(work, WORKS)}, expected some of {list(WORKS)}; fix: choose some")
    if decoding not in list(Decoding):
        known = [one.value for one in Decoding]
        raise BadConfig(f"decoding: got {decoding!r}{nearest(decoding, known)}, expected one of {known}; fix: choose one")
    if min(steps, repeats) < 1:
        raise BadConfig(f"steps, repeats: got {steps}, {repeats}, expected at least 1; fix: 8 and 3")
    if cpu_seconds and device != "cpu":
        raise BadConfig(f"cpu_seconds: got true on {device}, expected false; fix: leave it out")
    if "memory" in works and device == "cpu":
        raise BadConfig("work: got memory on the CPU, expected a CUDA device, whose memory it measures; fix: device=cuda, or another work")
    clock = Clock(device, cpu_seconds)
    if "memory" in works:  # before the others, which leave tensors behind
        gauge = CardMemory(device)
        yield str(gauge)
        yield from map(str, bench_memory(networks, steps, clock, gauge))
        works = tuple(work for work in works if work != "memory")
    if not works:
        return
    copy = copy_bandwidth(clock)
    yield f"copy bandwidth: {copy / 1e9:.1f} GB/s, {torch.get_num_threads()} threads, {device}, {torch.backends.cpu.get_cpu_capability()}"
    with torch.inference_mode():
        if set(works) - {"tokenizer"}:
            with without_memory():
                model = WorldModel(MODEL)
            shapes = {name: p.shape for name, p in model.named_parameters()}
            materialise(model, lambda name: torch.randn(shapes[name], device=device) * 0.02, device)
            model.decoding = Decoding(decoding)
            if {"decode", "batch"} & set(works):
                yield from _decoding(model, "batch" in works, steps, clock, copy)
            if "prefill" in works:
                taken = clock.time(lambda: _prefill(model, model.new_cache(1, PROMPT + 1)), repeats)
                rate = PROMPT / taken.middle
                yield f"prefill of {PROMPT} tokens: {rate:.0f} tokens/s, {taken}; published 57: {rate / 57:.1f}x"
            if "published" in works:
                yield from _published(model, steps, repeats, clock)
        if "tokenizer" in works:
            yield from _tokenizer(repeats, clock, "published" in works)


def copy_bandwidth(clock: Clock, size: int = 2**28) -> float:
    """Bytes a second that a plain copy reads and writes, best of three."""
    one = torch.ones(size // 4, device=clock.device)
    two = torch.empty_like(one)
    return 2 * size / min(clock.time(lambda: two.copy_(one), 3).seconds)


def _decoding(model: WorldModel, batch: bool, steps: int, clock: Clock, copy: float) -> Iterator[str]:
    read = (2 if decodes_in_half(model) else 4) * sum(p.numel() for name, p in model.named_parameters() if not name.startswith("embedding"))
    live = 4 * 2 * MODEL.layers * MODEL.kv_heads * MODEL.head_dim * POSITION
    past = _filled(model.new_cache(1, CAPACITY), POSITION)
    one = _decoder(model, past, 1)
    ahead = _ahead(clock)
    if not batch:
        single = clock.time(one, steps, warm=2).over(ahead)
    else:
        # what a fork sees must stay: the single row goes on in a cache of its own
        futures = _filled(model.new_cache(1, CAPACITY), POSITION).fork(torch.zeros(FUTURES, dtype=torch.int64))
        many = _decoder(model, futures, FUTURES)
        first = {name: taken.over(ahead) for name, taken in clock.in_turns({"one": one, "many": many}, steps, warm=2).items()}
        single = first["one"]
    rate = (read + live) / single.middle
    yield (
        f"decode at position {POSITION} of {CAPACITY}: {single} a token, {1 / single.middle:.1f} tokens/s, {rate / 1e9:.1f} GB/s, "
        f"{100 * rate / copy:.0f}% of copying (which reads and writes); "
        f"published 1.65 (0.94) s: {1.65 / single.middle:.1f}x ({0.94 / single.middle:.1f}x)"
    )
    if not batch:
        return
    rate = FUTURES / first["many"].middle
    yield f"{FUTURES} futures of one past: {first['many']} a token of each, {rate:.1f} tokens/s, {_gain(first)} of {FUTURES} single runs"
    _filled(futures, LATENT - futures.longest)
    _filled(past, POSITION + LATENT - past.longest)
    later = {name: taken.over(ahead) for name, taken in clock.in_turns({"one": one, "many": many}, steps, warm=2).items()}
    yield f"the same {LATENT} tokens later, each with its own: {later['many']}; single {later['one']}: {_gain(later)}"


def _gain(taken: dict[str, Spread]) -> str:
    """How many times longer as many single runs take as there are futures."""
    return Spread(tuple(FUTURES * seconds for seconds in taken["one"].seconds)).times(taken["many"])


def _filled(cache: KVCache, count: int) -> KVCache:
    """The cache with `count` more tokens of random keys and values."""
    start, stop = cache.longest, cache.longest + count
    cache.k[..., start:stop, :].normal_()
    cache.v[..., start:stop, :].normal_()
    cache.advance(count)
    return cache


def _ahead(clock: Clock) -> int:
    """Tokens that a run of `_decoder` makes."""
    return 1 if clock.device == "cpu" else AHEAD


def _decoder(model: WorldModel, cache: KVCache, rows: int) -> Callable[[], Tensor]:
    """Makes one token more in each of `rows` rows behind what the cache holds; on CUDA, AHEAD tokens, as a rollout makes them there."""
    if not isinstance(cache, EverySlot) and (kernels := captured_roll(model, cache)) is not None:
        kernels.steps[0].plan(torch.tensor([2, 16, 0]).expand(rows, AHEAD + 1, -1), None)
        keys, greedy, allowed = [(0, 0, 0)] * rows, SamplingConfig(temperature=0.0).settings, (0, MODEL.out_vocab)
        return lambda: kernels.roll(keys, greedy, [allowed] * (AHEAD + 1), 0)
    ids = torch.zeros(rows, 1, dtype=torch.int64, device=cache.k.device)
    positions = torch.tensor([[[2, 16, 0]]], device=cache.k.device).expand(rows, -1, -1)
    if not isinstance(cache, EverySlot) and decodes_in_half(model):
        step = DecodeStep(model, cache, weights_of(model))
        step.plan(positions.expand(-1, LONGEST + 1, -1), None)  # a latent's plan is at least as long, and read as that is
        return lambda: step.step(ids, 0).argmax(-1)
    return lambda: model.head(model.features(ids, positions, cache=cache)[:, -1]).argmax(-1)


def _prefill(model: WorldModel, cache: KVCache) -> Tensor:
    ids = torch.zeros(1, PROMPT, dtype=torch.int64, device=cache.k.device)
    place = torch.arange(PROMPT, device=cache.k.device)
    positions = torch.stack((place // 2560, place // 64 % 40, place % 64), -1)[None]
    return model.head(model.features(ids, positions, cache=cache)[:, -1])


def _published(model: WorldModel, steps: int, repeats: int, clock: Clock) -> Iterator[str]:
    def every_slot() -> EverySlot:
        like = model.new_cache(1, 0).k
        return EverySlot(MODEL.layers, 1, CAPACITY, MODEL.kv_heads, MODEL.head_dim, like.dtype, like.device)

    theirs = _decoder(model, _filled(every_slot(), POSITION), 1)

    def forced() -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return theirs()

    runs = {"ours": _decoder(model, _filled(model.new_cache(1, CAPACITY), POSITION), 1), "forced": forced, "default": theirs}
    taken = clock.in_turns(runs, steps, warm=2)
    taken["ours"] = taken["ours"].over(_ahead(clock))
    for path in ("forced", "default"):
        told = f"decode {taken[path]} a token, ours {taken['ours']}: {taken[path].times(taken['ours'])}"
        yield f"the published way of attending here, its {path} path: {told}"
    runs = {"ours": lambda: _prefill(model, model.new_cache(1, PROMPT + 1)), "theirs": lambda: _prefill(model, every_slot())}
    taken = clock.in_turns(runs, repeats)
    ours, other = (PROMPT / taken[name].middle for name in ("ours", "theirs"))
    told = f"prefill {other:.0f} tokens/s, ours {ours:.0f}: {taken['theirs'].times(taken['ours'])}"
    yield f"the published way of attending here: {told}"


def _tokenizer(repeats: int, clock: Clock, published: bool) -> Iterator[str]:
    device = clock.device
    with without_memory():
        tokenizer = VideoTokenizer(VIDEO_TOKENIZERS["dv8x16x16"])
    shapes = {name: p.shape for name, p in tokenizer.named_parameters()}
    materialise(tokenizer, lambda name: torch.randn(shapes[name], device=device) * 0.02, device)
    video = torch.rand(1, 3, 17, 256, 256, device=device) * 2 - 1
    tokens = torch.zeros(1, 3, 16, 16, dtype=torch.int64, device=device)
    works = (
        ("encode", lambda: tokenizer.encode(video), lambda: plain_encode(tokenizer, video), 6.6),
        ("decode", lambda: tokenizer.decode(tokens), lambda: plain_decode(tokenizer, tokens), 12.1),
    )
    for name, ours, theirs, seconds in works:
        begun = time.process_time()
        taken = clock.in_turns({"ours": ours} | ({"theirs": theirs} if published else {}), repeats, warm=1)
        told = f"DV8x16x16 {name} of 17 frames 256x256: {taken['ours']}"
        if published:
            told += f"; the published way, {taken['theirs']}: {taken['theirs'].times(taken['ours'])}"
        else:
            cpu = (time.process_time() - begun) / (repeats + 1)
            told += f", {cpu:.2f} CPU-seconds; published {seconds} CPU-seconds: {seconds / cpu:.1f}x"
        yield told


def plain_encode(tokenizer: VideoTokenizer, video_BCTHW: Tensor) -> Tensor:
    """`tokenizer.encode` as a plain sequence of operations, of a configuration with the published switches."""
    encoder = tokenizer.encoder
    x = haar_patch(video_BCTHW, *encoder.patch).contiguous()
    x = _plain_convs(encoder.conv_in, x)
    for level in encoder.down:
        assert isinstance(level, Level)
        for block in level.block:
            x = _plain_block(block, x)
        if (down := level.downsample) is not None:
            assert isinstance(down, Downsample)
            if down.space:
                x = F.pad(x, (0, 1, 0, 1))
                x = down.conv1(x) + F.avg_pool3d(x, (1, 2, 2), (1, 2, 2))
            if down.time:
                x = torch.cat((x[:, :, :1], x), 2)
                x = _plain_conv(down.conv2, x) + F.avg_pool3d(x, (2, 1, 1), (2, 1, 1))
            x = _plain_conv(down.conv3, x)
    x = _plain_middle(encoder.mid, x)
    x = _plain_convs(encoder.conv_out, _gated(_plain_norm(encoder.norm_out, x)))
    return tokenizer.quantizer.codes_to_ids(tokenizer.quantizer(_plain_conv(tokenizer.quant_conv, x)))


def plain_decode(tokenizer: VideoTokenizer, tokens_Bthw: Tensor) -> Tensor:
    """`tokenizer.decode`, likewise."""
    decoder = tokenizer.decoder
    x = _plain_conv(tokenizer.post_quant_conv, tokenizer.codes(tokens_Bthw).contiguous())
    x = _plain_middle(decoder.mid, _plain_convs(decoder.conv_in, x))
    for level in reversed(decoder.up):
        assert isinstance(level, Level)
        for block in level.block:
            x = _plain_block(block, x)
        if (up := level.upsample) is not None:
            assert isinstance(up, Upsample)
            if up.time:
                x = x.repeat_interleave(2, 2)[:, :, 1:]
                x = x + _plain_conv(up.conv1, x)
            if up.space:
                x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
                x = x + _plain_conv(up.conv2, x)
            x = _plain_conv(up.conv3, x)
    x = _plain_convs(decoder.conv_out, _gated(_plain_norm(decoder.norm_out, x)))
    return haar_unpatch(x, *decoder.patch)


def _plain_conv(conv: nn.Module, x: Tensor) -> Tensor:
    """The past and the border are put around the input, then a convolution without padding."""
    assert isinstance(conv, CausalConv3d)
    past, side = conv.kernel_size[0] - conv.stride[0], conv.kernel_size[1] // 2
    if past:
        x = torch.cat((x[:, :, :1].repeat(1, 1, past, 1, 1), x), 2)
    if side:
        x = F.pad(x, (side, side, side, side))
    return F.conv3d(x, conv.weight, conv.bias, stride=conv.stride)


def _plain_convs(convs: nn.Module, x: Tensor) -> Tensor:
    for conv in convs.children():
        x = _plain_conv(conv, x)
    return x


def _plain_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    frames = x.transpose(1, 2).reshape(-1, x.shape[1], *x.shape[3:])
    frames = F.group_norm(frames, 1, norm.weight, norm.bias, norm.eps)
    return frames.view(len(x), -1, *frames.shape[1:]).transpose(1, 2).contiguous()


def _gated(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _plain_block(block: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(block, ResBlock)
    h = _plain_convs(block.conv1, _gated(_plain_norm(block.norm1, x)))
    h = _plain_convs(block.conv2, _gated(_plain_norm(block.norm2, h)))
    return (_plain_conv(block.nin_shortcut, x) if isinstance(block.nin_shortcut, CausalConv3d) else x) + h


def _plain_middle(middle: Middle, x: Tensor) -> Tensor:
    x = _plain_block(middle.block_1, x)
    attentions: Any = middle.attn_1
    for part in attentions:
        (B, C, T, H, W), h = x.shape, _plain_norm(part.norm, x)
        order = (0, 2, 3, 4, 1) if part.axis == "space" else (0, 3, 4, 2, 1)
        shape = (B * T, H * W, C) if part.axis == "space" else (B * H * W, T, C)
        q, k, v = (_plain_conv(conv, h).permute(order).reshape(shape) for conv in (part.q, part.k, part.v))
        scores = torch.bmm(q, k.transpose(1, 2)) * C**-0.5
        if part.axis == "time":
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
        out = torch.bmm(scores.softmax(-1), v).view([(B, C, T, H, W)[axis] for axis in order])
        x = x + _plain_conv(part.proj_out, out.permute([order.index(axis) for axis in range(5)]).contiguous())
    return _plain_block(middle.block_2, x)
