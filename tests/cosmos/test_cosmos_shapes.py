"""Small facts about the published networks that need no files: counts, names, tables."""

import math
import re
from pathlib import Path

import pytest
import torch

from wfm_ar.cosmos.describe import memory, memory_table, most_at_once
from wfm_ar.cosmos.names import names_of, part_of, stripped
from wfm_ar.cosmos.recognise import recognise, release_of
from wfm_ar.cosmos.shapes import CODEBOOK, PUBLISHED, VIDEO_TOKENIZERS, WORLD_MODELS, Config, cache_bytes, count_parameters, published
from wfm_ar.diffusion_decoder.dit_sampler import SIGMA_MAX, SIGMA_MIN
from wfm_ar.diffusion_decoder.edm import karras_sigmas
from wfm_ar.errors import BadCheckpoint, BadConfig
from wfm_ar.shapes import latent_frames
from wfm_ar.tokenizers.video.fsq import FSQ
from wfm_ar.world_model.rotary import axis_sizes, rotary_frequencies, rotary_tables, sincos_positions

PARAMETERS = {  # of the published networks, exactly
    "4b": 4_014_088_192,
    "5b": 4_584_845_312,
    "12b": 11_560_975_360,
    "13b": 13_323_125_760,
    "dv8x16x16": 110_898_294,
    "dv4x8x8": 112_619_766,
    "cv8x8x8": 105_653_696,
    "decoder-7b": 7_237_257_216,
}


