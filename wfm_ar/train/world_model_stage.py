"""Stage 3: the world model learns to predict the next token of clips that were encoded once."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

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
from wfm_ar.train.look_ahead import LookaheadStore
from wfm_ar.train.sparse_rows import kept_of_images, kept_of_rows, usual_tokens
from wfm_ar.train.stage_protocol import Batch
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig
from wfm_ar.world_model.sequence import NOT_TOLD

USUAL_CLIPS = 200  # that tell what token an empty place has
SHOWN = 3  # held-out clips rolled out at each validation
DIGIT_SCALE = 0.3  # length of a digit's direction in embeddings and head as training begins
VALUE_WAVES = (1, 2, 3, 4)  # of an action's value, in half turns over its range
PASSED_ON = 4.0  # weight of a unit that passes a number on: silu is nearly straight there
SPARSE_ROWS = 4  # sparse rows in the place of a dense one
DENSE_IMAGES = 0.25  # share of the steps on the policy alone whose images are whole though `sparse` is set
BY_TOKEN = ("ids", "positions", "targets", "weights", "video", "slots", "follows")  # of a batch: [B, L, ...]
TRIES = 100  # clips drawn for one that has actions


@dataclass(frozen=True, kw_only=True)
class WorldModelTraining:
    """How stage 3 samples and weighs."""

    short: int = 5  # latents of the short windows; the long ones have the sequence's max_latents
    short_share: float = 0.5  # share of steps with short windows (more rows, the same number of tokens)
    text_dropout: float = 0.15  # share of rows without their text
    action_dropout: float = 0.1  # share of rows without their actions
    late_actions: float = 0.0  # share of rows with actions whose first ones are missing, as behind a clip that came without any
    action_weight: float = 0.2  # of an action token's loss beside a video token's
    first_weight: float = 0.5  # of the first latent's tokens, which nothing but text announces
    policy_share: float = 0.0  # share of steps on the policy alone: rows of a text, an image, and the actions that follow it
    policy_data: str | None = None  # what they and image_share's are of, demonstrations say, short ones too; None = the run's data
    corrupt: float = 0.02  # share of later latents' tokens that the input (not the target) has wrong, as a rollout may have
    image_share: float = 0.0  # share of steps on the first latent alone: rows of a text and an image
    sparse: float = 0.0  # share of the other steps whose rows leave out most tokens that stand still: four times the rows
    own_errors: float = 0.0  # share of steps whose input has some tokens as the model itself draws them; each such step takes 1.5x
    own_errors_after: int = 0  # steps before the first of those: errors of a model that has learnt nothing teach nothing
    z_loss: float = 1e-4
    val_clips: int = 96


Sparse = Callable[[np.ndarray, np.ndarray | None], np.ndarray]  # tokens seen [B, t, h, w], what a lookahead told -> bool [B, t, h, w]


class Cut(NamedTuple):
    """A window of a clip: tokens int64 [t, h, w] as they are and as the input has them, bins [t - 1, r, A] below 0 where there are none."""

    clip: int
    truth: np.ndarray
    seen: np.ndarray
    text: str | None
    bins: np.ndarray | None
    ahead: np.ndarray | None = None  # what a lookahead tells, int8 [t, h, w, K]; None = nothing


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
        self.tokenizer, self.micro_batches, self.lookahead, self._ahead = tokenizer, micro_batches, lookahead, ahead or {}
        self.sequence, self.training, self.text, self.schema = Sequence(sequence), training, text, schema
        self.config = replace(config, **self.sequence.model_vocabularies())
        self.stores = {"train": train_store, "val": val_store, "policy": policy_store or train_store}
        if len(train_store) == 0 or len(self.stores["policy"]) == 0:
            raise BadData("training tokens: there are none; fix: give more clips")
        self.model = WorldModel(self.config)
        _begin_with_digits(self.model, self.sequence)
        _begin_with_values(self.model, self.sequence)
        self._text_ids: dict[str, list[int]] = {}
        indices = np.linspace(0, len(train_store) - 1, min(USUAL_CLIPS, len(train_store))).astype(int)
        some = [train_store[int(i)].video for i in indices]
        self._usual = usual_tokens(some, sequence.video_vocab)
        self.warning = collapse(count_codes(some, sequence.video_vocab))

    def describe(self) -> dict:
        about = {"model": asdict(self.config), "sequence": asdict(self.sequence.config), "training": asdict(self.training)}
        about |= {"clips": len(self.stores["train"]), "tokens": self.stores["train"].num_tokens}
        return about | {"schema": self.schema.to_json() if self.schema else None}

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """ids [B, L], positions [B, L, 3], targets [B, L], weights [B, L], clip [B] (see clip_ids), and what the hints are made of
        where the network is: tokens [B, t, h, w], bins [B, t - 1, r, A], video [B, L] and slots [B, L] as `Sequence.hints` has them.

        B depends on the kind of step alone, and so does L, but for sparse rows.
        """
        rng = np.random.default_rng((seed, step))
        training, latents, store = self.training, self.sequence.config.max_latents, self.stores["train"]
        kind = np.random.default_rng((seed, step // self.micro_batches, 0))
        of_policy, of_own_errors, of_images, of_sparse = kind.random(4)
        if of_policy < training.policy_share:
            return self._policy_batch(size, rng, of_sparse)
        if of_images < training.image_share:
            return self._image_batch(size, rng)
        if of_sparse < training.sparse:
            cuts = [self._cut(store, latents, rng) for _ in range(size * SPARSE_ROWS)]
            batch = self._packed(cuts, latents, lambda seen, told: kept_of_rows(seen, self._usual, told, rng))
        else:
            if training.short < latents and rng.random() < training.short_share:
                size, latents = size * latents // training.short, training.short
            batch = self._packed([self._cut(store, latents, rng) for _ in range(size)], latents)
        return batch | self._swaps(batch, rng) if step >= training.own_errors_after and of_own_errors < training.own_errors else batch

    def _image_batch(self, size: int, rng: np.random.Generator) -> Batch:
        """Rows of a text and one latent, half of them a clip's first: what a text alone must announce."""
        store = self.stores["policy"]
        cuts = []
        for _ in range(max(1, size * self.sequence.max_length // self.sequence.length(1))):
            index = int(rng.integers(len(store)))
            clip = store[index]
            start = int(rng.integers(len(clip.video))) if rng.random() < 0.5 else 0
            truth = clip.video[start : start + 1].astype(np.int64)
            text = clip.text if rng.random() >= self.training.text_dropout else None
            cuts.append(Cut(-1 - index, truth, truth, text, None))
        return self._packed(cuts, 1)

    def _cut(self, store: TokenStore, latents: int, rng: np.random.Generator) -> Cut:
        """A window of a clip, drawn."""
        index = int(rng.integers(len(store)))
        clip = store[index]
        start = int(rng.integers(max(1, len(clip.video) - latents + 1)))
        text = clip.text if rng.random() >= self.training.text_dropout else None
        acting = clip.bins is not None and rng.random() >= self.training.action_dropout
        bins = clip.bins[start : start + latents - 1] if acting and clip.bins is not None else None
        if bins is not None and len(bins) > 1 and self.training.late_actions and rng.random() < self.training.late_actions:
            bins = bins.copy()
            bins[: int(rng.integers(1, len(bins)))] = -1
        truth = seen = clip.video[start : start + latents].astype(np.int64)
        ahead = None
        if self._ahead:
            seen, ahead = (each[start : start + latents] for each in self._ahead["train"][index])
            seen = seen.astype(np.int64)
        return Cut(index, truth, self._corrupted(seen, rng), text, bins, ahead)

    def _corrupted(self, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The tokens of a window as the input has them: some are others of the same window."""
        if not self.training.corrupt:
            return truth
        wrong = rng.random(truth.shape) < self.training.corrupt
        wrong[0] = False  # a rollout's first latent is given: what the model may doubt there, it repaints where nothing moves
        return np.where(wrong, truth.flatten()[rng.integers(truth.size, size=truth.shape)], truth)

    def _policy_batch(self, size: int, rng: np.random.Generator, whole: float) -> Batch:
        """Rows that end with the actions after an image, which alone count: as many as take about the tokens of `size` long windows.

        In whole rows the first actions, those that must be read off picture and text, are few, and most others repeat the last
        ones. An image says nothing of the last ones. Half of the images are a clip's first, as a rollout begins there. In sparse rows
        most of an image's empty places are left out.
        """
        sequence, store = self.sequence, self.stores["policy"]
        length = sequence.length(2) - sequence.latent_size
        cuts, size = [], max(1, size * sequence.max_length // length)
        sparse = self.training.sparse > 0 and whole >= DENSE_IMAGES
        size *= SPARSE_ROWS if sparse else 1
        for _ in range(TRIES * size):
            index = int(rng.integers(len(store)))
            clip = store[index]
            if clip.bins is None or not len(clip.bins) or (clip.bins[0] < 0).all():
                continue
            start = int(rng.integers(len(clip.bins))) if rng.random() < 0.5 else 0
            both = (clip.video if clip.images is None else clip.images)[start : start + 2].astype(np.int64)
            text = clip.text if rng.random() >= self.training.text_dropout else None
            cuts.append(Cut(-1 - index, both, both, text, clip.bins[start : start + 1]))
            if len(cuts) == size:
                break
        else:
            share = self.training.policy_share
            raise BadData(f"training tokens: hardly a clip has actions, expected some for policy_share={share}; fix: policy_share=0")
        batch = self._packed(cuts, 2, (lambda seen, told: kept_of_images(seen, self._usual, rng)) if sparse else None)
        batch["weights"][batch["targets"] < sequence.action_start] = 0
        batch["moves"] = F.pad((batch["tokens"][:, 1:] != batch["tokens"][:, :-1]), (0, 0, 0, 0, 0, 1))
        return batch | {name: batch[name][:, : length - 1] for name in BY_TOKEN}

    def clip_ids(self, batch: Batch) -> list[str]:
        """The ids of the clips in a batch, each once."""
        clips = dict.fromkeys(batch["clip"].tolist())  # those of the policy's store are counted from -1 down
        return [self.stores["train"][i].id if i >= 0 else self.stores["policy"][-1 - i].id for i in clips]

    def _packed(self, cuts: list[Cut], latents: int, sparse: Sparse | None = None) -> Batch:
        """The batch of these windows. A shorter one stands still at its end, where nothing counts and causal attention never looks.

        sparse: draws which tokens the rows keep; None: all of them.
        """
        sequence, training, t = self.sequence, self.training, latents
        length, config = sequence.length(t), sequence.config
        truth, seen = (
            torch.from_numpy(np.stack([_stretched(each, t) for each in tokens]))
            for tokens in zip(*((c.truth, c.seen) for c in cuts), strict=True)
        )
        bins = torch.full((len(cuts), t - 1, config.rate, len(config.action_bins)), -1)
        for row, cut in enumerate(cuts):
            if cut.bins is not None:
                bins[row, : len(cut.bins)] = torch.from_numpy(cut.bins.astype(np.int64))
        ids, positions, video, actions = sequence.pack_rows(seen, [self._encode(cut.text) for cut in cuts], bins, length)
        row = torch.arange(len(cuts))[:, None]
        targets, weights = ids.clone(), torch.zeros(len(cuts), length + 1)
        targets[row, video] = truth.flatten(1)
        targets = targets.masked_fill(targets >= sequence.text_start, 0)
        long = torch.tensor([len(cut.truth) for cut in cuts])[:, None]
        of_latent = (torch.arange(t) < long).float()
        of_latent[:, 0] = training.first_weight if sparse is None else 0.0
        weights[row, actions], weights[row, video] = training.action_weight, of_latent.repeat_interleave(sequence.latent_size, 1)
        at_video, at_slots = sequence.kinds(video, actions, length)
        follows = sequence.follows(actions, length)
        about = {"clip": torch.tensor([cut.clip for cut in cuts]), "tokens": seen, "bins": bins}
        about["words"] = sequence.words([self._encode(cut.text) for cut in cuts])
        about["moves"] = F.pad(truth[:, 1:] != truth[:, :-1], (0, 0, 0, 0, 0, 1))
        if config.rate > 1:
            about["moves"][:, 0] = False  # the first latent stands for one frame and has codes of its own
        if config.lookahead:
            about["ahead"] = self._told(cuts, bins)
        if sparse is not None:
            of_video = sparse(seen.numpy(), about["ahead"].numpy() if config.lookahead else None)
            kept = torch.ones(len(cuts), length + 1, dtype=torch.bool)
            kept[row, video] = torch.from_numpy(of_video).flatten(1)
            kept = kept[:, :length] & ((at_video >= 0) | (at_slots >= 0))
            ids, positions, targets, weights, at_video, at_slots, follows = _gathered(
                kept, ids, positions, targets, weights[:, :length], at_video, at_slots, follows
            )
        batch = {"ids": ids[:, :-1], "positions": positions[:, :-1], "targets": targets[:, 1:], "weights": weights[:, 1 : ids.shape[1]]}
        return batch | about | {"video": at_video[:, 1:], "slots": at_slots[:, 1:], "follows": follows[:, 1:]}

    def _told(self, cuts: list[Cut], bins_BtrA: torch.Tensor) -> torch.Tensor:
        """int8 [B, t, h, w, K], what a lookahead tells of the windows; nothing of their first latents, and where there are no actions
        though there could be."""
        (B, t), config = bins_BtrA.shape[:2], self.sequence.config
        told = torch.full((B, t + 1, config.grid_h, config.grid_w, self.sequence.told_ahead), NOT_TOLD, dtype=torch.int8)
        for row, cut in enumerate(cuts):
            if cut.ahead is not None:
                told[row, 1 : len(cut.ahead)] = torch.from_numpy(np.array(cut.ahead[1:]))
        if config.action_bins:
            told[:, 1:][(bins_BtrA < 0).flatten(2).all(2)] = NOT_TOLD
        return told

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

    def _swaps(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Which of the coming video tokens the model is to draw itself: swap bool and uniforms float32, [B, L].

        Rates differ from row to row and from latent to latent, as a rollout's errors do; the first latent is always the true one.
        """
        (B, latents), size = batch["tokens"].shape[:2], self.sequence.latent_size
        rates = torch.from_numpy(2 * rng.random((B, 1)) * rng.random((B, latents))).float()
        rates[:, 0] = 0
        draws = torch.from_numpy(rng.random((2, *batch["video"].shape), dtype=np.float32))
        swap = (batch["video"] >= 0) & (draws[0] < rates.gather(1, batch["video"].clamp_min(0) // size))
        return {"swap": swap, "uniforms": draws[1]}

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

    def _encode(self, text: str | None) -> list[int] | None:
        if not text or self.text is None:
            return None
        if text not in self._text_ids:
            self._text_ids[text] = self.text.encode(text)
        return self._text_ids[text]

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
        store, totals = self.stores["val"], torch.zeros(6, dtype=torch.float64)
        clips = min(self.training.val_clips, len(store))
        for first in range(0, clips, 8):
            limit, cuts = self.sequence.config.max_latents, []
            for i in range(first, min(first + 8, clips)):
                clip, tokens = store[i], store[i].video[:limit].astype(np.int64)
                bins = None if clip.bins is None else clip.bins[: limit - 1]
                cuts.append(Cut(i, tokens, tokens, clip.text, bins, self._ahead["val"][i][1][:limit] if self._ahead else None))
            batch = {name: tensor.to(device) for name, tensor in self._packed(cuts, limit).items()}
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
        for i in range(min(SHOWN, len(self.stores["val"]))):
            clip = self.stores["val"][i]
            truth = torch.from_numpy(clip.video[:limit].astype(np.int64))
            sequence, bins = self._acting(None if clip.bins is None else clip.bins[: limit - 1])
            row = Row(seed=i, text_ids=self._encode(clip.text) or [], tokens=(truth[0],), bins=(None,))
            actions = Actions.ABSENT if bins is None else Actions.GIVEN
            request = Request(row=row, num_latents=len(truth), actions=actions, bins_nrA=bins)
            (made,) = roll(model, sequence, [request], SamplingConfig(), lookahead=self.lookahead)
            both = self.tokenizer.decode(torch.stack((truth, torch.stack(list(made.tokens)))).to(next(self.tokenizer.parameters()).device))
            rows = [to_uint8(video_CTHW.permute(1, 2, 3, 0)).cpu() for video_CTHW in both]
            shown.append(side_by_side(rows, every=self.sequence.config.rate))
        return {"rollouts": one_below_another(shown)} if shown else {}


@torch.no_grad()
def _begin_with_digits(model: WorldModel, sequence: Sequence) -> None:
    """Video tokens that share FSQ digits begin with embeddings and rows of the head that are alike.

    What is learnt of a digit then serves all tokens that have it, however rare: copying what stands still is learnt in a tenth of
    the steps that a head of zeros takes. With a lookahead some units of the hints' network pass its digits on, so that the first
    guess is the predicted frame's token.
    """
    levels = sequence.config.levels
    if not levels or sum(levels) > model.config.dim:
        return
    ids = torch.arange(sequence.config.video_vocab)
    bases = [math.prod(levels[:i]) for i in range(len(levels))]
    digits = [F.one_hot(ids // base % level, level).float() for base, level in zip(bases, levels, strict=True)]
    digits_VE = torch.cat(digits, 1)
    digits_VE = digits_VE - digits_VE.mean(0)
    for weight_VD in (model.embedding.weight, model.head.weight):
        directions_DE, _ = torch.linalg.qr(torch.randn(model.config.dim, digits_VE.shape[1]))
        weight_VD[: len(ids)] = DIGIT_SCALE * digits_VE @ directions_DE.T
    if (hints := model.hints) is None:
        return
    for unit, column in enumerate(sequence.told_digits[: model.config.hint_hidden]):
        hints.up.weight[unit] = 0
        hints.up.weight[unit, column] = PASSED_ON
        hints.up.bias[unit] = 0
        hints.down.weight[:, unit] = directions_DE[:, unit]  # of the head, which comes last


@torch.no_grad()
def _begin_with_values(model: WorldModel, sequence: Sequence) -> None:
    """Bins of an action begin with embeddings and rows of the head that are alike where their values are near: what is learnt of one of
    them serves its neighbours."""
    if not sequence.predicts_actions:
        return
    for channel in range(len(sequence.channels)):
        start, stop = sequence.action_range(channel)
        value_V = torch.linspace(-1, 1, stop - start)
        waves = [wave(math.pi / 2 * octave * value_V) for octave in VALUE_WAVES for wave in (torch.sin, torch.cos)]
        basis_VK = torch.stack([value_V, *waves], 1)
        basis_VK = basis_VK - basis_VK.mean(0)
        for weight_VD in (model.embedding.weight, model.head.weight):
            directions_KD = torch.randn(basis_VK.shape[1], model.config.dim) * model.config.dim**-0.5
            weight_VD[start:stop] = DIGIT_SCALE * basis_VK @ directions_KD


def _gathered(kept_BL: torch.Tensor, *of_tokens: torch.Tensor) -> list[torch.Tensor]:
    """The kept tokens of each row, moved together: [B, K, ...], K a multiple of 64. Behind a row's end: 0, and -1 in the last three."""
    longest = -(-int(kept_BL.sum(1).max()) // 64) * 64
    order_BK = (~kept_BL).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    row, there_BK = torch.arange(len(kept_BL))[:, None], torch.arange(order_BK.shape[1]) < kept_BL.sum(1, keepdim=True)
    gathered = []
    for i, values in enumerate(of_tokens):
        values, filler = values[row, order_BK], -1 if i >= len(of_tokens) - 3 else 0
        gathered.append(values.masked_fill(~(there_BK if values.ndim == 2 else there_BK[..., None]), filler))
    return gathered


def _share(hit: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    return hit[kind].float().mean() if kind.any() else torch.zeros(())


def _stretched(tokens_thw: np.ndarray, latents: int) -> np.ndarray:
    return np.pad(tokens_thw, ((0, latents - len(tokens_thw)), (0, 0), (0, 0)), "edge")
