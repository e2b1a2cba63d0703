"""A release of random weights in the published layout and names: for tests and for trying the whole path without the weights.

Tiny widths, but the published codebook, rates, depths of the tokenizers and file kinds: model.pt, TorchScript archives,
mean_std.pt and aux_vars.pt.
"""

import errno
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from wfm_ar.cosmos.names import names_of
from wfm_ar.cosmos.shapes import CODEBOOK, LATENT_TOKENIZERS, LEVELS, PUBLISHED, VIDEO_TOKENIZERS, WORLD_MODELS, Config
from wfm_ar.data.claims import claim, whole_folder
from wfm_ar.data.files import as_wfm_error
from wfm_ar.diffusion_decoder.dit import DiTConfig
from wfm_ar.errors import BadConfig, OutputExists, nearest
from wfm_ar.world_model.transformer import WorldModelConfig

FOLDERS = {
    "4b": "Cosmos-Predict1-4B",
    "5b": "Cosmos-Predict1-5B-Video2World",
    "12b": "Cosmos-Predict1-12B",
    "13b": "Cosmos-Predict1-13B-Video2World",
    "dv8x16x16": "Cosmos-Tokenize1-DV8x16x16-720p",
    "cv8x8x8": "Cosmos-Tokenize1-CV8x8x8-720p",
    "decoder-7b": "Cosmos-Predict1-7B-Decoder-DV8x16x16ToCV8x8x8-720p",
}
TEXT_WIDTH, CHUNK = 32, 8


def tiny(name: str) -> Config:
    """The configuration of a published network at tiny widths. Raises BadConfig for an unknown name."""
    if name in WORLD_MODELS:
        full = WORLD_MODELS[name]
        # heads that are together wider than the model are how 12B and 13B are told from 4B and 5B
        head_dim, width = (16 if full.yarn_shape else 12), (TEXT_WIDTH if full.context_dim else 0)
        return replace(full, layers=2, dim=48, heads=4, kv_heads=2, head_dim=head_dim, hidden=96, context_dim=width)
    if name in VIDEO_TOKENIZERS or name in LATENT_TOKENIZERS:
        full = {**VIDEO_TOKENIZERS, **LATENT_TOKENIZERS}[name]
        return replace(full, height=64, width=96, encoder_channels=8, decoder_channels=8)
    if name == "decoder-7b":
        return DiTConfig(token_dim=4, layers=2, dim=48, heads=4, hidden=96, context_dim=TEXT_WIDTH, modulation_rank=8)
    raise BadConfig(f"name: got {name!r}{nearest(name, PUBLISHED)}, expected one of {list(WORLD_MODELS)}; fix: choose one of them")


def synthesise(
    name: str,
    out: str | Path,
    *,
    scale: str = "tiny",
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write the release of one world model with all parts it runs with, or nothing. Raises BadConfig, OutputExists, NoSpace, BadData."""
    if name not in WORLD_MODELS:
        raise BadConfig(f"name: got {name!r}{nearest(name, WORLD_MODELS)}, expected one of {list(WORLD_MODELS)}; fix: choose one of them")
    if scale != "tiny":
        raise BadConfig(f"scale: got {scale!r}, expected tiny; fix: scale=tiny")
    out = Path(out)
    with claim(out):  # what a process that was stopped left there is tidied up before it is looked at
        if out.exists() and not overwrite:
            raise OutputExists(f"{out}: is there already, expected a new folder; fix: another out=, or overwrite=true")
        if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= set(FOLDERS.values())):
            raise OutputExists(f"{out}: holds more than a release, so it will not be replaced; fix: another out=")
    try:
        with whole_folder(out, overwrite=overwrite) as part:
            _write_release(part, name, seed, progress)
    except (OSError, RuntimeError) as error:  # torch's writers raise the latter
        told = error if isinstance(error, OSError) else OSError(errno.EIO, str(error).splitlines()[0])
        raise as_wfm_error(told, out) from error
    return out


def _write_release(out: Path, name: str, seed: int, progress: Callable[[str], None] | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    for part in (name, "dv8x16x16", "cv8x8x8", "decoder-7b"):
        if progress is not None:
            progress(FOLDERS[part])
        folder, config = out / FOLDERS[part], tiny(part)
        folder.mkdir(parents=True, exist_ok=True)
        weights = random_weights(config, generator)
        about = {"note": "random weights at tiny widths, not NVIDIA's", "network": part}
        (folder / "config.json").write_text(json.dumps(about, indent=1))
        if isinstance(config, WorldModelConfig):
            torch.save({"model": {key: one.bfloat16() for key, one in weights.items()}}, folder / "model.pt")
        elif isinstance(config, DiTConfig):
            context = torch.randn(1, 12, config.context_dim, generator=generator)
            torch.save(weights | {"logvar.1.weight": torch.zeros(1, 128), "net.pos_embedder.seq": torch.arange(128.0)}, folder / "model.pt")
            torch.save({"context": context, "context_mask": torch.ones(1, 12)}, folder / "aux_vars.pt")
        else:
            _write_archives(folder, weights, discrete=part.startswith("dv"))
    mean_std = (torch.randn(16 * CHUNK, generator=generator) * 0.1, torch.rand(16 * CHUNK, generator=generator) + 0.5)
    torch.save(mean_std, out / FOLDERS["cv8x8x8"] / "mean_std.pt")


def random_weights(config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    """Published names -> float32: matrices N(0, 1 / fan-in), gains 1, biases 0."""
    weights = {}
    for one in names_of(config):
        for name, shape in one.shapes().items():
            if len(shape) > 1:
                fan_in = shape[1] if "embed" in name and len(shape) == 2 else math.prod(shape[1:])
                weights[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
            else:
                weights[name] = torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    return weights


def _write_archives(folder: Path, weights: dict[str, Tensor], discrete: bool) -> None:
    """encoder.jit and decoder.jit, with the buffers that the published ones carry."""
    taps = torch.full((2,), 0.5**0.5)
    encoder = {name: one for name, one in weights.items() if name.startswith(("encoder.", "quant_conv."))}
    decoder = {name: one for name, one in weights.items() if name.startswith(("decoder.", "post_quant_conv."))}
    encoder |= {
        "encoder.patcher3d.wavelets": taps,
        "encoder.patcher3d._arange": torch.arange(2),
        "encoder.patcher3d.patch_size_buffer": torch.tensor(4),
    }
    decoder |= {"decoder.unpatcher3d.wavelets": taps, "decoder.unpatcher3d._arange": torch.arange(2)}
    if discrete:
        levels = torch.tensor(LEVELS, dtype=torch.int32)
        basis = torch.cumprod(torch.tensor([1, *LEVELS[:-1]]), 0).int()
        assert math.prod(LEVELS) == CODEBOOK
        encoder |= {"quantizer._levels": levels, "quantizer._basis": basis}
        decoder |= {"inv_quant.quantizer._levels": levels, "inv_quant.quantizer._basis": basis}
    for name, tensors in (("encoder", encoder), ("decoder", decoder)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is old; the published files are of its kind
            torch.jit.script(_tree(tensors)).save(folder / f"{name}.jit")


def _tree(tensors: dict[str, Tensor]) -> nn.Module:
    """A module without a forward, whose state dict is `tensors`."""
    root = nn.Module()
    for name, tensor in tensors.items():
        *place, leaf = name.split(".")
        module = root
        for child in place:
            if child not in dict(module.named_children()):
                module.add_module(child, nn.Module())
            module = module.get_submodule(child)
        if tensor.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(leaf, tensor)
    return root
