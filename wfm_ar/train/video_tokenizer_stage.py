"""Stage 1: the video tokenizer learns to give frames back through its codes."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.tokenizers.video.model import EARLIER_TOKENIZER
from wfm_ar.train.clips import Clips, one_below_another, psnr, side_by_side, to_float, to_uint8
from wfm_ar.train.code_use import collapse, perplexity
from wfm_ar.train.windows import VISIBLE, Windows, WindowSampler, check_reach, still_picture


@dataclass(frozen=True, kw_only=True)
class VideoTokenizerTraining(Windows):
    """How stage 1 samples (see Windows) and weighs."""

    squared: float = 4.0  # weight of the squared error beside the absolute one
    still: float = 0.0  # weight of what latents change where no pixel does: such tokens are noise to a world model; needs window > 1
    again: float = 0.0  # weight of how far latents are off when the reconstruction is encoded again, as a rollout does at every step
    decorrelate: float = 0.05  # weight of the squared correlation between code channels: correlated digits leave codes unused
    decoder_only: bool = False  # polish the decoder and leave every token as it is: worlds trained on the tokens stay valid
    val_clips: int = 24


class VideoTokenizerStage:
    """Absolute plus squared error on windows cut where something happens."""

    name = "video_tokenizer"
    judged_by = ("psnr", 1)
    warning = ""
    earlier = EARLIER_TOKENIZER  # what checkpoints from before a setting came leave unsaid

    def __init__(
        self,
        config: VideoTokenizerConfig,
        training: VideoTokenizerTraining,
        train_set: EpisodeSet,
        val_set: EpisodeSet,
        cache: FrameCache | None = None,
    ):
        self.config, self.training, self.train_set = config, training, train_set
        clips, self.val_clips = (Clips(episodes, config, cache) for episodes in (train_set, val_set))
        self.model = VideoTokenizer(config)
        if config.background:
            self.model.background.copy_(to_float(still_picture(clips)).permute(2, 0, 1))
        if training.decoder_only:
            for module in (self.model.encoder, self.model.quant_conv):
                module.requires_grad_(False)
        if note := check_reach(training.window, config):
            print(f"note: {note}", flush=True)
        self.windows = WindowSampler(training, clips, self.model.background.clone() if config.background else None)
        self.to_decode = clips.to_decode

    def describe(self) -> dict:
        return {"model": asdict(self.config), "training": asdict(self.training), "clips": len(self.train_set)}

    def batch(self, step: int, size: int, seed: int) -> dict[str, torch.Tensor]:
        """See WindowSampler.batch."""
        return self.windows.batch(step, size, seed)

    def clip_ids(self, batch: dict[str, torch.Tensor]) -> list[str]:
        """See WindowSampler.clip_ids."""
        return self.windows.clip_ids(batch)

    def loss(self, model, batch, generator):
        foreground, weight = batch["foreground"], batch["weight"]
        if self.training.decoder_only:
            model.latent_norm.eval()
        reconstruction, codes, latents = model(foreground)
        error = reconstruction.float() - foreground
        penalty = error.abs() + self.training.squared * error.square()
        loss = (penalty * weight).mean() / weight.mean() + self.training.decorrelate * correlation(codes)
        bounded, frames = model.quantizer.bound(latents), foreground[:, :, :: self.config.temporal_compression]
        if self.training.again:
            training = model.latent_norm.training
            model.latent_norm.eval()  # its statistics are of true frames
            encoded_again = model.quantizer.bound(model.latents(reconstruction.detach()))
            model.latent_norm.train(training)
            loss = loss + self.training.again * reencoding_error(encoded_again, bounded, frames, self.config.spatial_compression)
        if self.training.still:
            loss = loss + self.training.still * restlessness(bounded, frames, self.config.spatial_compression)
        with torch.no_grad():
            # codes that are not finite have any number for an id: the loss tells of them, counting must not fail before that
            ids = model.quantizer.codes_to_ids(codes).flatten().clamp(0, model.codebook_size - 1)
            used = torch.bincount(ids, minlength=model.codebook_size).float()
            logs = {"crop_psnr": psnr(error), "codes_in_batch": (used > 0).float().mean(), "perplexity": perplexity(used)}
        return loss, logs

    @torch.no_grad()
    def validate(self, model, device):
        """PSNR of held-out clips (their first LOOKED_AT frames), share of codes used, perplexity; and truth above reconstruction."""
        counts, scores, shown = torch.zeros(model.codebook_size), [], []
        for index in range(min(self.training.val_clips, len(self.val_clips))):
            clip = self.val_clips.beginning(index)
            video = to_float(clip).permute(3, 0, 1, 2)[None].to(device)
            tokens = model.encode(video)
            decoded = to_uint8(model.decode(tokens)[0].permute(1, 2, 3, 0)).cpu()
            counts += torch.bincount(tokens.flatten().cpu(), minlength=model.codebook_size)
            scores += [psnr((d.float() - c.float()) / 127.5) for d, c in zip(decoded, clip, strict=True)]
            if index < 4:
                shown.append(side_by_side([clip, decoded], every=max(1, len(clip) // 8)))
        self.warning = collapse(counts)
        numbers = {"psnr": float(torch.stack(scores).mean()), "codes_used": float((counts > 0).float().mean())}
        return numbers | {"perplexity": float(perplexity(counts))}, {"reconstructions": one_below_another(shown)}


def restlessness(bounded_Bcthw: torch.Tensor, foreground_BCTHW: torch.Tensor, side: int) -> torch.Tensor:
    """Mean squared change from latent to latent of bounded latents (in levels) over the places whose own pixels stand still.

    foreground_BCTHW: one frame a latent, T = t; `side`: pixels of a place.
    """
    if bounded_Bcthw.shape[2] == 1:
        return bounded_Bcthw.new_zeros(())
    change_B1THW = foreground_BCTHW.diff(dim=2).abs().amax(1, keepdim=True)
    still_B1thw = F.max_pool3d(change_B1THW.float(), (1, side, side)) < VISIBLE
    restless_Bcthw = bounded_Bcthw.diff(dim=2).square() * still_B1thw
    return restless_Bcthw.sum() / (still_B1thw.sum() * bounded_Bcthw.shape[1]).clamp_min(1)


def reencoding_error(again_Bcthw: torch.Tensor, bounded_Bcthw: torch.Tensor, foreground_BCTHW: torch.Tensor, side: int) -> torch.Tensor:
    """Mean squared distance in levels between the latents of a reconstruction and the codes it was decoded from.

    Only places with content count. Where this is 0, decoding and encoding again changes no token.

    Args:
        again_Bcthw: bounded latents of the reconstruction, in levels.
        bounded_Bcthw: bounded latents of the frames themselves; their rounded values are the target.
        foreground_BCTHW: one frame a latent, T = t, less the background.
        side: pixels of a place.
    """
    content_B1THW = foreground_BCTHW.abs().amax(1, keepdim=True)
    there_B1thw = F.max_pool3d(content_B1THW.float(), (1, side, side)) > VISIBLE
    off_Bcthw = (again_Bcthw - bounded_Bcthw.detach().round()).square() * there_B1thw
    return off_Bcthw.sum() / (there_B1thw.sum() * bounded_Bcthw.shape[1]).clamp_min(1)


def correlation(codes_Bcthw: torch.Tensor) -> torch.Tensor:
    """Mean squared correlation between different code channels over all places of a batch; 0 where they are independent."""
    rows = codes_Bcthw.float().transpose(0, 1).flatten(1)
    rows = rows - rows.mean(1, keepdim=True)
    rows = rows / (rows.square().mean(1, keepdim=True) + 1e-3).sqrt()
    matrix = rows @ rows.T / rows.shape[1]
    off_diagonal = matrix - torch.diag(matrix.diagonal())
    return off_diagonal.square().sum() / max(1, len(matrix) * (len(matrix) - 1))
