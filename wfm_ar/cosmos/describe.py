"""What a file or folder of Cosmos weights is, and what it takes to run it: lines for `wfm cosmos info`."""

import math
from collections.abc import Iterator
from pathlib import Path

from wfm_ar.cosmos.convert import MEAN_STD
from wfm_ar.cosmos.names import names_of
from wfm_ar.cosmos.recognise import release_of
from wfm_ar.cosmos.shapes import DECODERS, LATENT_TOKENIZERS, VIDEO_TOKENIZERS, WORLD_MODELS, Config, cache_bytes
from wfm_ar.cosmos.survey import Found, survey
from wfm_ar.rollout.cosmos_folder import is_cosmos, read_cosmos_settings
from wfm_ar.world_model.transformer import WorldModelConfig

GB = 1e9
CLIP = 5 * 40 * 64  # tokens of the published 33 frames at 640x1024


def describe(path: str | Path) -> Iterator[str]:
    """One line a network: what it is, its size, and its memory. Raises BadCheckpoint for what is no Cosmos weights."""
    path = Path(path)
    if path.is_dir() and is_cosmos(path):
        settings, files = read_cosmos_settings(path)
        yield f"{path}: a converted Cosmos world, {settings.release or 'other widths than the published'}, {settings.dtype}"
        parts = (settings.world_model, settings.video_tokenizer, settings.latent_tokenizer, settings.diffusion_decoder)
        for config in parts:
            if config is not None:
                yield f"  {_said(config)}"
        yield f"  {sum(one['bytes'] for one in files.values()) / GB:.2f} GB in {len(files)} files"
        return
    for found in survey(path):
        files = ", ".join(one.name for one in found.checkpoint.paths)
        yield f"{found.folder}/{files}: {found.checkpoint.format}, {len(found.checkpoint.entries)} tensors"
        yield f"  {_said(found.config)}{_lacks(found)}"


def memory(config: Config) -> tuple[float, float]:
    """GB of the weights in bfloat16, and with the linear layers of the blocks in 8 bits."""
    sizes = [(name.ours, math.prod(name.shape), len(name.shape)) for name in names_of(config)]
    total = sum(size for _, size, _ in sizes)
    small = sum(size for name, size, axes in sizes if axes == 2 and name.startswith("blocks."))
    return 2 * total / GB, (2 * (total - small) + small) / GB


def most_at_once(name: str, offload: tuple[str, ...]) -> dict[str, float]:
    """GB on the device in each phase of a clip refined by the 7B decoder, with int8=[model,decoder]; activations are not counted.

    offload: of "model", "decoder" and "tokenizer", those that are there only while they work. The linear layer at work stands
    once more in bfloat16, as its product needs it.
    """
    model, decoder = WORLD_MODELS[name], DECODERS["decoder-7b"]
    tokenizer, latents = memory(VIDEO_TOKENIZERS["dv8x16x16"])[0], memory(LATENT_TOKENIZERS["cv8x8x8"])[0]
    weights = {"model": memory(model)[1], "decoder": memory(decoder)[1] + latents, "tokenizer": tokenizer}
    beside = {"model": cache_bytes(model, CLIP) / GB + _widest(model), "decoder": _widest(decoder), "tokenizer": 0.0}
    resident = {part: size for part, size in weights.items() if part not in offload}
    return {part: sum((resident | {part: weights[part]}).values()) + beside[part] for part in weights}


def _widest(config: Config) -> float:
    """GB of the largest linear layer of the blocks in bfloat16."""
    sizes = [math.prod(name.shape) for name in names_of(config) if len(name.shape) == 2 and name.ours.startswith("blocks.")]
    return 2 * max(sizes) / GB


def memory_table() -> Iterator[str]:
    """GB that each published world model takes: weights, keys and values of one clip, and the most that is on a device at once."""
    yield f"{'model':<6} {'bf16':>6} {'int8':>6} {'cache':>6} {'raw':>6} {'all':>6} {'turns':>6}"
    for name, config in WORLD_MODELS.items():
        full, small = memory(config)
        cache = cache_bytes(config, CLIP) / GB
        raw = most_at_once(name, ("decoder", "tokenizer"))["model"]
        most, turns = (max(most_at_once(name, parts).values()) for parts in ((), ("model", "decoder", "tokenizer")))
        yield f"{name:<6} {full:6.2f} {small:6.2f} {cache:6.2f} {raw:6.2f} {most:6.2f} {turns:6.2f}"
    yield "GB of weights; of weights with int8; of keys and values of 33 frames at 640x1024; and the most on the device at once with"
    yield "int8=[model,decoder], activations apart: raw = world model and cache alone (refine=false offload=[decoder,tokenizer]),"
    yield "all = nothing offloaded, turns = each part on its turn (offload=[model,decoder,tokenizer])"


def _said(config: Config) -> str:
    full, small = memory(config)
    count = sum(math.prod(name.shape) for name in names_of(config))
    name = release_of(config) or "other widths than the published"
    kind = type(config).__name__.removesuffix("Config")
    line = f"{kind} {name}: {count:,} parameters, {full:.2f} GB in bf16, {small:.2f} in int8"
    if isinstance(config, WorldModelConfig):
        kind = "frames and text" if config.context_dim else "frames"
        line += f"; {config.layers} layers, dim {config.dim}, goes on from {kind}, {cache_bytes(config, CLIP) / GB:.2f} GB of cache a clip"
    return line


def _lacks(found: Found) -> str:
    """What a half of a tokenizer is missing."""
    if found.part == "latent_tokenizer" and not (found.folder / MEAN_STD).is_file():
        return f"; no {MEAN_STD} beside it"
    names = found.checkpoint.entries
    for side in ("encoder", "decoder"):
        if "tokenizer" in found.part and not any(name.startswith(f"{side}.") for name in names):
            return f"; the {side} is not in it"
    return ""
