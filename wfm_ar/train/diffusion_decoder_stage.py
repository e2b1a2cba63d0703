"""Stage 4: the diffusion decoder learns what the tokenizer lost, from its reconstructions beside the true frames."""

from dataclasses import asdict, dataclass, field, replace

import torch

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.diffusion_decoder.edm import LossConfig, denoising_loss, measure_scale
from wfm_ar.diffusion_decoder.sampler import refine
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.train.clips import Clips, one_below_another, psnr, side_by_side, to_float, to_uint8
from wfm_ar.train.windows import Windows, WindowSampler


@dataclass(frozen=True, kw_only=True)
class DiffusionDecoderTraining(Windows):
    """How stage 4 samples (see Windows) and weighs."""

    loss: LossConfig = field(default_factory=LossConfig)
    steps: int = 2  # sampler steps at validation
    val_clips: int = 12


def fitted_decoder(config: DenoiserConfig, tokenizer: VideoTokenizerConfig) -> DenoiserConfig:
    """The config with the rates and code channels of the tokenizer whose clips it refines. Raises BadConfig where they do not fit."""
    rates = {"temporal_compression": tokenizer.temporal_compression, "spatial_compression": tokenizer.spatial_compression}
    return replace(config, **rates, code_channels=len(tokenizer.levels))


class DiffusionDecoderStage:
    """Denoising loss on windows; the tokenizer is frozen and runs inside the loss."""

    name = "diffusion_decoder"
    judged_by = ("psnr_refined", 1)

    def __init__(
        self,
        config: DenoiserConfig,
        training: DiffusionDecoderTraining,
        tokenizer: VideoTokenizer,
        train_set: EpisodeSet,
        val_set: EpisodeSet,
        residual_scale: float | None = None,
        cache: FrameCache | None = None,
    ):
        """residual_scale: that of the weights there are; None = there are none yet, and it is measured."""
        self.training = training
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        settings = tokenizer.config
        clips, self.val_clips = (Clips(episodes, settings, cache) for episodes in (train_set, val_set))
        background = tokenizer.background.clone() if settings.background else None
        self.windows = WindowSampler(training, clips, background)
        self.to_decode = clips.to_decode
        if residual_scale is None:
            with torch.no_grad():
                true, decoded, _ = self._clips(self.windows.batch(0, 32, 1))
            residual_scale = round(measure_scale(true, decoded), 4)
        self.config = replace(fitted_decoder(config, settings), residual_scale=residual_scale)
        self.model = Denoiser(self.config)

    def describe(self) -> dict:
        model = asdict(self.config)
        del model["residual_scale"]  # measured, so a resumed run may find another last digit
        return {"model": model, "residual_scale": self.config.residual_scale, "training": asdict(self.training)}

    def batch(self, step: int, size: int, seed: int) -> dict[str, torch.Tensor]:
        """See WindowSampler.batch."""
        return self.windows.batch(step, size, seed)

    def clip_ids(self, batch: dict[str, torch.Tensor]) -> list[str]:
        """See WindowSampler.clip_ids."""
        return self.windows.clip_ids(batch)

    def _clips(self, batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-> (true, decoded) float [B, 3, T, H, W] and codes [B, c, t, h, w] of a batch of windows."""
        foreground, still = batch["foreground"], batch["still"]
        reconstruction, codes, _ = self.tokenizer(foreground)
        return foreground + still, reconstruction.float() + still, codes.float()

    def loss(self, model, batch, generator):
        with torch.no_grad():
            self.tokenizer.to(batch["foreground"].device)
            true, decoded, codes = self._clips(batch)
        return denoising_loss(model, true, decoded, codes, generator, self.training.loss)

    @torch.no_grad()
    def validate(self, model, device):
        """PSNR of decoded and of refined held-out clips (their first LOOKED_AT frames); truth, decoded and refined below one another."""
        before, after, shown = [], [], []
        for index in range(min(self.training.val_clips, len(self.val_clips))):
            clip = self.val_clips.beginning(index)
            tokens = self.tokenizer.encode(to_float(clip).permute(3, 0, 1, 2)[None].to(device))
            decoded = self.tokenizer.decode(tokens)
            refined = refine(model, self.tokenizer.codes(tokens), decoded, steps=self.training.steps, seeds=[index])
            frames = [to_uint8(video[0].permute(1, 2, 3, 0)).cpu() for video in (decoded, refined)]
            for scores, made in zip((before, after), frames, strict=True):
                scores += [psnr((m.float() - c.float()) / 127.5) for m, c in zip(made, clip, strict=True)]
            if index < 3:
                shown.append(side_by_side([clip, *frames], every=max(1, len(clip) // 8)))
        numbers = {"psnr_decoded": float(torch.stack(before).mean()), "psnr_refined": float(torch.stack(after).mean())}
        return numbers, {"refined": one_below_another(shown)}
