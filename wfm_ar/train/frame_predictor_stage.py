"""Stage 2: the frame predictor learns the next frame from decoded frames and actions, and to go on from its own."""

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.errors import BadConfig
from wfm_ar.frame_predictor.network import FramePredictor, FramePredictorConfig, places
from wfm_ar.rollout.lookahead import CHANGED, Lookahead, changes
from wfm_ar.tokenizers.action import ActionVocabulary
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.clips import Clips, one_below_another, psnr, side_by_side, to_float, to_uint8
from wfm_ar.train.tokens import action_vocabulary, bins_of
from wfm_ar.train.windows import VISIBLE, MotionSampler, Windows

AROUND = 4  # pixels around a change within which the true frame is the target
ROLLED = 16  # frames that validation rolls the predictor on


@dataclass(frozen=True, kw_only=True)
class FramePredictorTraining(Windows):
    """How stage 2 samples (see Windows; its frames are those seen and those predicted one after another) and weighs."""

    windows_per_clip: int = 1
    window: int = 5  # frames a sample: the predictor's history, then each predicted from the last ones, its own among them
    burn_in: int = 0  # of the predicted frames, up to so many come before those that count: what a rollout has drifted to by then
    crop: int = 72
    squared: float = 4.0  # weight of the squared error beside the absolute one
    emphasis: float = 6.0  # extra weight of pixels near a change between two frames
    content: float = 2.0  # extra weight of pixels that differ from the background
    edge: int = 6  # pixels along the edges of a crop, where they are not the frame's, that do not count: what comes in cannot be known
    begun: float = (
        0.2  # share of samples with a shorter past, as a rollout from one picture begins: the first frame stands for what is missing
    )
    action_dropout: float = 0.05  # share of samples without their actions
    val_clips: int = 24


