"""From downloaded Cosmos weights to a world folder of ours: other names, q, k and v in one matrix, one dtype, hashes.

Nothing is held in memory but one tensor; nothing is written unless every part is there and fits.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wfm_ar.cosmos.loading import check_names, joined, open_tensors, read_mean_std
from wfm_ar.cosmos.names import names_of
from wfm_ar.cosmos.recognise import release_of
from wfm_ar.cosmos.shapes import FPS, FRAMES, HEIGHT, RECOMMENDED_TOP_P, TEXT_TOKENS, WIDTH, WORLD_MODELS, published
from wfm_ar.cosmos.survey import AUX_VARS, MEAN_STD, Found, Survey, beside, survey
from wfm_ar.errors import BadCheckpoint, BadConfig, nearest
from wfm_ar.rollout.cosmos_folder import DTYPES, CosmosSettings, Source, save_cosmos
from wfm_ar.shapes import latent_frames
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizerConfig
from wfm_ar.world_model.transformer import Decoding

NEEDED, OPTIONAL = ("world_model", "video_tokenizer"), ("latent_tokenizer", "diffusion_decoder")
FITTING = {"video_tokenizer": "dv8x16x16", "latent_tokenizer": "cv8x8x8"}  # of several released ones, those the world models go with


def convert(
    src: str | Path,
    out: str | Path,
    *,
    name: str = "auto",
    diffusion_decoder: bool = True,
    height: int = HEIGHT,
    width: int = WIDTH,
    dtype: str = "bfloat16",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write the world folder `out` from the weights under `src`, and return it.

    name: a published world model, checked tensor by tensor, or "auto" for whatever is there. diffusion_decoder: also that
    and its tokenizer, where both are there. height, width: the picture size the weights were trained at. Raises BadCheckpoint,
    BadConfig, OutputExists, NoSpace; then nothing is written.
    """
    if name != "auto" and name not in WORLD_MODELS:
        raise BadConfig(f"name: got {name!r}{nearest(name, WORLD_MODELS)}, expected auto or one of {list(WORLD_MODELS)}; fix: choose one")
    if dtype not in DTYPES:
        raise BadConfig(f"dtype: got {dtype!r}{nearest(dtype, DTYPES)}, expected one of {list(DTYPES)}; fix: choose one")
    if height < 16 or width < 16 or height % 16 or width % 16:
        raise BadConfig(f"height, width: got {height}, {width}, expected multiples of 16; fix: {HEIGHT} and {WIDTH}, as published")
    surveyed, wanted = survey(src, height, width), NEEDED + (OPTIONAL if diffusion_decoder else ())
    there = {one.part for one in surveyed.found if not one.lacks}
    if surveyed.refused and not there.issuperset(wanted):
        raise surveyed.refused[0]  # it may be the part that is missing
    parts = _chosen(surveyed, Path(src), name)
    notes = surveyed.left_out()
    if not diffusion_decoder or len(parts.keys() & set(OPTIONAL)) < 2:
        if diffusion_decoder and (alone := parts.keys() & set(OPTIONAL)):
            notes.append(f"left out: the {alone.pop()}: of {' and '.join(OPTIONAL)} only one is there, refining takes both")
        parts = {part: one for part, one in parts.items() if part not in OPTIONAL}
    elif beside(parts["diffusion_decoder"], AUX_VARS) is None and not getattr(parts["world_model"].config, "context_dim", 0):
        notes.append(f"no {AUX_VARS} beside the diffusion decoder: it will be given zeros where the published code gives it a text")
    if progress is not None:
        for line in notes:
            progress(line)
    sources: dict[str, Sequence[Source]] = {part: _sources(one, DTYPES[dtype]) for part, one in parts.items()}
    configs: dict[str, Any] = {part: one.config for part, one in parts.items()}
    context = None
    if (latent := parts.get("latent_tokenizer")) is not None:
        configs["latent_tokenizer"], statistics = _with_statistics(latent)
        sources["latent_tokenizer"] = [*sources["latent_tokenizer"], *statistics]
        context = _canned_context(parts["diffusion_decoder"])
    release = release_of(configs["world_model"]) or ""
    settings = CosmosSettings(
        release=release,
        fps=FPS,
        clip_latents=latent_frames(FRAMES, configs["video_tokenizer"].temporal_compression),
        text_tokens=TEXT_TOKENS,
        top_p=RECOMMENDED_TOP_P.get(release, 0.8),
        dtype=dtype,
        decoding=(Decoding.EXACT if dtype == "float32" else Decoding.HALF).value,  # float16 rounds few of bfloat16's
        world_model=configs["world_model"],
        video_tokenizer=configs["video_tokenizer"],
        latent_tokenizer=configs.get("latent_tokenizer"),
        diffusion_decoder=configs.get("diffusion_decoder"),
    )
    files = "\n".join(f"- {part}: {', '.join(path.name for path in one.checkpoint.paths)}" for part, one in parts.items())
    card = (
        f"# {release or 'A Cosmos-shaped world'}\n\nConverted by wfm-ar from:\n\n{files}\n\n"
        "NVIDIA's weights are under the NVIDIA Open Model License; what holds for them holds for this copy.\n"
    )
    return save_cosmos(out, settings, sources, decoder_context=context, card=card, overwrite=overwrite, progress=progress)


