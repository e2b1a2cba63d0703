import pytest
import torch

from wfm_ar.errors import BadClip, BadConfig
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.tokenizers.video.model import LatentNorm

SMALL = {
    "height": 32,
    "width": 48,
    "encoder_channels": 8,
    "decoder_channels": 8,
    "z_channels": 8,
    "decoder_blocks": 1,
    "levels": (8, 5, 5, 5),
}
PUBLISHED = {"norm": "frame", "attention": True, "factorised_ends": True, "background": False, "normalise": False}
RATES = [
    {"temporal_compression": 1, "patch_time": 1, "spatial_compression": 8, "multipliers": (1, 2), "time_kernel": 1},
    {"temporal_compression": 1, "patch_time": 1, "spatial_compression": 8, "multipliers": (1, 2)},
    {"temporal_compression": 2, "patch_time": 1, "spatial_compression": 8, "multipliers": (1, 2)},
    {"temporal_compression": 4, "patch_time": 4, "spatial_compression": 16, "multipliers": (1, 2, 2)},
    {"temporal_compression": 8, "patch_time": 4, "spatial_compression": 16, "multipliers": (1, 2, 2)} | PUBLISHED,
    {"temporal_compression": 8, "patch_time": 1, "patch_space": 2, "spatial_compression": 8, "multipliers": (1, 1, 2, 2)} | PUBLISHED,
]


def make(**settings) -> VideoTokenizer:
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(VideoTokenizerConfig(**(SMALL | settings))).eval()
    with torch.no_grad():  # a codebook in use, as after training
        video = torch.rand(1, 3, 1 + 2 * tokenizer.config.temporal_compression, tokenizer.config.height, tokenizer.config.width) * 2 - 1
        spread, mean = torch.std_mean(tokenizer.quant_conv(tokenizer.encoder(video)), (0, 2, 3, 4))
        tokenizer.quant_conv.weight.div_(spread.view(-1, 1, 1, 1, 1) / 2)
        tokenizer.quant_conv.bias.sub_(mean).div_(spread / 2)
        if tokenizer.config.background:
            tokenizer.background.uniform_(-1, 1)
    return tokenizer


