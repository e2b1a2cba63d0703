"""A run that begins with the networks of a world of our own, not with random ones: training a finished world on.

Every stage without a checkpoint gets a first one, `step-000000`, with the world's weights; the loop goes on from it as from any.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.errors import BadData
from wfm_ar.rollout.world_folder import WorldParts
from wfm_ar.train.checkpoint import newest_checkpoint, save_checkpoint
from wfm_ar.train.stages import WORLD_MODEL, keep_text_tokenizer
from wfm_ar.world_model import Sequence


def begin_from(parts: WorldParts, run: Path, data: EpisodeSet, background: torch.Tensor | None = None, action_sums: bool = False) -> None:
    """The world's networks and text tokenizer as the beginning of the stages of `run` that have none.

    background: what the camera of the new data always sees, float [3, H, W] in [-1, 1]; None = the world's own.
    action_sums: a world model that was not told the sum of the actions is from now on; at first it makes nothing of it.
    Raises BadData where the data have other actions, or texts for a world that reads none.
    """
    _check(parts, data)
    if parts.text_tokenizer is not None:
        keep_text_tokenizer(run, parts.text_tokenizer)
    modules: dict[str, Any] = parts.modules()
    for name, module in modules.items():
        if newest_checkpoint(run / name) is not None:
            continue
        weights = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
        if background is not None and "background" in weights:
            weights["background"] = background.to(weights["background"].dtype)
        about = {"model": asdict(module.config)}
        if name == WORLD_MODEL:
            sequence = replace(parts.sequence, action_sums=parts.sequence.action_sums or action_sums)
            about["sequence"] = asdict(sequence)
            if module.config.hint_width:
                width = about["model"]["hint_width"] = Sequence(sequence).hint_width
                weights["hints.up.weight"] = F.pad(weights["hints.up.weight"], (0, width - module.config.hint_width))
        elif "residual_scale" in about["model"]:
            about["residual_scale"] = about["model"].pop("residual_scale")
        state = {"step": 0, "stage": name, "describe": about}
        save_checkpoint(run / name, 0, {"model": weights, "ema": weights, "optimizer": {}}, state, keep=1)


def _check(parts: WorldParts, data: EpisodeSet) -> None:
    if parts.action_schema is None or data.schema is None:
        difference = "" if parts.action_schema is data.schema else f"{'no' if data.schema is None else 'some'} actions"
    else:
        difference = parts.action_schema.diff(data.schema)
    if difference:
        raise BadData(
            f"{data.path}: got {difference}, expected the actions of the world in init=; fix: convert them, or train without init="
        )
    if parts.text_tokenizer is None and any(episode.text for episode in data):
        raise BadData(f"{data.path}: got texts, expected none, as the world in init= reads none; fix: train without init=")
