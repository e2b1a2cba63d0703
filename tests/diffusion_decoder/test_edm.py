import math

import pytest
import torch

from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.diffusion_decoder.edm import (
    LossConfig,
    denoise,
    denoising_loss,
    karras_sigmas,
    measure_scale,
    mix_noise,
    preconditioning,
    sampling_sigmas,
)
from wfm_ar.errors import BadClip, BadConfig

SMALL = DenoiserConfig(spatial_compression=8, code_channels=3, channels=(8, 16), blocks=(1, 1), embedding=16, residual_scale=0.1)


def batch(rows: int = 4):
    g = torch.Generator().manual_seed(0)
    decoded = torch.rand(rows, 3, 5, 32, 32, generator=g) * 2 - 1
    return decoded + 0.1 * torch.randn(decoded.shape, generator=g), decoded, torch.rand(rows, 3, 2, 4, 4, generator=g)


def test_karras_levels_are_the_published_ones():
    """The 15 levels of the Cosmos diffusion decoder (80 to 0.02, rho 7)."""
    published = [80, 56.04, 38.51, 25.91, 17.02, 10.89, 6.75, 4.05, 2.33, 1.277, 0.662, 0.321, 0.143, 0.057, 0.02, 0]
    assert karras_sigmas(15, sigma_min=0.02, sigma_max=80.0) == pytest.approx(published, rel=5e-3)


def test_sampling_levels_fall_from_sigma_max_to_zero():
    for steps in range(1, 9):
        sigmas = sampling_sigmas(SMALL, steps)
        assert len(sigmas) == steps + 1 and sigmas[0] == pytest.approx(SMALL.sigma_max) and sigmas[-1] == 0
        assert all(a > b for a, b in zip(sigmas, sigmas[1:], strict=False))
        assert steps == 1 or sigmas[-2] > 2 * SMALL.sigma_min


@pytest.mark.parametrize("steps", [0, 9, -1, 2.0, True, None])
def test_step_counts_outside_1_to_8_are_refused(steps):
    with pytest.raises(BadConfig, match="expected 1..8"):
        sampling_sigmas(SMALL, steps)


def test_preconditioning_keeps_unit_spread():
    """Unit input and unit training target of F at every noise level, the two demands EDM's table 1 is derived from."""
    g = torch.Generator().manual_seed(0)
    y, noise = 0.5 * torch.randn(200_000, generator=g), torch.randn(200_000, generator=g)
    for sigma in (0.02, 0.5, 3.0, 80.0):
        c_skip, c_out, c_in, c_noise = preconditioning(torch.tensor(sigma), 0.5)
        x = y + sigma * noise
        assert float((c_in * x).std()) == pytest.approx(1, abs=0.01)
        assert float(((y - c_skip * x) / c_out).std()) == pytest.approx(1, abs=0.01)
        assert float(c_noise) == pytest.approx(math.log(sigma) / 4, abs=1e-6)


def test_little_noise_means_little_change():
    denoiser, (true, decoded, codes) = Denoiser(SMALL), batch()
    torch.nn.init.normal_(denoiser.head_value.weight)
    x = denoiser.patch(true)
    with torch.no_grad():
        estimate, _ = denoise(denoiser, x, torch.full((4,), 1e-6), denoiser.condition(codes, decoded))
    assert torch.allclose(estimate, x, atol=1e-4)


def test_loss_of_an_untrained_network_is_that_of_the_target_itself():
    true, decoded, codes = batch(64)
    only_squared = LossConfig(l1_weight=0, edge_weight=0, flicker_weight=0)
    loss, logs = denoising_loss(Denoiser(SMALL), true, decoded, codes, torch.Generator().manual_seed(0), only_squared)
    assert float(loss.detach()) == pytest.approx(1, abs=0.1) == float(logs["mse"])  # F = 0 against a target of unit spread
    assert set(logs) == {"loss", "mse", "l1", "edge", "flicker", "gain_db"}
    # white residuals: |N(0,1)| is 0.798 and a difference of two is sqrt(2) times that, on two axes
    assert float(logs["l1"]) == pytest.approx(0.798, abs=0.05)
    assert float(logs["edge"]) == pytest.approx(2 * 0.798 * math.sqrt(2), abs=0.15)
    assert float(logs["gain_db"]) == pytest.approx(0, abs=0.1)


