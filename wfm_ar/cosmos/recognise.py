"""What a set of published tensors is: the configuration, read off names and shapes alone.

So any width loads, not only the released ones, and `wfm cosmos info` can name a file. What shapes do not tell is told by the
published family: YaRN belongs to the models whose heads are wider than the model (12B, 13B), sin-cos positions to those with
cross-attention, base 500,000 to all.
"""

from collections.abc import Mapping

from wfm_ar.cosmos.names import part_of
from wfm_ar.cosmos.shapes import HEIGHT, LEVELS, PUBLISHED, WIDTH, YARN_SHAPE, Config
from wfm_ar.diffusion_decoder.dit import DiTConfig
from wfm_ar.errors import BadCheckpoint, BadConfig
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizerConfig
from wfm_ar.tokenizers.video.model import VideoTokenizerConfig
from wfm_ar.world_model.transformer import WorldModelConfig

Shapes = Mapping[str, tuple[int, ...]]


def recognise(shapes: Shapes, where: str, height: int = HEIGHT, width: int = WIDTH) -> Config:
    """The configuration of the network whose published tensors have these names and shapes; tokenizers get this picture size.

    Raises BadCheckpoint where they are no Cosmos network, or lack a tensor that its configuration is read from.
    """
    part = part_of(shapes)
    try:
        if part == "world_model":
            return _world_model(shapes)
        if part == "diffusion_decoder":
            return _decoder(shapes)
        if part == "tokenizer":
            return _tokenizer(shapes, height, width)
    except (KeyError, ZeroDivisionError, IndexError, ValueError, BadConfig) as error:
        told = f"{error} is missing or empty" if isinstance(error, KeyError) else ""
        told = told or f"got shapes of no network ({error.problem if isinstance(error, BadConfig) else error})"
        raise BadCheckpoint(f"{where}: {told}, expected the tensors of a Cosmos {part}; fix: copy the file again") from None
    some = ", ".join(sorted(shapes)[:3]) or "no tensors"
    raise BadCheckpoint(f"{where}: got {some}, expected the tensors of a Cosmos world model, tokenizer or decoder; fix: name another file")


def release_of(config: Config) -> str | None:
    """The published name of a configuration, whatever picture size a tokenizer is set to; None for other widths."""

    def essence(one: Config) -> dict:
        return {key: value for key, value in vars(one).items() if key not in ("height", "width", "chunk")} | {"type": type(one)}

    return next((name for name, one in PUBLISHED.items() if essence(one) == essence(config)), None)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers from 0 on make `pattern` a name."""
    i = 0
    while pattern.format(i) in shapes:
        i += 1
    return i


def _world_model(shapes: Shapes) -> WorldModelConfig:
    vocab, dim = shapes["tok_embeddings.weight"]
    (head_dim,) = shapes["layers.0.attention.q_norm.weight"]
    heads = shapes["layers.0.attention.wq.weight"][0] // head_dim
    cross = shapes.get("layers.0.cross_attention.wk.weight")
    return WorldModelConfig(
        vocab=vocab,
        out_vocab=shapes["output.weight"][0],
        layers=_count(shapes, "layers.{}.ffn_norm.weight"),
        dim=dim,
        heads=heads,
        kv_heads=shapes["layers.0.attention.wk.weight"][0] // head_dim,
        head_dim=head_dim,
        hidden=shapes["layers.0.feed_forward.w1.weight"][0],
        context_dim=cross[1] if cross else 0,
        additive_positions=cross is not None,
        theta=500000.0,
        yarn_shape=YARN_SHAPE if heads * head_dim != dim else None,
    )


def _decoder(shapes: Shapes) -> DiTConfig:
    patch = 2
    token_vocab, token_dim = shapes["net.token_embedder.weight"]
    out, dim = shapes["net.final_layer.linear.weight"]
    latent_channels = out // patch**2
    block = "net.blocks.block0.blocks."
    return DiTConfig(
        latent_channels=latent_channels,
        token_vocab=token_vocab,
        token_dim=token_dim,
        layers=_count(shapes, "net.blocks.block{}.blocks.0.block.attn.to_q.0.weight"),
        dim=dim,
        heads=dim // shapes[f"{block}0.block.attn.to_q.1.weight"][0],
        hidden=shapes[f"{block}2.block.layer1.weight"][0],
        context_dim=shapes[f"{block}1.block.attn.to_k.0.weight"][1],
        modulation_rank=shapes[f"{block}0.adaLN_modulation.1.weight"][0],
        patch=patch,
        padding_mask=shapes["net.x_embedder.proj.1.weight"][1] // patch**2 > latent_channels + token_dim,
    )


def _tokenizer(shapes: Shapes, height: int, width: int) -> VideoTokenizerConfig:
    """From the encoder where there is one, else from the decoder: a decoder.jit alone is enough to know the network."""
    side, ends = ("encoder", "down") if "encoder.conv_in.0.conv3d.weight" in shapes else ("decoder", "up")
    levels = _count(shapes, side + "." + ends + ".{}.block.0.norm1.norm.weight")
    widths = [shapes[f"{side}.{ends}.{level}.block.0.conv2.1.conv3d.weight"][0] for level in range(levels)]
    if side == "encoder":
        channels, patched = shapes["encoder.conv_in.0.conv3d.weight"][:2]
        z_channels = shapes["encoder.conv_out.1.conv3d.weight"][0]
        latent = shapes["quant_conv.conv3d.weight"][0]
        halvings = [f"encoder.down.{level}.downsample" for level in range(levels)]
        space, time = "conv1", "conv2"
    else:
        patched = shapes["decoder.conv_out.1.conv3d.weight"][0]
        z_channels = shapes["decoder.conv_in.0.conv3d.weight"][1]
        latent = shapes["post_quant_conv.conv3d.weight"][1]
        channels = widths[0] // 2  # every published network's first multiplier
        halvings = [f"decoder.up.{level}.upsample" for level in range(levels)]
        space, time = "conv2", "conv1"
    patch = round((patched / 3) ** (1 / 3))
    blocks = _count(shapes, f"{side}.{ends}.0.block." + "{}.norm1.norm.weight") - (side == "decoder")
    rates = [sum(f"{place}.{conv}.conv3d.weight" in shapes for place in halvings) for conv in (time, space)]
    common = dict(
        temporal_compression=patch * 2 ** rates[0],
        spatial_compression=patch * 2 ** rates[1],
        patch_time=patch,
        patch_space=patch,
        encoder_channels=channels,
        decoder_channels=channels,
        multipliers=tuple(one // channels for one in widths),
        encoder_blocks=blocks,
        decoder_blocks=blocks + 1,
        z_channels=z_channels,
        levels=LEVELS,
        norm="frame",
        attention=True,
        factorised_ends=True,
        background=False,
        normalise=False,
    )
    multiple = common["spatial_compression"]
    common |= {"height": height // multiple * multiple or multiple, "width": width // multiple * multiple or multiple}
    if latent == len(LEVELS):  # the discrete ones have six channels, one a level; the continuous ones sixteen
        return VideoTokenizerConfig(**common)
    return ContinuousTokenizerConfig(latent_channels=latent, **common)