class FramePredictorStage:
    """Absolute plus squared error of the next frames; the tokenizer is frozen and runs inside the loss."""

    name = "frame_predictor"
    judged_by = ("psnr_moved_next", 1)

    def __init__(
        self,
        config: FramePredictorConfig,
        training: FramePredictorTraining,
        tokenizer: VideoTokenizer,
        train_set: EpisodeSet,
        val_set: EpisodeSet,
        cache: FrameCache | None = None,
    ):
        """Raises BadConfig for a tokenizer whose latents are more than a frame each."""
        least = config.history + training.burn_in + 1
        if training.window < least or training.burn_in < 0:
            got = f"window: got {training.window} frames with burn_in={training.burn_in}"
            rest = f" and {training.burn_in} of burn_in" if training.burn_in else ""
            raise BadConfig(f"{got}, expected {least} or more: {config.history} that are seen{rest}, and one that is predicted")
        self.training, self.tokenizer = training, tokenizer.eval().requires_grad_(False)
        self._actions: ActionVocabulary | None = action_vocabulary(train_set.schema)
        bins = self._actions.bins if self._actions else ()
        self.config = replace(config, actions=len(bins))
        self.model = FramePredictor(self.config)
        self.lookahead = Lookahead(self.tokenizer, self.model, bins)
        self.train_set, self.val_set = train_set, val_set
        clips, self.val_clips = (Clips(episodes, tokenizer.config, cache) for episodes in (train_set, val_set))
        self.windows = MotionSampler(training, clips, tokenizer.background.clone() if tokenizer.config.background else None)
        self.to_decode = clips.to_decode

    def describe(self) -> dict:
        return {"model": asdict(self.config), "training": asdict(self.training), "clips": len(self.train_set)}

    def batch(self, step: int, size: int, seed: int) -> dict[str, Tensor]:
        """See WindowSampler.batch; with int64 `bins` [B, T - 1, A] of the actions from frame to frame, `missing` [B]: how many of the
        first frames a sample lacks, and `burn_in`: predicted frames before those that count."""
        batch = self.windows.batch(step, size, seed)
        rng = np.random.default_rng((seed, step, 1))
        missing = rng.integers(1, self.config.history, size)
        batch["missing"] = torch.from_numpy(np.where(rng.random(size) < self.training.begun, missing, 0))
        batch["burn_in"] = torch.tensor(int(rng.integers(self.training.burn_in + 1)))
        if self._actions is not None:
            kept = rng.random(size) >= self.training.action_dropout
            batch["bins"] = torch.stack(
                [
                    self._bins(self.train_set, int(clip), int(start), self.training.window - 1, bool(acting))
                    for clip, start, acting in zip(batch["clip"], batch["start"], kept, strict=True)
                ]
            )
        return batch

    def _bins(self, episodes: EpisodeSet, index: int, start: int, count: int, acting: bool = True) -> Tensor:
        """int64 [count, A]: the actions behind the frames from `start` on."""
        assert self._actions is not None, "data without actions have no bins"
        if not acting:
            return self._actions.absent(count).long()
        return torch.from_numpy(bins_of(episodes, index, start + count, self._actions)[start:].astype(np.int64))

    def clip_ids(self, batch: dict[str, Tensor]) -> list[str]:
        """See WindowSampler.clip_ids."""
        return self.windows.clip_ids(batch)

    @torch.no_grad()
    def _copied(self, frames_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """The tokenizer's copy of frames less the background, and their codes [B, n, 1, h, w]."""
        copy, codes, _ = self.tokenizer(frames_B3HW[:, :, None])
        return copy[:, :, 0].float(), codes

    @torch.no_grad()
    def _codes(self, frames_B3HW: Tensor) -> Tensor:
        """Frames less the background -> their codes [B, n, 1, h, w]."""
        return self.tokenizer.quantizer(self.tokenizer.latents(frames_B3HW[:, :, None]))

    def loss(self, model, batch, generator):
        """Each frame is predicted from copies of those before, beyond the first from its own: tokens kept where it saw no change, as
        a rollout would. The gradient is that of single steps, and none of those of the burn-in.

        Where the true frames have stood still, so is what is shown of them to stay, as blurred as it is: a predictor that mended the
        copy would tell of changes where there are none, and change tokens there at every step. The places along the edges of a crop
        stay copies of true frames: what comes in there cannot be known, and would spoil the inside step by step.
        """
        true_BC3HW, training, seen = batch["foreground"].transpose(1, 2), self.training, self.config.history
        self.tokenizer.to(true_BC3HW.device)
        copies, codes = self._copied(true_BC3HW[:, :seen].flatten(0, 1))
        past_BN3HW, codes = copies.unflatten(0, (-1, seen)), codes.unflatten(0, (-1, seen))[:, -1]
        first_B1 = batch["missing"][:, None]
        shown_BN = torch.arange(seen, device=first_B1.device).clamp_min(first_B1)
        past_BN3HW = past_BN3HW[torch.arange(len(shown_BN))[:, None], shown_BN]
        last, bins_BTA = past_BN3HW[:, -1], batch.get("bins")
        if bins_BTA is not None:
            lacking = torch.arange(bins_BTA.shape[1], device=first_B1.device) < first_B1
            bins_BTA = bins_BTA.masked_fill(lacking[..., None], -1)
        losses, logs, moved = [], {}, torch.zeros_like(last[:, :1], dtype=torch.bool)
        rate, frame = self.tokenizer.config.spatial_compression, (self.tokenizer.config.height, self.tokenizer.config.width)
        size = (last.shape[2], last.shape[3])
        places_BPhw = cut_at(places(*frame, self.config.patch, last.device), batch["corner"], size, self.config.patch)
        counts_B1HW = cut_inside(frame, batch["corner"], size, training.edge).to(last.device)
        own_B1hw = cut_inside(frame, batch["corner"], size, rate)[..., ::rate, ::rate].to(last.device)
        counting = seen + int(batch["burn_in"])
        end = counting + training.window - seen - training.burn_in
        for step in range(seen, end):
            changed = self._changed(true_BC3HW[:, step - 1], true_BC3HW[:, step])
            moved = moved | (F.max_pool2d(changed.float(), 2 * AROUND + 1, 1, AROUND) > 0)
            target = torch.where(moved, true_BC3HW[:, step], last)
            bins_BMA = None if bins_BTA is None else bins_BTA[:, step + 1 - seen : step]
            with torch.set_grad_enabled(torch.is_grad_enabled() and step >= counting):
                made = model(past_BN3HW, self.lookahead.values(bins_BMA, last), places_BPhw)
            if step >= counting:
                error = made.float() - target
                penalty = (error.abs() + training.squared * error.square()) * self._weight(changed, true_BC3HW[:, step], last) * counts_B1HW
                losses.append(penalty.mean())
                logs[f"loss_{1 + step - counting}"] = losses[-1].detach()
                if step == counting:
                    logs["crop_psnr"] = psnr(error.detach())
            if step + 1 < end:
                own = self._next(last, codes, made.detach().float())
                codes = torch.where(own_B1hw[:, :, None], own, self._codes(true_BC3HW[:, step]))
                last = self.lookahead.frames(codes).float()
                past_BN3HW = torch.cat((past_BN3HW[:, 1:], last[:, None]), 1)
        return torch.stack(losses).mean(), logs

    @staticmethod
    def _changed(last_B3HW: Tensor, next_B3HW: Tensor) -> Tensor:
        """bool [B, 1, H, W]: pixels within two of one that changes visibly."""
        visible = (next_B3HW - last_B3HW).abs().amax(1, keepdim=True) > VISIBLE
        return F.max_pool2d(visible.float(), 5, 1, 2) > 0

    def _weight(self, changed_B1HW: Tensor, frames_B3HW: Tensor, shown_B3HW: Tensor) -> Tensor:
        """float [B, 1, H, W]. Objects in the true and in the shown frame weigh the same: if a missing piece cost more than an extra one,
        objects would grow."""
        content = torch.maximum(frames_B3HW.abs(), shown_B3HW.abs()).amax(1, keepdim=True) > VISIBLE
        return 1 + self.training.emphasis * changed_B1HW + self.training.content * content

    @torch.no_grad()
    def _next(self, last_B3HW: Tensor, codes_Bn1hw: Tensor, made_B3HW: Tensor) -> Tensor:
        """The codes of the predicted frame; where it does not change they stay."""
        changed = changes(last_B3HW, made_B3HW, self.tokenizer.config.spatial_compression) > CHANGED
        return torch.where(changed[:, :, None], self._codes(made_B3HW), codes_Bn1hw)

    @torch.no_grad()
    def validate(self, model, device):
        """PSNR of held-out frames one step ahead of true ones, and of the ROLLED-th frame of the predictor alone on its own frames, both
        where they differ from the first; and truth above those of its own."""
        lookahead, scores, shown = Lookahead(self.tokenizer, model, self._actions.bins if self._actions else ()), ([], []), []
        still = self.tokenizer.background.to(device)[None] if self.tokenizer.config.background else 0.0
        for index in range(min(self.training.val_clips, len(self.val_clips))):
            clip = self.val_clips.beginning(index)[: ROLLED + 1]
            if len(clip) < 3:
                continue
            frames_T3HW = to_float(clip).permute(0, 3, 1, 2).to(device) - still
            bins_tA = self._bins(self.val_set, index, 0, len(clip) - 1) if self._actions else None
            copies, codes = self._copied(frames_T3HW)

            def made(frames: list[Tensor], latents: range, bins_tA: Tensor | None = bins_tA) -> Tensor:
                past = torch.stack([torch.stack([frames[max(0, i)] for i in lookahead.before(k)]) for k in latents])
                behind = None if bins_tA is None else torch.stack([lookahead.bins_behind(bins_tA, k) for k in latents])
                return model(past, lookahead.values(behind, past)).float()

            ahead = made(list(copies), range(2, len(clip)))
            own, codes = [copies[0]], codes[:1]
            for k in range(1, len(clip)):
                codes = self._next(own[-1][None], codes, made(own, range(k, k + 1)))
                own.append(lookahead.frames(codes).float()[0])
            moved = (frames_T3HW - frames_T3HW[:1]).abs().amax(1, keepdim=True) > VISIBLE
            for score, shown_frames, at in ((scores[0], ahead, slice(2, None)), (scores[1], own[-1][None], slice(-1, None))):
                where = moved[at].expand_as(frames_T3HW[at])
                if where.any():
                    score.append(psnr((shown_frames - frames_T3HW[at])[where]))
            if index < 4:
                rolled = to_uint8((torch.stack(own) + still).permute(0, 2, 3, 1)).cpu()
                shown.append(side_by_side([clip, rolled], every=max(1, len(clip) // 8)))
        names = ("psnr_moved_next", f"psnr_moved_{ROLLED}")
        numbers = {name: float(torch.stack(score).mean()) for name, score in zip(names, scores, strict=True) if score}
        return numbers, {"rolled_alone": one_below_another(shown)} if shown else {}


def cut_at(whole_BKHW: Tensor, corners_B2: Tensor, size: tuple[int, int], cell: int) -> Tensor:
    """What `whole` [1, K, H, W], of places of `cell` pixels, has where crops of `size` pixels begin at these corners -> [B, K, h, w]."""
    h, w = (side // cell for side in size)
    return torch.cat([whole_BKHW[:, :, y : y + h, x : x + w] for y, x in (corners_B2 // cell).tolist()])


def cut_inside(frame: tuple[int, int], corners_B2: Tensor, size: tuple[int, int], edge: int) -> Tensor:
    """bool [B, 1, H, W]: pixels of crops that lie `edge` or further from those of the crop's edges that are not the frame's."""
    axes = []
    for start_B, side, whole in zip(corners_B2.T, size, frame, strict=True):
        at_BS = torch.arange(side).expand(len(start_B), side)
        axes.append(((at_BS >= edge) | (start_B == 0)[:, None]) & ((at_BS < side - edge) | (start_B + side == whole)[:, None]))
    return (axes[0][:, :, None] & axes[1][:, None])[:, None]
