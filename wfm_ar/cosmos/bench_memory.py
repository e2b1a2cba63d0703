"""How much memory the published networks take on a card while they work: measured, with random weights, at the published shapes.

What is counted is what torch's allocator has handed out (1 GB = 1e9 bytes); the driver's context and the kernels' code come on top.
Each network is alone on the card and does what a world does with it: a world model goes on from 9 frames, up to the end of the
cache of 33; the diffusion decoder answers a chunk, with and without its condition in one call; a tokenizer decodes. Weights are made
on the device one tensor at a time, so that the whole network in bf16 never stands beside its 8 bits. A random network's next token
is about any of the vocabulary, so a draw sorts it all, which a trained one's rarely does.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wfm_ar.cosmos.clock import Clock
from wfm_ar.cosmos.shapes import CODEBOOK, FPS, FRAMES, HEIGHT, PUBLISHED, RECOMMENDED_TOP_P, TEXT_TOKENS, WIDTH, Config, on_meta
from wfm_ar.diffusion_decoder.dit import DiT, DiTConfig
from wfm_ar.diffusion_decoder.dit_sampler import CHUNK, dit_noise, dit_sample
from wfm_ar.errors import BadConfig, nearest
from wfm_ar.rollout.cosmos_folder import materialise
from wfm_ar.rollout.frame_decoder import to_uint8
from wfm_ar.rollout.int8 import put_int8, quantisable
from wfm_ar.rollout.sampling import SamplingConfig, Stream, draws_of_rows, keys, sample
from wfm_ar.shapes import latent_frames
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizer, ContinuousTokenizerConfig
from wfm_ar.tokenizers.video.model import VideoTokenizer
from wfm_ar.world_model.captured_roll import captured_roll
from wfm_ar.world_model.sequence import Sequence as TokenSequence
from wfm_ar.world_model.sequence import published_sequence
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

GB = 1e9
GIVEN = 9  # frames that a world model goes on from
RATE, SIDE = 8, 16  # frames and pixels a side of a token of DV8x16x16
LATENT_SIDE = 8  # pixels a side of a place of CV8x8x8, whose latents the decoder makes
STEPS = 2  # of the diffusion decoder: the fewest there are, each with one call of the network
SPREAD = 0.02  # of the weights

Size = tuple[int, int, int]  # frames, height and width of a clip


class Gauge(Protocol):
    """Reads how many bytes are taken."""

    def clear(self) -> None:
        """Give back what nobody holds, and count the most from here on."""

    def held(self) -> int:
        """Bytes that tensors take now."""
        ...

    def most(self) -> int:
        """The most at once since `clear`."""
        ...


@dataclass(frozen=True)
class CardMemory:
    """Of a CUDA device."""

    device: str

    def __str__(self) -> str:
        card = torch.cuda.get_device_properties(self.device)
        return f"memory of {card.name}, {card.total_memory / GB:.1f} GB, torch {torch.__version__}"

    def clear(self) -> None:
        torch.cuda.init()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def held(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def most(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A network and what it does, which answers with how long it took."""

    name: str
    config: Config
    int8: bool = False
    doing: str = ""
    run: Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a work took, or why it could not be done."""

    name: str
    int8: bool
    doing: str
    weights: int = 0  # bytes
    peak: int = 0  # bytes, weights included
    seconds: str = ""
    failure: str = ""

    def __str__(self) -> str:
        about = f"{self.name} {'int8' if self.int8 else 'bf16'}, {self.doing}"
        if self.failure:
            return f"{about}: does not fit: {self.failure}"
        return f"{about}: weights {self.weights / GB:.2f} GB, peak {self.peak / GB:.2f} GB, {self.seconds}"


def bench_memory(
    networks: Sequence[str],
    steps: int,
    clock: Clock,
    gauge: Gauge,
    configs: Mapping[str, Config] = PUBLISHED,
    size: Size = (FRAMES, HEIGHT, WIDTH),
) -> Iterator[Taken]:
    """Every work of each network, as they are done; `steps` tokens are timed. What does not fit says so, and the next one begins.

    Raises BadConfig for an unknown network and for more steps than the clip has tokens to make.
    """
    for name in networks:
        if name not in configs:
            raise BadConfig(f"networks: got {name!r}{nearest(name, configs)}, expected some of {list(configs)}; fix: choose some")
    room = ((latent_frames(size[0], RATE) - latent_frames(GIVEN, RATE)) * _area(size) - 1) // 2  # once to warm up
    if steps > room:
        raise BadConfig(f"steps: got {steps}, expected at most {room}: the rest of a clip of {size[0]} frames; fix: steps=8")
    for name in networks:
        for work in works_of(name, configs[name], steps, clock, size):
            yield measure(work, clock.device, gauge)


def works_of(name: str, config: Config, steps: int, clock: Clock, size: Size) -> Iterator[Work]:
    """What is measured of one network."""
    common = {"name": name, "config": config}
    if isinstance(config, WorldModelConfig):
        top_p = RECOMMENDED_TOP_P.get(name, 1.0)
        for int8 in (False, True):
            doing = f"{size[0]} frames from {GIVEN}"
            yield Work(**common, int8=int8, doing=doing, run=lambda model: _go_on(model, top_p, steps, clock, size))
    elif isinstance(config, DiTConfig):
        for int8 in (False, True):
            yield Work(**common, int8=int8, doing=f"a guided call for {CHUNK} latents", run=lambda dit: _denoise(dit, clock, size))
    elif isinstance(config, ContinuousTokenizerConfig):
        latents = latent_frames(size[0], config.temporal_compression)
        for count in (latents, CHUNK):
            frames = 1 + (count - 1) * config.temporal_compression
            yield Work(**common, doing=f"decoding {frames} frames at once", run=lambda net, count=count: _latents(net, count, clock, size))
    else:
        yield Work(**common, doing=f"decoding {size[0]} frames at once", run=lambda net: _tokens(net, clock, size))
        yield Work(**common, doing=f"decoding {size[0]} frames latent by latent", run=lambda net: _stream(net, clock, size))


@torch.inference_mode()
def measure(work: Work, device: str, gauge: Gauge) -> Taken:
    """One work by a network made for it, which is gone when this returns."""
    gauge.clear()
    before, about = gauge.held(), {"name": work.name, "int8": work.int8, "doing": work.doing}
    try:
        network = random_network(work.config, device, torch.bfloat16, work.int8)
        gauge.clear()
        weights = gauge.held() - before
        seconds = work.run(network)
    except torch.OutOfMemoryError as error:  # it holds the frames, and they the tensors, until this block is left
        return Taken(**about, failure=". ".join(str(error).split(". ")[:2]))
    return Taken(**about, weights=weights, peak=gauge.most(), seconds=seconds)


def random_network(config: Config, device: str, dtype: torch.dtype, int8: bool) -> nn.Module:
    """A network of random weights, made on the device tensor by tensor; int8: as the loaders keep it, layer by layer."""
    network = on_meta(config)
    shapes = {name: p.shape for name, p in network.named_parameters()}

    def drawn(name: str) -> Tensor:
        return torch.empty(shapes[name], dtype=dtype, device=device).normal_(std=SPREAD)

    for name in quantisable(network) if int8 else ():
        put_int8(network, name, drawn(f"{name}.weight"), device, dtype)
    return materialise(network, drawn, device)


def _area(size: Size) -> int:
    """Tokens a latent."""
    return size[1] // SIDE * (size[2] // SIDE)


def _go_on(model: WorldModel, top_p: float, steps: int, clock: Clock, size: Size) -> str:
    """As a rollout has it: a new cache of the whole clip, the prompt in one pass, then the clip's last tokens, on CUDA by one graph."""
    device, dtype = model.head.weight.device, model.head.weight.dtype
    begins = int(bool(model.config.context_dim))  # with BOV, at no position
    total, given, area = latent_frames(size[0], RATE), latent_frames(GIVEN, RATE), _area(size)
    grid = size[1] // SIDE, size[2] // SIDE
    order = published_sequence(video_vocab=CODEBOOK, vocab=model.config.vocab, bov=bool(begins), grid=grid, rate=RATE, max_latents=total)
    ids_L, positions_L3, *_ = (each.to(device) for each in TokenSequence(order).pack(torch.randint(CODEBOOK, (total, *grid))))
    ids_L = ids_L[: begins + given * area]
    context = torch.zeros(1, TEXT_TOKENS, model.config.context_dim, device=device, dtype=dtype) if begins else None

    cache = model.new_cache(1, len(positions_L3))
    hidden = model.features(ids_L[None], positions_L3[None, : len(ids_L)], cache=cache, context=context)
    logits_BV = model.head(hidden[:, -1]).float()
    del hidden
    cache.advance(cache.capacity - cache.longest - 2 * steps - 1)
    sampling, row_keys = SamplingConfig(top_p=top_p), [keys(0, total - 1, Stream.VIDEO)]
    uniforms_Bn = draws_of_rows(row_keys, steps).to(device)
    kernels = captured_roll(model, cache)
    if kernels is not None:
        kernels.begin(logits_BV)

    def some() -> None:
        nonlocal logits_BV
        positions_1n3 = positions_L3[None, cache.longest : cache.longest + steps + 1]
        if kernels is not None:
            kernels.steps[0].plan(positions_1n3.cpu(), None)
            kernels.roll(row_keys, sampling.settings, [(0, CODEBOOK)] * (steps + 1), 0)
            return
        for i in range(steps):
            token_B = sample(logits_BV, uniforms_Bn[:, i], sampling, (0, CODEBOOK))
            hidden = model.features(token_B[:, None], positions_1n3[:, i : i + 1], cache=cache)
            logits_BV = model.head(hidden[:, -1]).float()

    return f"{clock.time(some, 1, warm=1).over(steps).middle:.4g} s a token"