def test_the_same_generator_state_gives_the_same_loss_and_every_weight_a_gradient():
    true, decoded, codes = batch()
    denoiser = Denoiser(SMALL)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05)
    first, _ = denoising_loss(denoiser, true, decoded, codes, torch.Generator().manual_seed(5))
    again, _ = denoising_loss(denoiser, true, decoded, codes, torch.Generator().manual_seed(5))
    other, _ = denoising_loss(denoiser, true, decoded, codes, torch.Generator().manual_seed(6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    first.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in denoiser.parameters())


def test_the_first_step_learns_without_seeing_the_truth():
    """A row of the first step gets noise alone: its estimate must not move when only the truth does."""
    true, decoded, codes = batch()
    denoiser = Denoiser(SMALL)
    torch.nn.init.normal_(denoiser.head_value.weight)
    seen = []
    denoiser.register_forward_hook(lambda module, args, result: seen.append(args[0]))
    for truth in (true, -true):
        denoising_loss(denoiser, truth, decoded, codes, torch.Generator().manual_seed(0), LossConfig(terminal_share=1.0))
    assert torch.equal(*seen)


def test_half_precision_training_gives_nearly_the_same_loss():
    true, decoded, codes = batch()
    denoiser = Denoiser(SMALL)
    torch.nn.init.normal_(denoiser.head_value.weight, std=0.02)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss, _ = denoising_loss(denoiser, true, decoded, codes, torch.Generator().manual_seed(0))
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_picture_is_a_clip_of_one_frame():
    true, decoded, codes = batch()
    loss, logs = denoising_loss(Denoiser(SMALL), true[:, :, :1], decoded[:, :, :1], codes[:, :, :1], torch.Generator().manual_seed(0))
    assert math.isfinite(float(loss.detach())) and logs["flicker"] == 0


def test_motion_weight_leaves_still_clips_alone_and_has_mean_one():
    true, decoded, codes = batch()
    still = decoded[:, :, :1].expand_as(decoded)
    plain, weighted = LossConfig(motion_weight=0.0), LossConfig(motion_weight=3.0)
    losses = [
        float(denoising_loss(Denoiser(SMALL), true, still, codes, torch.Generator().manual_seed(0), c)[0].detach())
        for c in (plain, weighted)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_scale_is_the_spread_of_what_is_diffused():
    true, decoded, _ = batch()
    assert measure_scale(true, decoded) == pytest.approx(0.1, rel=0.02)
    assert measure_scale(true, decoded, "frames") == pytest.approx(float(true.square().mean().sqrt()), rel=1e-5)
    assert measure_scale(true, true) == 1e-4  # a perfect tokenizer leaves a scale that can still be divided by


def test_mixed_noise_is_unit_noise_with_the_asked_share_in_common():
    g = torch.Generator().manual_seed(0)
    noise = mix_noise(torch.randn(1, 100_000, generator=g), torch.randn(2, 100_000, generator=g), 0.3)
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    assert float((noise[0] * noise[1]).mean()) == pytest.approx(0.3, abs=0.01)


def test_bad_weights_and_unequal_clips_are_refused():
    with pytest.raises(BadConfig, match="terminal_share"):
        LossConfig(terminal_share=1.5)
    with pytest.raises(BadConfig, match="edge_weight"):
        LossConfig(edge_weight=-1)
    true, decoded, codes = batch()
    with pytest.raises(BadClip, match="equal shapes"):
        denoising_loss(Denoiser(SMALL), true[:, :, :1], decoded, codes, torch.Generator().manual_seed(0))