def published_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the published state dict, without prefixes and ignored buffers."""
    return {name: shape for one in names_of(config) for name, shape in one.shapes().items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_exactly_the_published(name):
    assert count_parameters(PUBLISHED[name]) == PARAMETERS[name]
    assert sum(math.prod(shape) for shape in published_shapes(PUBLISHED[name]).values()) == PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_release_is_recognised_by_its_tensors(name):
    shapes = published_shapes(PUBLISHED[name])
    assert release_of(recognise(shapes, "a file", 320, 512)) == name
    narrow = {
        key: tuple(max(1, n // 2) for n in shape) if key.startswith("layers.0.feed_forward") else shape for key, shape in shapes.items()
    }
    if name in WORLD_MODELS:
        assert release_of(recognise(narrow, "a file")) is None


def test_world_model_names_and_shapes():
    """The list of the 13B: 64,064 embedding rows, 64,000 outputs, queries of 4,096 in a model of 5,120."""
    shapes = published_shapes(WORLD_MODELS["13b"])
    assert len(shapes) == 3 + 40 * (11 + 7)
    expected = {
        "tok_embeddings.weight": (64064, 5120),
        "output.weight": (64000, 5120),
        "norm.weight": (5120,),
        "layers.39.attention.wq.weight": (4096, 5120),
        "layers.39.attention.wk.weight": (1024, 5120),
        "layers.39.attention.wo.weight": (5120, 4096),
        "layers.0.attention.q_norm.weight": (128,),
        "layers.0.cross_attention_norm.weight": (5120,),
        "layers.0.cross_attention.wk.weight": (1024, 1024),
        "layers.0.cross_attention.wo.weight": (5120, 4096),
        "layers.7.feed_forward.w3.weight": (14336, 5120),
        "layers.7.feed_forward.w2.weight": (5120, 14336),
    }
    assert {name: shapes[name] for name in expected} == expected
    base = published_shapes(WORLD_MODELS["4b"])
    assert len(base) == 3 + 16 * 11 and not any("cross" in name for name in base)


def test_tokenizer_and_decoder_names():
    shapes = published_shapes(VIDEO_TOKENIZERS["dv8x16x16"])
    assert shapes["encoder.conv_in.0.conv3d.weight"] == (128, 192, 1, 3, 3)
    assert shapes["quant_conv.conv3d.weight"] == (6, 16, 1, 1, 1)
    assert shapes["encoder.mid.attn_1.1.norm.norm.weight"] == (512,)
    decoder = published_shapes(PUBLISHED["decoder-7b"])
    assert decoder["net.x_embedder.proj.1.weight"] == (4096, 196)
    assert decoder["net.token_embedder.weight"] == (64000, 32)
    assert decoder["net.blocks.block27.blocks.2.block.layer1.weight"] == (16384, 4096)
    assert decoder["net.final_layer.linear.weight"] == (64, 4096)


def test_wrappers_prefixes_and_buffers_are_left_out():
    names = ["model.norm.weight", "model.output.weight", "model.layers.0.attention._extra_state"]
    assert stripped(names) == {"model.norm.weight": "norm.weight", "model.output.weight": "output.weight"}
    assert stripped(["encoder.patcher3d.wavelets", "quantizer._levels", "inv_quant.quantizer._basis", "logvar.1.weight"]) == {}
    assert stripped(["norm.weight", "medusa_head.0.weight"]).keys() == {"norm.weight", "medusa_head.0.weight"}
    assert part_of(["something"]) is None


def test_every_tensor_of_ours_has_a_published_source():
    for config in PUBLISHED.values():
        for one in names_of(config):
            assert sum(one.rows) == one.shape[0], one


def test_sequence_arithmetic():
    assert latent_frames(33, 8) * 40 * 64 == 12800 and latent_frames(9, 8) * 2560 == 5120
    assert math.prod(VIDEO_TOKENIZERS["dv8x16x16"].levels) == CODEBOOK
    assert cache_bytes(WORLD_MODELS["4b"], 12800) == 800 * 2**20 and cache_bytes(WORLD_MODELS["12b"], 12800) == 2000 * 2**20


def test_rotary_tables_of_the_release():
    assert axis_sizes(128) == (22, 21, 21)
    plain, stretched = rotary_frequencies(128, 500000.0), rotary_frequencies(128, 500000.0, (3, 40))
    torch.testing.assert_close(stretched[0, :22], plain[0, :22] / 2)  # YaRN halves every temporal frequency
    ratios = (plain[1, 22:43] / stretched[1, 22:43]).tolist()
    assert ratios[:4] == pytest.approx([1, 1.109, 1.569, 2], abs=1e-3)
    cos, sin = rotary_tables(torch.tensor([[[-1, -1, -1], [0, 0, 0]]]), plain, torch.float32)
    assert (cos == 1).all() and (sin == 0).all()  # BOV and token 0 rotate by nothing
    added = sincos_positions(torch.tensor([[[-1, -1, -1], [0, 0, 0]]]), 5120)
    assert (added[0, 0] == 0).all() and added[0, 1].sum() == 2560  # BOV none; sin 0, cos 1


def test_fsq_and_sigmas():
    fsq = FSQ((8, 8, 8, 5, 5, 5))
    ids = torch.arange(CODEBOOK).view(1, 1, 1, -1)
    codes = fsq.ids_to_codes(ids)
    assert torch.equal(fsq.codes_to_ids(codes), ids) and torch.equal(fsq.codes_to_ids(codes.bfloat16()), ids)
    assert int(fsq.codes_to_ids(fsq(torch.zeros(1, 6, 1, 1, 1)))) == 32036
    published_list = [80, 56.04, 38.51, 25.91, 17.02, 10.89, 6.75, 4.05, 2.33, 1.277, 0.662, 0.321, 0.143, 0.057, 0.02, 0]
    assert karras_sigmas(15, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX) == pytest.approx(published_list, rel=2e-3, abs=5e-4)


def test_unknown_names_and_files_are_told():
    with pytest.raises(BadConfig, match="12b"):
        published("12B")
    with pytest.raises(BadCheckpoint, match="expected the tensors of a Cosmos"):
        recognise({"conv.weight": (3, 3)}, "a file")
    with pytest.raises(BadCheckpoint, match="missing"):
        recognise({"tok_embeddings.weight": (8, 4)}, "a file")


@pytest.mark.parametrize("name", WORLD_MODELS)
def test_the_most_on_a_device_at_once(name):
    """Int8: each part on its turn holds that part alone; 4B and 5B fit a 12 GB card so, with the decoder, and no larger one does."""
    turns = most_at_once(name, ("model", "decoder", "tokenizer"))
    layers, dim, hidden = (getattr(WORLD_MODELS[name], key) for key in ("layers", "dim", "hidden"))
    ffn = layers * 3 * dim * hidden  # bytes of the feed-forward layers in 8 bits
    assert turns["model"] > (ffn + 2 * 2 * dim * CODEBOOK + cache_bytes(WORLD_MODELS[name], 12800)) / 1e9
    everything = most_at_once(name, ())
    assert everything["model"] - turns["model"] == pytest.approx(turns["decoder"] - 0.1 + turns["tokenizer"], abs=0.3)
    assert (max(turns.values()) < 11) == (name in ("4b", "5b")) and max(everything.values()) > 12
    assert (most_at_once(name, ("decoder", "tokenizer"))["model"] < 11) == (name in ("4b", "5b"))


def test_the_memory_table_in_the_docs_is_the_commands():
    """Row by row the same numbers; what was never measured is called so in both."""
    page = (Path(__file__).parents[2] / "docs" / "cosmos.md").read_text()
    lines = {line.split()[0]: line for line in memory_table()}
    for name in WORLD_MODELS:
        _, bf16, int8, cache, raw, _, turns, *gpu = lines[name].split()
        row = next(line for line in page.splitlines() if re.match(rf"\| {name}(-Video2World)? \|", line, re.IGNORECASE))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:] == [f"{PARAMETERS[name]:,}", bf16, int8, cache, raw, turns, "not measured"] and gpu == ["not", "measured"], row
    full, small = memory(PUBLISHED["decoder-7b"])
    assert f"| decoder 7B | {PARAMETERS['decoder-7b']:,} | {full:.2f} | {small:.2f} |" in page
    assert memory(WORLD_MODELS["4b"])[0] == 2 * 4_014_088_192 / 1e9
