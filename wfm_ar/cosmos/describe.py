"""What a file or folder of Cosmos weights is, and what it takes to run it: lines for `wfm cosmos info`."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from wfm_ar.cosmos.convert import MEAN_STD
from wfm_ar.cosmos.recognise import release_of
from wfm_ar.cosmos.shapes import DECODERS, LATENT_TOKENIZERS, VIDEO_TOKENIZERS, WORLD_MODELS, Config, cache_bytes, count_parameters, on_meta
from wfm_ar.cosmos.survey import Found, survey
from wfm_ar.plain_text import shown
from wfm_ar.rollout.cosmos_folder import COSMOS_FORMAT, read_cosmos_settings
from wfm_ar.rollout.find_world import format_of
from wfm_ar.rollout.int8 import quantisable
from wfm_ar.schema import ActionSchema
from wfm_ar.world_model.transformer import WorldModelConfig

GB = 1e9
CLIP = 5 * 40 * 64  # tokens of the published 33 frames at 640x1024


def describe(path: str | Path) -> Iterator[str]:
    """One line a network: what it is, its size, and its memory. Raises BadCheckpoint for what is no Cosmos weights."""
    return map(shown, _described(Path(path)))


def describe_world(folder: Path) -> list[str] | None:
    """The same of a converted world, None of any other folder. Raises BadCheckpoint."""
    return list(map(shown, _of_world(folder))) if format_of(folder) == COSMOS_FORMAT else None


def _of_world(path: Path) -> Iterator[str]:
    settings, files = read_cosmos_settings(path)
    yield f"{path}: a converted Cosmos world, {settings.release or 'other widths than the published'}, {settings.dtype}"
    for config in (settings.world_model, settings.video_tokenizer, settings.latent_tokenizer, settings.diffusion_decoder):
        if config is not None:
            yield f"  {_said(config)}"
    if settings.action_schema is not None:
        channels = ActionSchema.from_json(settings.action_schema).channels
        yield f"  takes actions: {', '.join(one.name for one in channels)}"
    yield f"  {_size(sum(one['bytes'] for one in files.values()) / GB)} in {len(files)} files"


def _described(path: Path) -> Iterator[str]:
    if (lines := describe_world(path)) is not None:
        yield from lines
        return
    surveyed = survey(path)
    for found in surveyed.found:
        files = ", ".join(one.name for one in found.checkpoint.paths)
        yield f"{found.folder}/{files}: {found.checkpoint.format}, {len(found.checkpoint.entries)} tensors"
        yield f"  {_said(found.config)}{_lacks(found)}"
    yield from surveyed.left_out()


@cache
def memory(config: Config) -> tuple[float, float]:
    """GB of the weights in bfloat16, and with the linear layers of the blocks in 8 bits, of the network on the meta device."""
    network = on_meta(config)
    total = sum(p.numel() for p in network.parameters())
    layers = [network.get_parameter(f"{name}.weight") for name in quantisable(network)]
    small, scales = sum(weight.numel() for weight in layers), sum(len(weight) for weight in layers)
    return 2 * total / GB, (2 * (total - small + scales) + small) / GB


def most_at_once(name: str, offload: tuple[str, ...]) -> dict[str, float]:
    """GB on the device in each phase of a clip refined by the 7B decoder, with int8=model,decoder; activations are not counted.

    offload: of "model", "decoder" and "tokenizer", those that are there only while they work. The linear layer at work stands
    once more in bfloat16, as its product needs it.
    """
    model, decoder = WORLD_MODELS[name], DECODERS["decoder-7b"]
    tokenizer, latents = memory(VIDEO_TOKENIZERS["dv8x16x16"])[0], memory(LATENT_TOKENIZERS["cv8x8x8"])[0]
    weights = {"model": memory(model)[1], "decoder": memory(decoder)[1] + latents, "tokenizer": tokenizer}
    beside = {"model": cache_bytes(model, CLIP) / GB + _widest(model), "decoder": _widest(decoder), "tokenizer": 0.0}
    resident = {part: size for part, size in weights.items() if part not in offload}
    return {part: sum((resident | {part: weights[part]}).values()) + beside[part] for part in weights}


@cache
def _widest(config: Config) -> float:
    """GB of the largest linear layer of the blocks in bfloat16."""
    network = on_meta(config)
    return 2 * max(network.get_parameter(f"{name}.weight").numel() for name in quantisable(network)) / GB


def memory_table() -> Iterator[str]:
    """GB that each published world model takes: weights, keys and values of one clip, and the most that is on a device at once."""
    yield f"{'model':<6} {'bf16':>6} {'int8':>6} {'cache':>6} {'raw':>6} {'all':>6} {'turns':>6}  on a GPU"
    for name, config in WORLD_MODELS.items():
        full, small = memory(config)
        kept = cache_bytes(config, CLIP) / GB
        raw = most_at_once(name, ("decoder", "tokenizer"))["model"]
        most, turns = (max(most_at_once(name, parts).values()) for parts in ((), ("model", "decoder", "tokenizer")))
        yield f"{name:<6} {full:6.2f} {small:6.2f} {kept:6.2f} {raw:6.2f} {most:6.2f} {turns:6.2f}  not measured"
    yield "Computed from the networks on the meta device, and never measured on a GPU."
    yield "GB of weights; of weights with int8; of keys and values of 33 frames at 640x1024; and the most on the device at once with"
    yield "int8=model,decoder, activations apart: raw = world model and cache alone (refine=false offload=decoder,tokenizer),"
    yield "all = nothing offloaded, turns = each part on its turn (offload=model,decoder,tokenizer)"


def _said(config: Config) -> str:
    full, small = memory(config)
    count = count_parameters(config)
    name = release_of(config) or "other widths than the published"
    kind = type(config).__name__.removesuffix("Config")
    line = f"{kind} {name}: {count:,} parameters, {_size(full)} in bf16, {_size(small)} in int8"
    if isinstance(config, WorldModelConfig):
        kind = "frames and text" if config.context_dim else "frames"
        line += f"; {config.layers} layers, dim {config.dim}, goes on from {kind}, {_size(cache_bytes(config, CLIP) / GB)} of cache a clip"
    return line


def _size(gb: float) -> str:
    return f"{gb:.2f} GB" if gb >= 0.1 else f"{1000 * gb:.1f} MB"


def _lacks(found: Found) -> str:
    """What a half of a tokenizer is missing."""
    if found.part == "latent_tokenizer" and not (found.folder / MEAN_STD).is_file():
        return f"; no {MEAN_STD} beside it"
    return f"; the {found.lacks} is not in it" if found.lacks else ""