def _chosen(surveyed: Survey, src: Path, name: str) -> dict[str, Found]:
    """One network a part; raises BadCheckpoint where there is none or more than one."""
    found = surveyed.found
    chosen: dict[str, Found] = {}
    for part in NEEDED + OPTIONAL:
        there = [one for one in found if one.part == part]
        if part == "world_model" and name != "auto" and there:
            there = [one for one in there if one.release == name] or there[:1]
            try:
                check_names(names_of(published(name)), there[0].checkpoint, name)
            except BadCheckpoint as error:
                raise BadCheckpoint(f"{error}, or name=auto for what is there") from None
        if len(there) > 1:
            there = [one for one in there if one.release == FITTING.get(part, one.release)] or there
        if len(there) > 1:
            files = ", ".join(f"{one.checkpoint.paths[0]} ({one.release or 'other widths'})" for one in there)
            raise BadCheckpoint(f"{src}: got {len(there)} of {part}: {files}, expected one; fix: name=..., or a folder that holds one")
        if there and not (part in NEEDED and there[0].lacks and surveyed.foreign):  # then a file that is not what it was may be told
            check_names(names_of(there[0].config), there[0].checkpoint, part)
            chosen[part] = there[0]
        elif part in NEEDED:
            lacks = f"the {there[0].lacks} of the {part}" if there else part
            told = f"{src}: no {lacks} among {len(found)} networks, expected one"
            raise BadCheckpoint(f"{told}; {surveyed.foreign[0] if surveyed.foreign else 'fix: download it into the same folder'}")
    return chosen


def _sources(found: Found, dtype: torch.dtype) -> list[Source]:
    def source(one) -> Source:
        return Source(name=one.ours, shape=one.shape, make=lambda: joined(one, found.checkpoint, dtype))

    return [source(one) for one in names_of(found.config)]


def _with_statistics(found: Found) -> tuple[ContinuousTokenizerConfig, list[Source]]:
    """The continuous tokenizer's mean and spread: its configuration with their length, and the two tensors. Raises BadCheckpoint."""
    path = beside(found, MEAN_STD)
    if path is None:
        raise BadCheckpoint(
            f"{found.folder}: no {MEAN_STD}, expected it beside the continuous tokenizer; fix: download it, or diffusion_decoder=false"
        )
    assert isinstance(found.config, ContinuousTokenizerConfig)
    mean, std = read_mean_std(path, found.config.latent_channels)
    config = replace(found.config, chunk=mean.shape[1])
    shape = tuple(mean.shape)
    kept = [Source(name=key, shape=shape, make=lambda one=one: one, dtype=torch.float32) for key, one in (("mean", mean), ("std", std))]
    return config, kept


def _canned_context(found: Found) -> torch.Tensor | None:
    """The text embedding that the base models' decoder is given, [tokens, width], of aux_vars.pt; None without that file."""
    path, width = beside(found, AUX_VARS), getattr(found.config, "context_dim", 0)
    if path is None:
        return None
    for tensor in open_tensors(path):
        if tensor.is_floating_point() and tensor.ndim >= 2 and tensor.shape[-1] == width and tensor.numel() == tensor.shape[-2] * width:
            return tensor.reshape(-1, width)
    raise BadCheckpoint(
        f"{path}: no tensor [tokens, {width}], expected the decoder's text embedding; fix: copy the file again, or remove it"
    )
