import numpy as np
import pytest
import torch

from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.diffusion_decoder.edm import denoising_loss, measure_scale
from wfm_ar.diffusion_decoder.sampler import RefineStream, refine
from wfm_ar.errors import BadClip, BadConfig

SMALL = DenoiserConfig(
    spatial_compression=8, code_channels=3, channels=(8, 16), blocks=(1, 1), embedding=16, residual_scale=0.1, temperature=1.0
)


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    made = Denoiser(SMALL)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(3, 3, 5, 4, 4, generator=g) * 2 - 1, torch.rand(3, 3, 17, 32, 32, generator=g) * 2 - 1


@pytest.mark.parametrize(("steps", "solver"), [(1, "euler"), (2, "euler"), (4, "euler"), (8, "euler"), (3, "heun")])
def test_streamed_equals_whole(denoiser, clip, steps, solver):
    codes, decoded = clip
    settings = {"steps": steps, "seeds": [1, 2, 3], "solver": solver}
    whole = refine(denoiser, codes, decoded, **settings)
    assert whole.shape == decoded.shape and whole.dtype == torch.float32 and (whole - decoded).abs().max() > 0.05
    for latents in ((1, 1, 1, 1, 1), (2, 3), (1, 4)):
        stream, parts, at = RefineStream(denoiser, **settings), [], 0
        for count in latents:
            frames = slice(max(4 * (at - 1) + 1, 0), 4 * (at + count - 1) + 1)
            parts.append(stream.push(codes[:, :, at : at + count], decoded[:, :, frames]))
            at += count
        assert (torch.cat(parts, 2) - whole).abs().max() <= 1e-4


def test_a_fork_goes_its_own_way(denoiser, clip):
    codes, decoded = clip
    stream = RefineStream(denoiser, seeds=[1, 2, 3])
    stream.push(codes[:, :, :2], decoded[:, :, :5])
    fork = stream.fork()
    other = fork.push(-codes[:, :, 2:3], -decoded[:, :, 5:9])
    went_on = stream.push(codes[:, :, 2:], decoded[:, :, 5:])
    whole = refine(denoiser, codes, decoded, seeds=[1, 2, 3])
    assert (went_on - whole[:, :, 5:]).abs().max() <= 1e-4 and (other - went_on[:, :, :4]).abs().max() > 0.1


def test_no_frame_depends_on_a_later_latent(denoiser, clip):
    codes, decoded = clip
    short = refine(denoiser, codes[:, :, :3], decoded[:, :, :9], steps=3, seeds=[1, 2, 3])
    whole = refine(denoiser, codes, decoded, steps=3, seeds=[1, 2, 3])
    assert (whole[:, :, :9] - short).abs().max() <= 1e-5
    changed = decoded.clone()
    changed[:, :, 9:] *= -1
    assert torch.equal(refine(denoiser, codes, changed, steps=3, seeds=[1, 2, 3])[:, :, :9], whole[:, :, :9])


def test_a_row_does_not_depend_on_its_neighbours_nor_on_its_place(denoiser, clip):
    codes, decoded = clip
    together = refine(denoiser, codes, decoded, seeds=[7, 8, 9])
    alone = refine(denoiser, codes[1:2], decoded[1:2], seeds=[8])
    assert (together[1:2] - alone).abs().max() <= 1e-5


def test_seeds_decide(denoiser, clip):
    codes, decoded = clip
    first = refine(denoiser, codes, decoded, seeds=[1, 2, 3])
    assert torch.equal(refine(denoiser, codes, decoded, seeds=[1, 2, 3]), first)
    other = refine(denoiser, codes, decoded, seeds=[1, 2, -4])
    assert torch.equal(other[:2], first[:2]) and (other[2] - first[2]).abs().max() > 1e-2
    cold = [refine(denoiser, codes, decoded, seeds=seeds, temperature=0.0) for seeds in ([1, 2, 3], [4, 5, 6])]
    assert torch.equal(*cold)  # no noise, nothing for a seed to decide


def test_global_random_state_is_neither_used_nor_touched(denoiser, clip):
    codes, decoded = clip
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = refine(denoiser, codes, decoded, seeds=[1, 2, 3])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(refine(denoiser, codes, decoded, seeds=[1, 2, 3]), first)


def test_a_chunk_from_mid_clip_takes_the_noise_of_its_place(denoiser, clip):
    codes, decoded = clip
    seen = {}
    for start in (1, 2):
        chunk = refine(denoiser, codes[:, :, 2:3], decoded[:, :, 5:9], seeds=[1, 2, 3], first_latent=start)
        assert chunk.shape == (3, 3, 4, 32, 32)
        seen[start] = chunk
    assert (seen[1] - seen[2]).abs().max() > 1e-2


def test_many_steps_reach_the_solution_and_heun_sooner():
    """For Gaussian y the right denoiser is c_skip x (F = 0) and the flow's end is known: x * 1 / sqrt(sigma_max^2 + 1)."""
    exact, ends = Denoiser(SMALL), {}
    codes, decoded = torch.zeros(1, 3, 1, 4, 4), torch.zeros(1, 3, 1, 32, 32)
    for solver in ("euler", "heun"):
        ends[solver] = refine(exact, codes, decoded, steps=8, seeds=[0], solver=solver) / SMALL.residual_scale
    stream = RefineStream(exact, seeds=[0])
    truth = stream._noise(1, 32, 32) * SMALL.sigma_max / (SMALL.sigma_max**2 + 1) ** 0.5
    errors = {solver: float((end - truth).abs().mean()) for solver, end in ends.items()}
    assert errors["heun"] < 0.5 * errors["euler"] < 0.2


