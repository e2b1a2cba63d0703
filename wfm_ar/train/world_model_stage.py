"""Stage 2: the world model learns to predict the next token of clips that were encoded once."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from wfm_ar.data.shards import TokenStore
from wfm_ar.errors import BadData
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.train.loop import Batch
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig
from wfm_ar.world_model.transformer import next_token_loss


@dataclass(frozen=True, kw_only=True)
class WorldModelTraining:
    """How stage 2 samples and weighs."""

    short: int = 5  # latents of the short windows; the long ones have the sequence's max_latents
    short_share: float = 0.5  # share of steps with short windows (more rows, the same number of tokens)
    text_dropout: float = 0.15  # share of rows without their text
    action_dropout: float = 0.1  # share of rows without their actions
    action_weight: float = 0.2  # of an action token's loss beside a video token's
    first_weight: float = 0.5  # of the first latent's tokens, which nothing but text announces
    corrupt: float = 0.02  # share of video tokens that the input (not the target) has wrong, as a rollout may have
    z_loss: float = 1e-4
    val_clips: int = 96


class WorldModelStage:
    """Next-token cross-entropy on [text] BOV latent (actions) latent ... rows."""

    name = "world_model"

    def __init__(
        self,
        config: WorldModelConfig,
        sequence: SequenceConfig,
        training: WorldModelTraining,
        train_store: TokenStore,
        val_store: TokenStore,
        text: TextTokenizer | None,
    ):
        self.sequence, self.training, self.text = Sequence(sequence), training, text
        self.config = WorldModelConfig(**(asdict(config) | self.sequence.model_vocabularies()))
        self.stores = {"train": train_store, "val": val_store}
        if len(train_store) == 0:
            raise BadData("training tokens: there are none; fix: give more clips")
        self.model = WorldModel(self.config)
        self._text_ids: dict[str, list[int]] = {}

    def describe(self) -> dict:
        about = {"model": asdict(self.config), "sequence": asdict(self.sequence.config), "training": asdict(self.training)}
        return about | {"clips": len(self.stores["train"]), "tokens": self.stores["train"].num_tokens}

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """ids [B, L], positions [B, L, 3], hints [B, L, E], targets [B, L], weights [B, L]; B and L depend on the window."""
        rng = np.random.default_rng((seed, step))
        latents, store = self.sequence.config.max_latents, self.stores["train"]
        if self.training.short < latents and rng.random() < self.training.short_share:
            size, latents = size * latents // self.training.short, self.training.short
        rows = []
        for _ in range(size):
            clip = store[int(rng.integers(len(store)))]
            start = int(rng.integers(max(1, len(clip.video) - latents + 1)))
            text = clip.text if rng.random() >= self.training.text_dropout else None
            acting = clip.bins is not None and rng.random() >= self.training.action_dropout
            bins = clip.bins[start : start + latents - 1] if acting else None
            rows.append(self._row(clip.video[start : start + latents], text, bins, rng))
        return _pad(rows)

    def _row(self, video: np.ndarray, text: str | None, bins: np.ndarray | None, rng: np.random.Generator | None) -> Batch:
        tokens = torch.from_numpy(video.astype(np.int64))
        acts = None if bins is None else torch.from_numpy(bins.astype(np.int64))
        truth = self.sequence.weave(tokens, self._encode(text), acts)
        seen = truth
        if rng is not None and self.training.corrupt:
            wrong = torch.from_numpy(rng.random(video.shape) < self.training.corrupt)
            other = tokens.flatten()[torch.from_numpy(rng.integers(tokens.numel(), size=video.shape))]
            seen = self.sequence.weave(torch.where(wrong, other, tokens), self._encode(text), acts)
        targets = truth.ids[1:]
        weights = torch.ones(len(targets))
        weights[targets >= self.sequence.action_start] = self.training.action_weight
        weights[targets >= self.sequence.text_start] = 0
        begin = int((truth.ids == self.sequence.bov).nonzero())
        weights[begin : begin + self.sequence.latent_size] = self.training.first_weight
        targets = targets.masked_fill(targets >= self.sequence.text_start, 0)
        return {
            "ids": seen.ids[:-1],
            "positions": seen.positions[:-1],
            "hints": seen.hints[:-1],
            "targets": targets,
            "weights": weights,
        }

    def _encode(self, text: str | None) -> list[int] | None:
        if not text or self.text is None:
            return None
        if text not in self._text_ids:
            self._text_ids[text] = self.text.encode(text)
        return self._text_ids[text]

    def loss(self, model, batch, generator):
        hidden = model.features(batch["ids"], batch["positions"], batch["hints"])
        loss, hit = next_token_loss(hidden, model.head, batch["targets"], batch["weights"], self.training.z_loss)
        with torch.no_grad():
            video = (batch["weights"] > 0) & (batch["targets"] < self.sequence.action_start)
            actions = (batch["weights"] > 0) & ~video
        return loss, {"accuracy": _share(hit, video), "action_accuracy": _share(hit, actions), "tokens": video.sum() + actions.sum()}

    @torch.no_grad()
    def validate(self, model, device):
        """Held-out loss and accuracy of video and of action tokens, with text and true actions, over whole clips."""
        store, totals = self.stores["val"], torch.zeros(6, dtype=torch.float64)
        clips = min(self.training.val_clips, len(store))
        for first in range(0, clips, 8):
            rows = [store[i] for i in range(first, min(first + 8, clips))]
            limit = self.sequence.config.max_latents
            batch = _pad([self._row(c.video[:limit], c.text, None if c.bins is None else c.bins[: limit - 1], None) for c in rows])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            logits = model(batch["ids"], batch["positions"], hints_BLE=batch["hints"])
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["targets"], reduction="none")
            hit = (logits.argmax(-1) == batch["targets"]).float()
            later = (batch["weights"] > 0) & (batch["weights"] != self.training.first_weight)
            video = later & (batch["targets"] < self.sequence.action_start)
            for at, kind in ((0, video), (3, later & ~video)):
                totals[at : at + 3] += torch.stack([each[kind].sum(), hit[kind].sum(), kind.sum()]).double().cpu()
        numbers = {"loss": totals[0] / totals[2], "accuracy": totals[1] / totals[2]}
        if totals[5]:
            numbers |= {"action_loss": totals[3] / totals[5], "action_accuracy": totals[4] / totals[5]}
        return {name: float(value) for name, value in numbers.items()}, {}


def _share(hit: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    return hit[kind].float().mean() if kind.any() else torch.zeros(())


def _pad(rows: list[Batch]) -> Batch:
    """Rows of different lengths -> one batch, padded at the end with weight 0 (causal attention never looks there)."""
    return {name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]}
