"""Stage 3: the world model learns to predict the next token of clips that were encoded once."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wfm_ar.data.shards import TokenStore
from wfm_ar.errors import BadData
from wfm_ar.rollout.engine import Actions, Request, Row, roll
from wfm_ar.rollout.lookahead import Lookahead
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.schema import Schema
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.clips import one_below_another, side_by_side, to_uint8
from wfm_ar.train.code_use import collapse, count_codes
from wfm_ar.train.first_weights import begin_with_digits, begin_with_values
from wfm_ar.train.look_ahead import LookaheadStore
from wfm_ar.train.sparse_rows import usual_tokens
from wfm_ar.train.stage_protocol import Batch
from wfm_ar.train.world_model_rows import Cut, WorldModelRows, WorldModelTraining
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig

USUAL_CLIPS = 200  # that tell what token an empty place has
SHOWN = 3  # held-out clips rolled out at each validation


class WorldModelStage:
    """Next-token cross-entropy on [text] BOV latent (actions) latent ... rows."""

    name = "world_model"
    judged_by = ("loss", -1)

    def __init__(
        self,
        config: WorldModelConfig,
        sequence: SequenceConfig,
        training: WorldModelTraining,
        train_store: TokenStore,
        val_store: TokenStore,
        text: TextTokenizer | None,
        schema: Schema | None = None,
        tokenizer: VideoTokenizer | None = None,
        micro_batches: int = 1,
        policy_store: TokenStore | None = None,
        lookahead: Lookahead | None = None,
        ahead: dict[str, LookaheadStore] | None = None,
    ):
        """schema: what the action bins mean; kept in the checkpoint. tokenizer: shows rollouts at validation; None = no pictures.

        micro_batches: of one step. They are all of one kind, as ranks that share one must pass through the network equally often.
        policy_store: what the steps on the policy alone and on images alone are of; None = train_store.
        lookahead, ahead: of a sequence with a lookahead, and what it told of the stores "train" and "val".
        """
        self.tokenizer, self.lookahead, self._ahead = tokenizer, lookahead, ahead or {}
        self.sequence, self.training, self.text, self.schema = Sequence(sequence), training, text, schema
        self.config = replace(config, **self.sequence.model_vocabularies())
        self.val_store = val_store
        if len(train_store) == 0 or (policy_store is not None and len(policy_store) == 0):
            raise BadData("training tokens: there are none; fix: give more clips")
        self.model = WorldModel(self.config)
        begin_with_digits(self.model, self.sequence)
        begin_with_values(self.model, self.sequence)
        indices = np.linspace(0, len(train_store) - 1, min(USUAL_CLIPS, len(train_store))).astype(int)
        some = [train_store[int(i)].video for i in indices]
        self.warning = collapse(count_codes(some, sequence.video_vocab))
        usual = usual_tokens(some, sequence.video_vocab)
        own = self._ahead.get("train")
        self.rows = WorldModelRows(
            self.sequence, training, train_store, policy_store or train_store, text, usual, own, micro_batches=micro_batches
        )

    def describe(self) -> dict:
        about = {"model": asdict(self.config), "sequence": asdict(self.sequence.config), "training": asdict(self.training)}
        about |= {"clips": len(self.rows.store), "tokens": self.rows.store.num_tokens}
        return about | {"schema": self.schema.to_json() if self.schema else None}

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """See WorldModelRows.batch."""
        return self.rows.batch(step, size, seed)

    def clip_ids(self, batch: Batch) -> list[str]:
        """The ids of the clips in a batch, each once."""
        return self.rows.clip_ids(batch)

    def _hints(self, batch: Batch) -> torch.Tensor:
        """float32 [B, L, F], made on the batch's device: they are many times the bytes of all else."""
        return self.sequence.hints(batch["tokens"], batch["bins"], batch["video"], batch["slots"], batch.get("ahead"))

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """What the network takes beside ids and positions."""
        scenes = (
            None
            if self.config.scene_channels == 0
            else self.sequence.scenes(*(batch[name] for name in ("tokens", "words", "follows", "moves")))
        )
        return {"hints_BLF": self._hints(batch), "scenes": scenes}

    @torch.no_grad()
    def _shown_own_errors(self, model, batch: Batch) -> Batch:
        """The batch with the tokens to swap as the model draws them, given the true past (Mihaylova & Martins 2019, in two passes).

        So it learns to go on from what it will see in a rollout: not only from the truth.
        """
        vocab = self.sequence.config.video_vocab
        logits_BLV = model(batch["ids"], batch["positions"], **self._inputs(batch))
        row, column = torch.where(batch["swap"])
        mass_RV = logits_BLV[row, column, :vocab].softmax(-1).cumsum(-1)
        threshold_R1 = batch["uniforms"][row, column, None] * mass_RV[:, -1:]
        drawn_R = torch.searchsorted(mass_RV, threshold_R1, right=True).squeeze(1).clamp_max(vocab - 1)
        tokens_BM, ids = batch["tokens"].flatten(1).clone(), F.pad(batch["ids"], (0, 1))
        tokens_BM[row, batch["video"][row, column]] = drawn_R
        ids[row, column + 1] = drawn_R
        return batch | {"ids": ids[:, :-1], "tokens": tokens_BM.view_as(batch["tokens"])}

    def _acting(self, bins: np.ndarray | None) -> tuple[Sequence, torch.Tensor | None]:
        """The sequence of the robot whose columns of `bins` [n, r, columns] are filled (the others hold -1), and its bins."""
        if bins is None or not len(bins):
            return self.sequence, None
        channels = tuple(np.flatnonzero(bins[0, 0] >= 0).tolist())
        if not channels:
            return self.sequence, None
        return Sequence(self.sequence.config, channels), torch.from_numpy(bins[:, :, channels].astype(np.int64))

    def loss(self, model, batch, generator):
        if "swap" in batch:
            batch = self._shown_own_errors(model, batch)
        inputs = self._inputs(batch) | {"targets_BL": batch["targets"], "weights_BL": batch["weights"]}
        loss, hit = model(batch["ids"], batch["positions"], **inputs, z_loss=self.training.z_loss)
        video = (batch["weights"] > 0) & (batch["targets"] < self.sequence.action_start)
        actions = (batch["weights"] > 0) & ~video
        # a step on the policy alone has none, and of collapsed codes it would mean nothing
        seen = {"accuracy": _share(hit, video)} if video.any() and not self.warning else {}
        return loss, seen | {"action_accuracy": _share(hit, actions), "tokens": video.sum() + actions.sum()}

    @torch.no_grad()
    def validate(self, model, device):
        """Held-out loss and accuracy of video and of action tokens, with text and true actions, over whole clips."""
        store, totals = self.val_store, torch.zeros(6, dtype=torch.float64)
        clips = min(self.training.val_clips, len(store))
        for first in range(0, clips, 8):
            limit, cuts = self.sequence.config.max_latents, []
            for i in range(first, min(first + 8, clips)):
                clip, tokens = store[i], store[i].video[:limit].astype(np.int64)
                bins = None if clip.bins is None else clip.bins[: limit - 1]
                cuts.append(Cut(i, tokens, tokens, clip.text, bins, self._ahead["val"][i][1][:limit] if self._ahead else None))
            batch = {name: tensor.to(device) for name, tensor in self.rows.packed(cuts, limit).items()}
            logits = model(batch["ids"], batch["positions"], **self._inputs(batch))
            each = F.cross_entropy(logits.transpose(1, 2), batch["targets"], reduction="none")
            hit = (logits.argmax(-1) == batch["targets"]).float()
            later = (batch["weights"] > 0) & (batch["weights"] != self.training.first_weight)
            video = later & (batch["targets"] < self.sequence.action_start)
            for at, kind in ((0, video), (3, later & ~video)):
                totals[at : at + 3] += torch.stack([each[kind].sum(), hit[kind].sum(), kind.sum()]).double().cpu()
        numbers = {"loss": totals[0] / totals[2]} | ({} if self.warning else {"accuracy": totals[1] / totals[2]})
        if totals[5]:
            numbers |= {"action_loss": totals[3] / totals[5], "action_accuracy": totals[4] / totals[5]}
        return {name: float(value) for name, value in numbers.items()}, self._rollouts(model)

    def _rollouts(self, model: WorldModel) -> dict[str, torch.Tensor]:
        """Held-out clips as their true tokens show them, above what the model makes of their first latent and their actions."""
        shown, limit = [], self.sequence.config.max_latents
        if self.tokenizer is None:
            return {}
        for i in range(min(SHOWN, len(self.val_store))):
            clip = self.val_store[i]
            truth = torch.from_numpy(clip.video[:limit].astype(np.int64))
            sequence, bins = self._acting(None if clip.bins is None else clip.bins[: limit - 1])
            row = Row(seed=i, text_ids=self.rows.encode(clip.text) or [], tokens=(truth[0],), bins=(None,))
            actions = Actions.ABSENT if bins is None else Actions.GIVEN
            request = Request(row=row, num_latents=len(truth), actions=actions, bins_nrA=bins)
            (made,) = roll(model, sequence, [request], SamplingConfig(), lookahead=self.lookahead)
            both = self.tokenizer.decode(torch.stack((truth, torch.stack(list(made.tokens)))).to(next(self.tokenizer.parameters()).device))
            rows = [to_uint8(video_CTHW.permute(1, 2, 3, 0)).cpu() for video_CTHW in both]
            shown.append(side_by_side(rows, every=self.sequence.config.rate))
        return {"rollouts": one_below_another(shown)} if shown else {}


def _share(hit: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    return hit[kind].float().mean() if kind.any() else torch.zeros(())