def test_bad_settings_and_clips_are_refused(denoiser, clip):
    codes, decoded = clip
    for steps in (0, 9):
        with pytest.raises(BadConfig, match="expected 1..8"):
            refine(denoiser, codes, decoded, steps=steps, seeds=[1, 2, 3])
    with pytest.raises(BadConfig, match="one a row"):
        refine(denoiser, codes, decoded, seeds=[1])
    with pytest.raises(BadConfig, match="euler"):
        refine(denoiser, codes, decoded, seeds=[1, 2, 3], solver="dpm")
    with pytest.raises(BadConfig, match="temperature"):
        refine(denoiser, codes, decoded, seeds=[1, 2, 3], temperature=-1.0)
    with pytest.raises(BadClip, match="use 13 or 17 frames"):
        refine(denoiser, codes, decoded[:, :, :16], seeds=[1, 2, 3])
    stream = RefineStream(denoiser, seeds=[1, 2, 3])
    stream.push(codes[:, :, :1], decoded[:, :, :1])
    with pytest.raises(BadClip, match=r"expected 4\*n"):
        stream.push(codes[:, :, 1:2], decoded[:, :, 1:4])
    with pytest.raises(BadClip, match="decoded from"):
        stream.push(codes[:, :, 1:3], decoded[:, :, 1:5])
    went_on = stream.push(codes[:, :, 1:2], decoded[:, :, 1:5])  # a refused chunk leaves the stream as it was
    whole = refine(denoiser, codes[:, :, :2], decoded[:, :, :5], seeds=[1, 2, 3])
    assert (went_on - whole[:, :, 1:]).abs().max() <= 1e-4


def test_frames_themselves_can_be_diffused(clip):
    codes, decoded = clip
    config = DenoiserConfig(
        spatial_compression=8, code_channels=3, channels=(8,), blocks=(1,), predict="frames", residual_scale=0.5, temperature=0.0
    )
    assert refine(Denoiser(config), codes, decoded, steps=1, seeds=[0, 0, 0]).abs().max() == 0  # an untrained mean: nothing yet


def moving_shapes(clips: int, frames: int, side: int, seed: int) -> torch.Tensor:
    """Bright squares and discs that slide over a still striped ground; float [B, 3, T, H, W] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    ground = 0.1 * np.sin(columns / 3) * np.ones((3, 1, 1), np.float32) - 0.3
    videos = np.empty((clips, 3, frames, side, side), np.float32)
    for video in videos:
        video[:] = ground[:, None]
        for _ in range(2):
            place, speed = rng.uniform(4, side - 4, 2), rng.uniform(-1.5, 1.5, 2)
            colour, size, square = rng.uniform(-1, 1, 3), rng.uniform(3, 6), rng.random() < 0.5
            for t in range(frames):
                dy, dx = rows - place[0] - t * speed[0], columns - place[1] - t * speed[1]
                distance = np.maximum(abs(dy), abs(dx)) if square else np.hypot(dy, dx)
                cover = np.clip(size - distance + 0.5, 0, 1)
                video[:, t] += cover * (colour[:, None, None] - video[:, t])
    return torch.from_numpy(videos)


def fake_tokenizer(video_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Blurred and quantised frames, and 'codes' that know the mean colour of each 8x8 block: what a tokenizer leaves, in short."""
    batch = len(video_BCTHW)
    frames = video_BCTHW.transpose(1, 2).flatten(0, 1)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(frames, (2, 2, 2, 2), mode="replicate"), 5, 1)
    decoded = ((blurred * 8).round() / 8).unflatten(0, (batch, -1)).transpose(1, 2)
    last = video_BCTHW[:, :, ::4]
    codes = torch.nn.functional.avg_pool3d(last, (1, 8, 8))
    return decoded, codes


def edge_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(sum((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (3, 4)))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


def test_a_little_training_sharpens():
    clips, held_out, updates = 40, 8, 80
    true = moving_shapes(clips, 5, 32, seed=0)
    decoded, codes = fake_tokenizer(true)
    known = clips - held_out
    config = DenoiserConfig(
        spatial_compression=8,
        code_channels=3,
        channels=(16, 24),
        blocks=(1, 1),
        embedding=32,
        residual_scale=measure_scale(true[:known], decoded[:known]),
    )
    torch.manual_seed(0)
    denoiser = Denoiser(config)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-2)
    losses = []
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - update / updates)
        rows = torch.randint(known, (8,), generator=generator)
        loss, logs = denoising_loss(denoiser, true[rows], decoded[rows], codes[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        losses.append(float(logs["loss"]))
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    true, decoded, codes = true[known:], decoded[known:], codes[known:]
    for steps in (1, 2):
        refined = refine(denoiser, codes, decoded, steps=steps, seeds=[0] * held_out)
        gain, edges = psnr(refined, true) - psnr(decoded, true), edge_error(refined, true) / edge_error(decoded, true)
        assert gain > 0.2 and edges < 0.95, f"{steps} steps: PSNR {gain:+.2f} dB, edge error x {edges:.2f}"