def _denoise(dit: DiT, clock: Clock, size: Size) -> str:
    tokens_Bthw = torch.randint(CODEBOOK, (1, CHUNK, size[1] // SIDE, size[2] // SIDE))
    context_BSC = torch.zeros(1, TEXT_TOKENS, dit.config.context_dim)
    noise_BCthw = dit_noise([0], (dit.config.latent_channels, CHUNK, size[1] // LATENT_SIDE, size[2] // LATENT_SIDE))
    taken = clock.time(lambda: dit_sample(dit, tokens_Bthw, context_BSC, noise_BCthw, steps=STEPS, fps=FPS), 1)
    return f"{taken.middle / STEPS:.4g} s a call"


def _latents(tokenizer: ContinuousTokenizer, count: int, clock: Clock, size: Size) -> str:
    """What the diffusion decoder made, `count` latents of it: it is float32."""
    config = tokenizer.config
    grid = (size[1] // config.spatial_compression, size[2] // config.spatial_compression)
    latents_Bcthw = torch.randn(1, config.latent_channels, count, *grid, device=clock.device)
    return f"{clock.time(lambda: tokenizer.decode(latents_Bcthw), 1, warm=1)}"


def _random_tokens(tokenizer: VideoTokenizer, clock: Clock, size: Size) -> Tensor:
    config = tokenizer.config
    grid = (size[1] // config.spatial_compression, size[2] // config.spatial_compression)
    return torch.randint(tokenizer.codebook_size, (1, latent_frames(size[0], config.temporal_compression), *grid), device=clock.device)


def _tokens(tokenizer: VideoTokenizer, clock: Clock, size: Size) -> str:
    tokens_Bthw = _random_tokens(tokenizer, clock, size)
    return f"{clock.time(lambda: tokenizer.decode(tokens_Bthw), 1, warm=1)}"


def _stream(tokenizer: VideoTokenizer, clock: Clock, size: Size) -> str:
    """As a world decodes, frames on the host included."""
    tokens_Bthw = _random_tokens(tokenizer, clock, size)

    def run() -> None:
        stream = tokenizer.decode_stream()
        for one in tokens_Bthw.split(1, 1):
            to_uint8(stream.push(one).float())

    return f"{clock.time(run, 1, warm=1)}"
