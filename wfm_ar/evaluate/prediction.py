"""How well the world model predicts each next video token when it reads the true ones (teacher forcing)."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wfm_ar.rollout.lookahead import Lookahead
from wfm_ar.world_model.sequence import Sequence
from wfm_ar.world_model.transformer import WorldModel


@dataclass(frozen=True, kw_only=True)
class PredictionRow:
    """One clip: by video token, in the order of the tokens [t, h, w]."""

    loss: np.ndarray  # float64, nats: -log of the probability of the true token among all that the head can give
    correct: np.ndarray  # bool: the likeliest token is the true one
    changed: np.ndarray  # bool: it differs from the token at its place one latent earlier; never true in latents 0 and 1


@torch.inference_mode()
def prediction_row(
    model: WorldModel,
    sequence: Sequence,
    tokens_thw: Tensor,
    text_ids: list[int] | None = None,
    bins_tra: Tensor | None = None,
    lookahead: Lookahead | None = None,
) -> PredictionRow:
    """tokens int64 [t, h, w], text ids, action bins int64 [t - 1, r, A] (None: no actions), as `Sequence.pack` takes them.

    lookahead: of a sequence that has one.
    """
    ahead_thwK = (
        None
        if lookahead is None or (bins_tra is None and sequence.config.action_bins)
        else lookahead.along(tokens_thw, None if bins_tra is None else sequence.of_all_channels(bins_tra)[:, 0])
    )
    packed, device = sequence.pack(tokens_thw, text_ids, bins_tra, ahead_thwK), model.head.weight.device
    ids = packed.ids.to(device)
    places = (ids[1:] < sequence.config.video_vocab).nonzero().squeeze(1)  # of what is known before each video token
    hints = packed.hints[None].to(device) if model.hints is not None else None
    found = None
    if model.scene is not None:
        scenes = sequence.scenes(tokens_thw[None].cpu(), sequence.words([text_ids]), packed.follows[None])
        found, _ = model.scene(scenes.to(device))
    features = model.features(ids[None], packed.positions[None].to(device), hints, found_BLD=found)[0, places]
    log_p = model.head(features).float().log_softmax(-1)
    targets = ids[places + 1]
    changed = torch.zeros_like(tokens_thw, dtype=torch.bool)
    changed[2:] = tokens_thw[2:] != tokens_thw[1:-1]  # the first latent stands for one frame and has codes of its own
    return PredictionRow(
        loss=-log_p.gather(1, targets[:, None]).squeeze(1).double().cpu().numpy().reshape(tokens_thw.shape),
        correct=(log_p.argmax(-1) == targets).cpu().numpy().reshape(tokens_thw.shape),
        changed=changed.cpu().numpy(),
    )


def prediction_summary(rows: Items[PredictionRow]) -> dict[str, Any]:
    """Means over the video tokens of all clips (of one shape): all of them, those that change, and by latent."""
    loss, correct, changed = (np.stack([getattr(row, name) for row in rows]) for name in ("loss", "correct", "changed"))
    return {
        "loss": float(loss.mean()),
        "accuracy": float(correct.mean()),
        "loss_changed": float(loss[changed].mean()) if changed.any() else None,
        "accuracy_changed": float(correct[changed].mean()) if changed.any() else None,
        "changed_tokens": float(changed[:, 2:].mean()) if changed.shape[1] > 2 else None,
        "loss_by_latent": loss.mean(axis=(0, 2, 3)).tolist(),
        "accuracy_by_latent": correct.mean(axis=(0, 2, 3)).tolist(),
        "tokens": int(loss.size),
        "episodes": len(rows),
    }
