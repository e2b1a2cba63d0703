import math

import pytest
import torch

from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.errors import BadClip, BadConfig

SMALL = DenoiserConfig(spatial_compression=8, code_channels=3, channels=(8, 16), blocks=(1, 1), embedding=16)


def shaken(config: DenoiserConfig = SMALL) -> Denoiser:
    """A denoiser none of whose weights is zero, so that nothing hides behind an identity start."""
    torch.manual_seed(0)
    denoiser = Denoiser(config)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return denoiser.eval()


def clip(batch: int = 2, latents: int = 3, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    codes_Bcthw = torch.rand(batch, 3, latents, side // 8, side // 8, generator=g) * 2 - 1
    return codes_Bcthw, torch.rand(batch, 3, 1 + 4 * (latents - 1), side, side, generator=g) * 2 - 1


@torch.no_grad()
def answer(denoiser: Denoiser, codes: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(2))
    return denoiser(denoiser.patch(noise), torch.full((len(codes),), 0.1), denoiser.condition(codes, frames))[0]


def test_patches_are_orthonormal_in_mid_stream_and_come_back():
    denoiser = Denoiser(SMALL)
    video = torch.randn(2, 3, 8, 32, 32)
    patched = denoiser.patch(video, first=False)
    assert patched.shape == (2, SMALL.patch_channels, 2, 8, 8) and SMALL.patch_channels == 192
    assert math.isclose(float(patched.square().sum()), float(video.square().sum()), rel_tol=1e-4)
    assert torch.allclose(denoiser.unpatch(patched, first=False), video, atol=1e-5)
    assert torch.allclose(denoiser.unpatch(denoiser.patch(video[:, :, :5])), video[:, :, :5], atol=1e-5)


def test_answer_has_the_shape_of_its_input_and_starts_at_zero():
    codes, frames = clip()
    assert answer(shaken(), codes, frames).shape == (2, 192, 3, 8, 8)
    assert answer(Denoiser(SMALL), codes, frames).abs().max() == 0  # EDM then starts as D = c_skip x


@pytest.mark.parametrize("what", ["codes", "frames"])
def test_no_latent_depends_on_a_later_one(what):
    denoiser, (codes, frames) = shaken(), clip()
    whole = answer(denoiser, codes, frames)
    codes, frames = codes.clone(), frames.clone()
    (codes[:, :, 2] if what == "codes" else frames[:, :, 5:]).mul_(-0.5)
    changed = answer(denoiser, codes, frames)
    assert torch.equal(changed[:, :, :2], whole[:, :, :2])
    assert (changed[:, :, 2] - whole[:, :, 2]).abs().max() > 1e-3


def test_the_past_is_used():
    denoiser, (codes, frames) = shaken(), clip()
    whole = answer(denoiser, codes, frames)
    codes = codes.clone()
    codes[:, :, 0] *= -1
    assert (answer(denoiser, codes, frames)[:, :, 1] - whole[:, :, 1]).abs().max() > 1e-4


def test_the_first_latent_has_no_motion_bands():
    denoiser, (codes, frames) = shaken(), clip(latents=1)
    patched = answer(denoiser, codes, frames)
    assert torch.allclose(denoiser.patch(denoiser.unpatch(patched)), patched, atol=1e-5)


def test_far_places_do_not_reach_over_the_whole_picture():
    """What makes crops good training data for whole pictures: nothing global (a group norm would fail here)."""
    config = DenoiserConfig(spatial_compression=8, code_channels=3, channels=(8,), blocks=(1,), embedding=16)
    denoiser, (codes, frames) = shaken(config), clip(side=64)
    whole = answer(denoiser, codes, frames)
    frames = frames.clone()
    frames[..., 48:] = 0
    assert torch.equal(answer(denoiser, codes, frames)[..., :4], whole[..., :4])


def test_each_rate_has_its_shapes():
    for rate, side, patch in ((1, 8, 4), (2, 8, 8), (8, 16, 4)):
        config = DenoiserConfig(
            temporal_compression=rate, spatial_compression=side, patch=patch, code_channels=3, channels=(8,), blocks=(1,), embedding=8
        )
        frames = torch.zeros(1, 3, 1 + rate, 32, 32)
        assert answer(Denoiser(config), torch.zeros(1, 3, 2, 32 // side, 32 // side), frames).shape == (
            1,
            3 * rate * patch**2,
            2,
            32 // patch,
            32 // patch,
        )


def test_the_shipped_shape_is_small():
    with torch.device("meta"):
        count = sum(p.numel() for p in Denoiser(DenoiserConfig()).parameters())
    assert 1.0e6 < count < 1.5e6


@pytest.mark.parametrize(
    "wrong",
    [
        {"temporal_compression": 3},
        {"patch": 32},
        {"channels": (64,)},
        {"blocks": (1, 0)},
        {"code_channels": 0},
        {"predict": "noise"},
        {"residual_scale": 0.0},
        {"residual_scale": math.nan},
        {"sigma_min": 30.0},
        {"noise_sharing": 1.1},
        {"temperature": -1.0},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(BadConfig, match=next(iter(wrong))) as caught:
        DenoiserConfig(**wrong)
    assert "fix:" in str(caught.value) and "\n" not in str(caught.value)


def test_shapes_that_do_not_fit_are_refused():
    denoiser, (codes, frames) = Denoiser(SMALL), clip()
    with pytest.raises(BadClip, match="use 5 or 9 frames"):
        denoiser.condition(codes, frames[:, :, :8])
    with pytest.raises(BadClip, match=r"expected 4\*n"):
        denoiser.condition(codes, frames, first=False)
    with pytest.raises(BadClip, match="the frames were decoded from"):
        denoiser.condition(codes[:, :, :2], frames)
    with pytest.raises(BadClip, match="the frames were decoded from"):
        denoiser.condition(codes[:1], frames)
    with pytest.raises(BadClip, match="multiples of 8"):
        denoiser.condition(codes, frames[..., :30])
    with pytest.raises(BadClip, match="missing axes"):
        denoiser.condition(codes[0], frames)