@pytest.mark.parametrize("rates", RATES)
def test_shapes_and_streams(rates):
    tokenizer = make(**rates)
    r, s = tokenizer.config.temporal_compression, tokenizer.config.spatial_compression
    video = torch.rand(2, 3, 1 + 3 * r, 32, 48) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.encode(video)
        decoded = tokenizer.decode(tokens)
    assert tokens.shape == (2, 4, 32 // s, 48 // s)
    assert decoded.shape == video.shape
    assert 0 <= tokens.min() and tokens.max() < tokenizer.codebook_size and len(tokens.unique()) > 4

    encoding, decoding = tokenizer.encode_stream(), tokenizer.decode_stream()
    streamed = [encoding.push(video[:, :, : 1 + r]), encoding.push(video[:, :, 1 + r : 1 + 2 * r]), encoding.push(video[:, :, 1 + 2 * r :])]
    assert torch.equal(torch.cat(streamed, 1), tokens)
    frames = [decoding.push(tokens[:, :1]), decoding.push(tokens[:, 1:3]), decoding.push(tokens[:, 3:])]
    torch.testing.assert_close(torch.cat(frames, 2), decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rates", RATES)
def test_causal_to_the_last_bit(rates):
    tokenizer = make(**rates)
    r = tokenizer.config.temporal_compression
    video = torch.rand(1, 3, 1 + 2 * r, 32, 48) * 2 - 1
    other = video.clone()
    other[:, :, 1 + r :] = torch.rand_like(other[:, :, 1 + r :])
    with torch.no_grad():
        one, two = tokenizer.encode(video), tokenizer.encode(other)
        assert torch.equal(one[:, :2], two[:, :2]) and not torch.equal(one[:, 2], two[:, 2])
        mixed = torch.cat((one[:, :2], two[:, 2:]), 1)
        assert torch.equal(tokenizer.decode(one)[:, :, : 1 + r], tokenizer.decode(mixed)[:, :, : 1 + r])


def test_still_regions_keep_their_codes():
    tokenizer = make(temporal_compression=4, spatial_compression=16, multipliers=(1, 2, 2), height=128, width=128)
    still = tokenizer.background[None, :, None].expand(1, 3, 9, -1, -1)
    moving = still.clone()
    moving[:, :, :, :32, :32] += torch.rand(1, 3, 9, 32, 32)
    with torch.no_grad():
        change = (tokenizer.encode(still) != tokenizer.encode(moving))[0].any(0)
    assert change[:2, :2].any() and not change[6:, 6:].any()


def test_an_image_is_a_one_frame_clip():
    tokenizer = make(multipliers=(1, 2, 2))
    image = torch.rand(1, 3, 1, 32, 48)
    with torch.no_grad():
        assert tokenizer.decode(tokenizer.encode(image)).shape == image.shape


def test_wrong_clips_and_settings_are_refused():
    tokenizer = make(multipliers=(1, 2, 2))
    with pytest.raises(BadClip, match="9"):
        tokenizer.encode(torch.zeros(1, 3, 8, 32, 48))
    with pytest.raises(BadClip, match="expected 48x32"):
        tokenizer.encode(torch.zeros(1, 3, 9, 32, 32))
    for wrong in (
        {"height": 30},
        {"temporal_compression": 3},
        {"levels": (1,)},
        {"norm": "batch"},
        {"multipliers": (1,)},
        {"patch_time": 8},
    ):
        with pytest.raises(BadConfig):
            VideoTokenizerConfig(**(SMALL | wrong))


def test_latent_norm_makes_unit_spread():
    norm = LatentNorm(2).train()
    for _ in range(200):
        norm(torch.randn(2, 2, 3, 8, 8) * 7 + 3)
    out = norm.eval()(torch.randn(8, 2, 3, 8, 8) * 7 + 3)
    assert abs(float(out.mean())) < 0.1 and abs(float(out.std()) - 1) < 0.1


@pytest.mark.parametrize("name", ["tokenizer_dv8x16x16", "tokenizer_dv4x8x8"])
def test_golden(golden, name):
    tensors, about = golden(name)
    published = about["config"]
    config = VideoTokenizerConfig(
        height=64,
        width=64,
        temporal_compression=published["temporal_compression"],
        spatial_compression=published["spatial_compression"],
        patch_time=published["patch_size"],
        patch_space=published["patch_size"],
        encoder_channels=published["channels"],
        decoder_channels=published["channels"],
        multipliers=tuple(published["channels_mult"]),
        encoder_blocks=published["num_res_blocks"],
        decoder_blocks=published["num_res_blocks"] + 1,
        z_channels=published["z_channels"],
        levels=tuple(published["levels"]),
        **PUBLISHED,
    )
    tokenizer = VideoTokenizer(config).eval()
    weights = {n.removeprefix("sd.").replace(".conv3d.", ".").replace(".norm.", "."): t for n, t in tensors.items() if n.startswith("sd.")}
    tokenizer.load_state_dict({n: t for n, t in weights.items() if "patcher" not in n and not n.startswith("quantizer")})
    with torch.no_grad():
        for frames in (1, 9, 17):
            video, indices = tensors[f"t{frames}.video"], tensors[f"t{frames}.indices"].long()
            latents = tokenizer.latents(video)
            torch.testing.assert_close(latents, tensors[f"t{frames}.latent_prequant"], atol=2e-5, rtol=0)
            assert torch.equal(tokenizer.encode(video), indices)
            torch.testing.assert_close(tokenizer.decode(indices), tensors[f"t{frames}.recon"], atol=1e-3, rtol=0)


def test_frames_apart_are_coded_as_if_each_were_alone():
    tokenizer = make(temporal_compression=1, patch_time=1, spatial_compression=8, multipliers=(1, 2), time_kernel=1)
    assert tokenizer.config.frames_apart and not make(temporal_compression=1, patch_time=1).config.frames_apart
    video = torch.rand(1, 3, 4, 32, 48) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.encode(video)
        alone = torch.cat([tokenizer.encode(video[:, :, t : t + 1]) for t in range(4)], 1)
        shuffled = tokenizer.decode(tokens.flip(1)).flip(2)
        assert torch.equal(tokens, alone)
        torch.testing.assert_close(tokenizer.decode(tokens), shuffled)


def test_pictures_that_would_fill_the_memory_are_refused():
    VideoTokenizerConfig(height=2048, width=2048)
    with pytest.raises(BadConfig, match=r"tokenizer width and height: got 16384x16384 pixels, expected at most 4194304 in all"):
        VideoTokenizerConfig(height=16384, width=16384)
