"""Rows of tokens that the world model is trained on: windows of clips, texts with their first actions, and images alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from wfm_ar.data.shards import TokenStore
from wfm_ar.errors import BadData
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.train.look_ahead import LookaheadStore
from wfm_ar.train.sparse_rows import kept_of_images, kept_of_rows
from wfm_ar.train.stage_protocol import Batch
from wfm_ar.world_model import Sequence
from wfm_ar.world_model.sequence import NOT_TOLD

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
    late_actions: float = 0.05  # share of rows with actions whose first ones are missing, as behind a clip that came without any
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


class WorldModelRows:
    """Draws the batches of stage 3; a batch is a pure function of seed and step."""

    def __init__(
        self,
        sequence: Sequence,
        training: WorldModelTraining,
        store: TokenStore,
        policy_store: TokenStore,
        text: TextTokenizer | None,
        usual: np.ndarray,
        ahead: LookaheadStore | None = None,
        *,
        micro_batches: int = 1,
    ):
        """store: what windows are cut from. policy_store: what rows on the policy alone and on images alone are of.

        usual: int64 [h, w], the token that each place of a latent mostly has. ahead: what a lookahead told of `store`.
        micro_batches: of one step. They are all of one kind, as ranks that share one must pass through the network equally often.
        """
        self.sequence, self.training, self.store, self.policy_store, self.text = sequence, training, store, policy_store, text
        self.usual, self._ahead, self.micro_batches = usual, ahead, micro_batches
        self._text_ids: dict[str, list[int]] = {}

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """ids [B, L], positions [B, L, 3], targets [B, L], weights [B, L], clip [B] (see clip_ids), and what the hints are made of
        where the network is: tokens [B, t, h, w], bins [B, t - 1, r, A], video [B, L] and slots [B, L] as `Sequence.hints` has them.

        B depends on the kind of step alone, and so does L, but for sparse rows.
        """
        rng = np.random.default_rng((seed, step))
        training, latents, store = self.training, self.sequence.config.max_latents, self.store
        kind = np.random.default_rng((seed, step // self.micro_batches, 0))
        of_policy, of_own_errors, of_images, of_sparse = kind.random(4)
        if of_policy < training.policy_share:
            return self._policy_batch(size, rng, of_sparse)
        if of_images < training.image_share:
            return self._image_batch(size, rng)
        if of_sparse < training.sparse:
            cuts = [self.cut(store, latents, rng) for _ in range(size * SPARSE_ROWS)]
            batch = self.packed(cuts, latents, lambda seen, told: kept_of_rows(seen, self.usual, told, rng))
        else:
            if training.short < latents and rng.random() < training.short_share:
                size, latents = size * latents // training.short, training.short
            batch = self.packed([self.cut(store, latents, rng) for _ in range(size)], latents)
        return batch | self.swaps(batch, rng) if step >= training.own_errors_after and of_own_errors < training.own_errors else batch

    def _image_batch(self, size: int, rng: np.random.Generator) -> Batch:
        """Rows of a text and one latent, half of them a clip's first: what a text alone must announce."""
        store = self.policy_store
        cuts = []
        for _ in range(max(1, size * self.sequence.max_length // self.sequence.length(1))):
            index = int(rng.integers(len(store)))
            clip = store[index]
            start = int(rng.integers(len(clip.video))) if rng.random() < 0.5 else 0
            truth = clip.video[start : start + 1].astype(np.int64)
            text = clip.text if rng.random() >= self.training.text_dropout else None
            cuts.append(Cut(-1 - index, truth, truth, text, None))
        return self.packed(cuts, 1)

    def cut(self, store: TokenStore, latents: int, rng: np.random.Generator) -> Cut:
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
            seen, ahead = (each[start : start + latents] for each in self._ahead[index])
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
        sequence, store = self.sequence, self.policy_store
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
        batch = self.packed(cuts, 2, (lambda seen, told: kept_of_images(seen, self.usual, rng)) if sparse else None)
        batch["weights"][batch["targets"] < sequence.action_start] = 0
        batch["moves"] = F.pad((batch["tokens"][:, 1:] != batch["tokens"][:, :-1]), (0, 0, 0, 0, 0, 1))
        return batch | {name: batch[name][:, : length - 1] for name in BY_TOKEN}

    def clip_ids(self, batch: Batch) -> list[str]:
        """The ids of the clips in a batch, each once."""
        clips = dict.fromkeys(batch["clip"].tolist())  # those of the policy's store are counted from -1 down
        return [self.store[i].id if i >= 0 else self.policy_store[-1 - i].id for i in clips]

    def packed(self, cuts: list[Cut], latents: int, sparse: Sparse | None = None) -> Batch:
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
        ids, positions, video, actions = sequence.pack_rows(seen, [self.encode(cut.text) for cut in cuts], bins, length)
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
        about["words"] = sequence.words([self.encode(cut.text) for cut in cuts])
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

    def swaps(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Which of the coming video tokens the model is to draw itself: swap bool and uniforms float32, [B, L].

        Rates differ from row to row and from latent to latent, as a rollout's errors do; the first latent is always the true one.
        """
        (B, latents), size = batch["tokens"].shape[:2], self.sequence.latent_size
        rates = torch.from_numpy(2 * rng.random((B, 1)) * rng.random((B, latents))).float()
        rates[:, 0] = 0
        draws = torch.from_numpy(rng.random((2, *batch["video"].shape), dtype=np.float32))
        swap = (batch["video"] >= 0) & (draws[0] < rates.gather(1, batch["video"].clamp_min(0) // size))
        return {"swap": swap, "uniforms": draws[1]}

    def encode(self, text: str | None) -> list[int] | None:
        if not text or self.text is None:
            return None
        if text not in self._text_ids:
            self._text_ids[text] = self.text.encode(text)
        return self._text_ids[text]


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


def _stretched(tokens_thw: np.ndarray, latents: int) -> np.ndarray:
    return np.pad(tokens_thw, ((0, latents - len(tokens_thw)), (0, 0), (0, 0)), "edge")
