"""Golden files - inputs, weights and outputs of the published networks - against our modules: one check a line.

A folder holds pairs X.safetensors and X.json; the name says what X is of, the JSON carries the published configuration, so any
widths and seeds are checked. Tolerances are absolute, for fp32 with another order of operations. The networks' own checks are in
verify_networks.py; here are those of the small parts and the running of all.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from wfm_ar.cosmos import verify_networks
from wfm_ar.cosmos.shapes import WORLD_MODELS
from wfm_ar.diffusion_decoder.dit_sampler import blend_chunks, split_chunks
from wfm_ar.errors import BadData
from wfm_ar.haar import haar_patch, haar_unpatch
from wfm_ar.rollout.sampling import SamplingConfig, filtered_probabilities, sample
from wfm_ar.tokenizers.video.fsq import FSQ
from wfm_ar.world_model.rotary import rotary_frequencies, rotary_tables, sincos_positions

TABLE = 1e-5  # positional tables, FSQ, wavelets
Tensors = dict[str, Tensor]
Found = Iterator[tuple[str, float, float]]  # name, largest error, tolerance


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of `wfm cosmos verify`."""

    name: str
    error: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        line = f"{self.name:<64} {self.error:9.2e} {self.tolerance:9.2e} {'ok' if self.ok else 'FAIL'}"
        return f"{line}  {self.note}" if self.note else line


def verify_folder(folder: str | Path) -> Iterator[Check]:
    """Every golden file of `folder`, check by check as they are made. Raises BadData where the folder holds none."""
    folder = Path(folder)
    names = sorted(path.stem for path in folder.glob("*.safetensors"))
    if not names:
        raise BadData(f"{folder}: no X.safetensors with X.json, expected golden files; fix: name their folder")
    for name in names:
        yield from verify_file(folder, name)


def verify_file(folder: str | Path, name: str) -> Iterator[Check]:
    """The checks of one golden file; what cannot be read or run is a failed check that says why."""
    check = next((check for prefix, check in _CHECKS.items() if name.startswith(prefix)), None)
    if check is None:
        yield Check(name=name, error=float("inf"), tolerance=0.0, note=f"unknown name, expected one that begins with {', '.join(_CHECKS)}")
        return
    made = 0
    try:
        tensors, about = load_file(Path(folder) / f"{name}.safetensors"), json.loads((Path(folder) / f"{name}.json").read_text())
        with torch.no_grad():
            for part, error, tolerance in check(tensors, about):
                made += 1
                yield Check(name=f"{name}: {part}", error=error, tolerance=tolerance)
    except Exception as error:  # what a configuration of any content makes a check raise has no bounds
        note = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        yield Check(name=f"{name}: after {made} checks", error=float("inf"), tolerance=0.0, note=note)
        return
    if not made:
        yield Check(name=name, error=float("inf"), tolerance=0.0, note="nothing in it to check")


difference = verify_networks.difference


def _fsq(tensors: Tensors, about: dict[str, Any]) -> Found:
    fsq = FSQ(tuple(about["levels"]))
    yield "bound", difference(fsq.bound(tensors["z"]), tensors["bound"]), TABLE
    codes = fsq(tensors["z"])
    yield "codes", difference(codes, tensors["codes"]), TABLE
    yield "indices", difference(fsq.codes_to_ids(codes), tensors["indices"]), 0.0
    yield "indices to codes", difference(fsq.ids_to_codes(tensors["indices"].long()), tensors["indices_to_codes_out"]), 0.0
    yield "picked codes", difference(fsq.ids_to_codes(tensors["pick_indices"].long()), tensors["pick_codes"]), 0.0
    rows = tensors["implicit_codebook_rows"].long()
    yield "codebook rows", difference(fsq.ids_to_codes(rows[None, None, None])[0, :, 0, 0].T, tensors["implicit_codebook"]), 0.0
    yield "bf16 indices", difference(fsq.codes_to_ids(fsq(tensors["z_bf16"])), tensors["indices_bf16"]), 0.0
    yield "bf16 codes", difference(fsq(tensors["z_bf16"]), tensors["codes_bf16"]), 0.0


def _wavelet(tensors: Tensors, about: dict[str, Any]) -> Found:
    for case, settings in about["cases"].items():
        side = settings["patch_size"]
        if case.startswith("p3d"):
            yield f"{case} patch", difference(haar_patch(tensors[f"{case}.video"], side, side), tensors[f"{case}.patched"]), TABLE
            yield f"{case} unpatch", difference(haar_unpatch(tensors[f"{case}.patched"], side, side), tensors[f"{case}.unpatched"]), TABLE
            inverse = haar_unpatch(tensors[f"{case}.rand_coeffs"], side, side)
            yield f"{case} unpatch of any numbers", difference(inverse, tensors[f"{case}.rand_coeffs_unpatched"]), TABLE
        else:  # the image patcher splits columns before rows
            image = tensors[f"{case}.image"].mT.unsqueeze(2)
            yield f"{case} patch", difference(haar_patch(image, 1, side)[:, :, 0].mT, tensors[f"{case}.patched"]), TABLE
            back = haar_unpatch(tensors[f"{case}.patched"].mT.unsqueeze(2), 1, side)[:, :, 0].mT
            yield f"{case} unpatch", difference(back, tensors[f"{case}.unpatched"]), TABLE


