"""The continuous tokenizer: streams give what the whole clip gives; and the published shapes in bfloat16."""

import pytest
import torch

from wfm_ar.cosmos.loading import Checkpoint, Entry, load_published
from wfm_ar.cosmos.synth import random_weights, tiny
from wfm_ar.errors import BadClip
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizer, ContinuousTokenizerConfig

CONFIG = ContinuousTokenizerConfig(
    height=32, width=48, temporal_compression=8, spatial_compression=8, patch_time=4, patch_space=4, encoder_channels=8,
    decoder_channels=8, multipliers=(2, 4, 4), encoder_blocks=1, decoder_blocks=2, z_channels=8, latent_channels=4, chunk=3, norm="frame",
    attention=True, factorised_ends=True, background=False, normalise=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    tokenizer = ContinuousTokenizer(CONFIG).eval()
    tokenizer.mean.normal_()
    tokenizer.std.uniform_(0.5, 2)
    return tokenizer


@torch.no_grad()
def test_streams_give_what_the_whole_clip_gives(tokenizer):
    """Six latents with three statistics, in pieces of unlike lengths: the carried state knows where in the clip it is."""
    video = torch.rand(2, 3, 41, 32, 48) * 2 - 1
    latents = tokenizer.encode(video)
    assert latents.shape == (2, 4, 6, 4, 6)
    for cuts in ([1, 8, 32], [9, 16, 16], [1, 8, 8, 8, 8, 8]):
        stream = tokenizer.encode_stream()
        pieces = [stream.push(piece) for piece in video.split(cuts, 2)]
        torch.testing.assert_close(torch.cat(pieces, 2), latents, atol=2e-5, rtol=1e-4)
    frames = tokenizer.decode(latents)
    assert frames.shape == video.shape
    for cuts in ([1, 5], [2, 1, 3], [1] * 6):
        stream = tokenizer.decode_stream()
        pieces = [stream.push(piece) for piece in latents.split(cuts, 2)]
        assert pieces[0].shape[2] == 1 + 8 * (cuts[0] - 1)
        torch.testing.assert_close(torch.cat(pieces, 2), frames, atol=5e-5, rtol=1e-4)


@torch.no_grad()
def test_each_latent_has_statistics_of_its_own_and_later_ones_the_last(tokenizer):
    video = torch.rand(1, 3, 41, 32, 48) * 2 - 1
    raw, latents = tokenizer.latents(video), tokenizer.encode(video)
    for place, statistic in enumerate((0, 1, 2, 2, 2, 2)):
        expected = (raw[:, :, place] - tokenizer.mean[:, statistic, None, None]) / tokenizer.std[:, statistic, None, None]
        torch.testing.assert_close(latents[:, :, place], expected)


def test_pieces_that_cannot_be(tokenizer):
    for frames in (8, 12):
        with pytest.raises(BadClip, match="1 \\+ 8\\*n"):
            tokenizer.encode_stream().push(torch.zeros(1, 3, frames, 32, 48))
    stream = tokenizer.encode_stream()
    stream.push(torch.zeros(1, 3, 1, 32, 48))
    for shape, words in (((1, 3, 9, 32, 48), "multiple of 8"), ((1, 3, 8, 33, 48), "multiples of 8")):
        with pytest.raises(BadClip, match=words):
            stream.push(torch.zeros(shape))


@pytest.mark.parametrize("name", ["dv8x16x16", "dv4x8x8", "cv8x8x8"])
@torch.no_grad()
def test_published_tokenizers_in_bfloat16(name):
    """Beside float32 on the same weights: latents and frames within bf16's rounding over some sixty layers, codes a step apart."""
    config = tiny(name)
    weights = random_weights(config, torch.Generator().manual_seed(1))
    entries = {key: Entry(shape=tuple(one.shape), dtype=one.dtype, read=lambda one=one: one) for key, one in weights.items()}
    exact, near = (load_published(config, Checkpoint(paths=(), format="random", entries=entries), name, kind) for kind in
                   (torch.float32, torch.bfloat16))  # fmt: skip
    video = torch.nn.functional.interpolate(torch.rand(1, 3, 5, 4, 6, generator=torch.Generator().manual_seed(2)), (17, 64, 96)) * 2 - 1
    one, two = exact.latents(video), near.latents(video.bfloat16())
    assert two.dtype == torch.bfloat16 and float((one - two.float()).abs().mean() / one.std()) < 0.03
    if name.startswith("dv"):
        ids, other = exact.encode(video), near.encode(video.bfloat16())
        steps = (exact.codes(ids) - exact.codes(other)) * (exact.quantizer._levels // 2)
        assert float((ids == other).float().mean()) > 0.6 and float(steps.abs().max()) <= 1
        half = near.decode(ids)
    else:
        ids = exact.encode(video)
        half = near.decode(ids.bfloat16())
    whole = exact.decode(ids)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()
    assert float((whole - half.float()).abs().mean() / whole.std()) < 0.03
    # and a stream in bfloat16 is the whole clip in bfloat16
    stream, given = near.encode_stream(), video.bfloat16()
    rate = config.temporal_compression
    pieces = [stream.push(piece) for piece in (given[:, :, :1], given[:, :, 1 : 1 + rate], given[:, :, 1 + rate :])]
    axis = 1 if name.startswith("dv") else 2
    streamed, at_once = torch.cat(pieces, axis), near.encode(given)
    if name.startswith("dv"):
        assert float((streamed == at_once).float().mean()) > 0.9
    else:
        torch.testing.assert_close(streamed, at_once, atol=0.05, rtol=0.05)
