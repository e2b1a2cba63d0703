"""The diffusion transformer and its sampler on their own: shapes, rows, seeds, chunks."""

from dataclasses import replace

import pytest
import torch

from wfm_ar.diffusion_decoder.dit import DiT, DiTConfig, dit_rotary
from wfm_ar.diffusion_decoder.dit_sampler import blend_chunks, dit_noise, dit_sample, overlap_frames, split_chunks
from wfm_ar.errors import BadClip, BadConfig

CONFIG = DiTConfig(
    latent_channels=4, token_vocab=50, token_dim=3, layers=2, dim=24, heads=2, hidden=32, context_dim=6, modulation_rank=4
)  # fmt: skip


def make() -> DiT:
    torch.manual_seed(0)
    return DiT(CONFIG).eval()


def inputs(rows: int = 2):
    torch.manual_seed(1)
    return torch.randint(50, (rows, 3, 2, 3)), torch.randn(rows, 5, 6)


def test_rows_do_not_touch():
    dit, (tokens, context) = make(), inputs()
    x, noise = torch.randn(2, 4, 3, 4, 6), torch.tensor([0.3, -0.7])
    with torch.no_grad():
        both = dit(x, noise, dit.condition(tokens, 4, 6), context)
        alone = dit(x[1:], noise[1:], dit.condition(tokens[1:], 4, 6), context[1:])
    assert both.shape == x.shape
    torch.testing.assert_close(both[1:], alone)


def test_sampling_is_seeded_row_by_row():
    dit, (tokens, context) = make(), inputs()
    noise = dit_noise([7, 8], (4, 3, 4, 6))
    assert torch.equal(noise[1:], dit_noise([8], (4, 3, 4, 6))) and not torch.equal(noise, dit_noise([7, 8], (4, 3, 4, 6), chunk=1))
    both = dit_sample(dit, tokens, context, noise, steps=4)
    torch.testing.assert_close(both[1:], dit_sample(dit, tokens[1:], context[1:], noise[1:], steps=4), atol=1e-4, rtol=1e-4)
    plain = dit_sample(dit, tokens, context, noise, steps=4, guidance=0)
    assert not torch.allclose(both, plain) and plain.isfinite().all()


def test_frame_rate_stretches_time_only():
    slow, fast = (dit_rotary(CONFIG, 3, 2, 2, fps) for fps in (12.0, 24.0))
    sizes = CONFIG.head_dim // 2 - 2 * (CONFIG.head_dim // 6)
    torch.testing.assert_close(slow[:, :sizes], fast[:, :sizes] * 2)
    assert torch.equal(slow[:, sizes:], fast[:, sizes:])


@pytest.mark.parametrize("latents", range(1, 30))
def test_chunks_cover_a_clip_and_decode_to_its_length(latents):
    chunks = split_chunks(latents)
    assert all(len(chunk) == 8 for chunk in chunks) and set(sum(chunks, [])) == set(range(latents))
    for one, two in zip(chunks, chunks[1:], strict=False):
        assert one[-2:] == two[:2]
    frames = [torch.full((1, 1, 57, 1, 1), float(i)) for i in range(len(chunks))]
    assert blend_chunks(frames, overlap_frames(8)).shape[2] >= 1 + 8 * (latents - 1)
    if len(chunks) > 1:  # what both chunks show is the same stretch of time: the last latent of one, the second of the next
        assert overlap_frames(8) == 9 and overlap_frames(8, published=True) == 2


def test_blending_a_clip_with_itself_changes_nothing():
    clip = torch.randn(1, 3, 8 * 13 + 1, 2, 2)
    parts = [clip[:, :, 8 * chunk[0] : 8 * chunk[0] + 57] for chunk in split_chunks(14)]
    torch.testing.assert_close(blend_chunks(parts, overlap_frames(8)), clip)


def test_what_cannot_be_is_refused():
    dit, (tokens, context) = make(), inputs()
    with pytest.raises(BadClip, match="multiples of 2"):
        dit(torch.randn(2, 4, 3, 5, 6), torch.zeros(2), torch.randn(2, 3, 3, 5, 6), context)
    with pytest.raises(BadClip, match="tokens of the same clip"):
        dit(torch.randn(2, 4, 2, 4, 6), torch.zeros(2), dit.condition(tokens, 4, 6), context)
    for settings in ({"steps": 1}, {"guidance": -1.0}):
        with pytest.raises(BadConfig):
            dit_sample(dit, tokens, context, torch.randn(2, 4, 3, 4, 6), **settings)
    for wrong in ({"dim": 25}, {"layers": 0}, {"heads": 12}):
        with pytest.raises(BadConfig):
            replace(CONFIG, **wrong)