def _rope(tensors: Tensors, about: dict[str, Any]) -> Found:
    settings, rows = about["kw"], tensors["positions"].long()
    t, h, w = settings["latent_shape"]
    for key in sorted(name.removesuffix(".cos") for name in tensors if name.endswith(".cos")):
        release, begins = key.removesuffix("_v2w"), int(key.endswith("_v2w"))  # with BOV, video token i stands in row i + 1
        config = WORLD_MODELS[release]
        frequencies = rotary_frequencies(settings["dim"], float(settings["rope_theta"]), config.yarn_shape)
        token = rows - begins
        positions = torch.stack((token // (h * w), token // w % h, token % w), -1)
        positions[(token < 0) | (token >= t * h * w)] = -1
        cos, sin = rotary_tables(positions[None], frequencies, torch.float32)
        sin[..., : sin.shape[-1] // 2] *= -1  # ours has the first half negated for the rotation
        yield f"{key} cos", difference(cos[0, :, 0], tensors[f"{key}.cos"]), TABLE
        yield f"{key} sin", difference(sin[0, :, 0], tensors[f"{key}.sin"]), TABLE
        temporal, spatial = len(tensors[f"{key}.temporal_inv_freq"]), len(tensors[f"{key}.spatial_inv_freq"])
        yield f"{key} temporal frequencies", difference(frequencies[0, :temporal], tensors[f"{key}.temporal_inv_freq"]), TABLE
        own = frequencies[1, temporal : temporal + spatial]
        yield f"{key} spatial frequencies", difference(own, tensors[f"{key}.spatial_inv_freq"]), TABLE
        if (table := tensors.get(f"{key}.abs_pos_emb_bf16")) is not None:
            added = sincos_positions(positions[None, : len(table)], table.shape[1])[0].bfloat16()
            yield f"{key} added positions", difference(added, table), TABLE


def _sampling(tensors: Tensors, about: dict[str, Any]) -> Found:
    """Rows with ties at the top are compared as sorted probabilities: which of the tied tokens stays depends on the sort."""
    logits, noise = tensors["logits"][:, -1], tensors["exp_noise"]
    clear = [row for row in range(len(logits)) if logits[row].topk(2).values.diff().abs() > 0]
    for key in (name.removesuffix(".probs") for name in tensors if name.endswith(".probs")):
        found = re.fullmatch(r"top_([pk])\.t([\d.]+)\.[pk](None|[\d.]+)", key)
        if found is None:
            raise BadData(f"{key}: unknown case, expected top_p.tT.pP or top_k.tT.kK")
        by_p, temperature, value = found[1] == "p", float(found[2]), found[3]
        kept: dict[str, Any] = {"top_p": float(value)} if by_p else {"top_p": 1.0, "top_k": None if value == "None" else int(value)}
        ours, theirs = (
            filtered_probabilities(logits, SamplingConfig(temperature=temperature, **kept), ties=not by_p),
            tensors[f"{key}.probs"],
        )
        if by_p:
            yield f"{key} probabilities", difference(ours.sort(-1).values, theirs.sort(-1).values), 1e-6
            falling, order = ours.sort(dim=-1, descending=True, stable=True)
            token = order.gather(-1, (falling / noise).argmax(-1, keepdim=True))
        else:
            yield f"{key} probabilities", difference(ours, theirs), 1e-6
            token = (ours / noise).argmax(-1, keepdim=True)
        yield f"{key} token", difference(token[clear], tensors[f"{key}.token_fixed_noise"][clear]), 0.0
    greedy = sample(logits, torch.zeros(len(logits), dtype=torch.float64), SamplingConfig(temperature=0.0))
    yield "greedy token", difference(greedy[clear], tensors["greedy.token"].flatten()[clear]), 0.0


def _chunks(tensors: Tensors, about: dict[str, Any]) -> Found:
    for name in (name for name in tensors if name.startswith("split.")):
        theirs = tensors[name].long()
        ours = torch.tensor(split_chunks(int(theirs.max()) + 1, size=theirs.shape[1]))
        yield name, difference(ours, theirs), 0.0
    clips = [tensors[name] for name in sorted(name for name in tensors if name.startswith("blend.in"))]
    for name in (name for name in tensors if name.startswith("blend.out_D")):
        overlap = int(name.removeprefix("blend.out_D"))
        yield name, difference(blend_chunks(clips, overlap), tensors[name]), TABLE


_CHECKS: dict[str, Callable[[Tensors, dict[str, Any]], Found]] = {
    "fsq": _fsq,
    "wavelet": _wavelet,
    "rope": _rope,
    "sampling": _sampling,
    "dd_utils": _chunks,
    "tokenizer": verify_networks.tokenizer,
    "ar_actioncond": verify_networks.action_conditioned,
    "ar": verify_networks.world_model,
    "diffusion_decoder": verify_networks.diffusion_decoder,
}
