"""Our tensor names and the published ones, both ways, with what either side fuses or leaves out.

A `Name` says which published tensors, one below the other, make one of ours: we keep q, k, v (and the two halves of SwiGLU) in
one matrix, the published checkpoints apart. Names are derived from the modules, so a configuration is all that is needed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from torch import nn

from wfm_ar.cosmos.shapes import Config, on_meta
from wfm_ar.diffusion_decoder.dit import DiTConfig
from wfm_ar.world_model.transformer import WorldModelConfig

# Wrappers' prefixes that published files may carry before every name.
PREFIXES = ("model.", "network.", "module.")
# In files, but not weights: buffers that we compute, Transformer Engine's bookkeeping, what only training used (its losses, and a
# running mean whose names have dashes for dots).
IGNORED = re.compile(
    r"(.*\._extra_state|.*_extra_state"
    r"|(encoder\.patcher3d|decoder\.unpatcher3d)\.(wavelets|_arange|patch_size_buffer)"
    r"|(inv_quant\.)?quantizer\.(_levels|_basis|implicit_codebook|dtype)"
    r"|net\.pos_embedder\.seq|logvar\..*|rope\..*|(ema|loss)\..*)"
)


@dataclass(frozen=True, kw_only=True)
class Name:
    """One of our tensors, and the published ones whose rows make it, in order."""

    ours: str
    published: tuple[str, ...]
    rows: tuple[int, ...]  # of each published one
    shape: tuple[int, ...]  # of ours

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The published tensors' own shapes."""
        return {name: (rows, *self.shape[1:]) for name, rows in zip(self.published, self.rows, strict=True)}


@cache
def names_of(config: Config) -> tuple[Name, ...]:
    """Every tensor of the network that a published file holds."""
    module = on_meta(config)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    if isinstance(config, WorldModelConfig):
        table = _world_model(config)
    elif isinstance(config, DiTConfig):
        table = _decoder(config)
    else:
        table = _tokenizer(module)
    assert table.keys() == shapes.keys(), sorted(table.keys() ^ shapes.keys())
    out = []
    for ours, theirs in table.items():
        published, rows = zip(*theirs, strict=True) if theirs[0][1] else ((theirs[0][0],), (shapes[ours][0],))
        out.append(Name(ours=ours, published=tuple(published), rows=tuple(rows), shape=shapes[ours]))
    return tuple(out)


def stripped(names: Iterable[str]) -> dict[str, str]:
    """Name in the file -> published name: a wrapper's prefix taken off, what is not a weight left out."""
    names = [name for name in names if not IGNORED.fullmatch(name)]
    for prefix in PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
            return {prefix + key: value for key, value in stripped(names).items()}
    return {name: name for name in names}


_Table = dict[str, list[tuple[str, int]]]  # ours -> published names with their rows; 0 rows = all of ours


def _world_model(config: WorldModelConfig) -> _Table:
    q, kv, hidden = config.heads * config.head_dim, config.kv_heads * config.head_dim, config.hidden
    table: _Table = {"embedding.weight": [("tok_embeddings.weight", 0)]}
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}.", f"layers.{i}."
        table[f"{ours}attention_norm.weight"] = [(f"{theirs}attention_norm.weight", 0)]
        attention = f"{theirs}attention."
        table[f"{ours}attention.qkv.weight"] = [(f"{attention}wq.weight", q), (f"{attention}wk.weight", kv), (f"{attention}wv.weight", kv)]
        kinds = ["attention"]
        if config.context_dim:
            kinds.append("cross_attention")
            cross = f"{theirs}cross_attention."
            table[f"{ours}cross_norm.weight"] = [(f"{theirs}cross_attention_norm.weight", 0)]
            table[f"{ours}cross_attention.q.weight"] = [(f"{cross}wq.weight", 0)]
            table[f"{ours}cross_attention.kv.weight"] = [(f"{cross}wk.weight", kv), (f"{cross}wv.weight", kv)]
        for kind in kinds:
            table[f"{ours}{kind}.out.weight"] = [(f"{theirs}{kind}.wo.weight", 0)]
            for x in "qk":
                table[f"{ours}{kind}.{x}_norm.weight"] = [(f"{theirs}{kind}.{x}_norm.weight", 0)]
        table[f"{ours}ffn_norm.weight"] = [(f"{theirs}ffn_norm.weight", 0)]
        ffn = f"{theirs}feed_forward."
        table[f"{ours}ffn.gate_up.weight"] = [(f"{ffn}w1.weight", hidden), (f"{ffn}w3.weight", hidden)]
        table[f"{ours}ffn.down.weight"] = [(f"{ffn}w2.weight", 0)]
    table["norm.weight"] = [("norm.weight", 0)]
    table["head.weight"] = [("output.weight", 0)]
    return table


def _tokenizer(module: nn.Module) -> _Table:
    """Published convolutions and norms are wrapped once more: `x.weight` is `x.conv3d.weight` or `x.norm.weight` there."""
    wrapped = {name: "conv3d" if isinstance(part, nn.Conv3d) else "norm" for name, part in module.named_modules()}
    table: _Table = {}
    for name, _ in module.named_parameters():
        place, _, leaf = name.rpartition(".")
        table[name] = [(f"{place}.{wrapped[place]}.{leaf}", 0)]
    return table


def _decoder(config: DiTConfig) -> _Table:
    table: _Table = {
        "token_embedding.weight": [("net.token_embedder.weight", 0)],
        "embed.weight": [("net.x_embedder.proj.1.weight", 0)],
        "noise_in.weight": [("net.t_embedder.1.linear_1.weight", 0)],
        "noise_out.weight": [("net.t_embedder.1.linear_2.weight", 0)],
        "noise_norm.weight": [("net.affline_norm.weight", 0)],
    }
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}.", f"net.blocks.block{i}.blocks."
        for place, kind in enumerate(("attention", "cross_attention")):
            attn = f"{theirs}{place}.block.attn."
            table[f"{ours}{kind}.q.weight"] = [(f"{attn}to_q.0.weight", 0)]
            table[f"{ours}{kind}.kv.weight"] = [(f"{attn}to_k.0.weight", config.dim), (f"{attn}to_v.0.weight", config.dim)]
            table[f"{ours}{kind}.q_norm.weight"] = [(f"{attn}to_q.1.weight", 0)]
            table[f"{ours}{kind}.k_norm.weight"] = [(f"{attn}to_k.1.weight", 0)]
            table[f"{ours}{kind}.out.weight"] = [(f"{attn}to_out.0.weight", 0)]
        table[f"{ours}mlp.up.weight"] = [(f"{theirs}2.block.layer1.weight", 0)]
        table[f"{ours}mlp.down.weight"] = [(f"{theirs}2.block.layer2.weight", 0)]
        for place in range(3):
            table[f"{ours}modulations.{place}.down.weight"] = [(f"{theirs}{place}.adaLN_modulation.1.weight", 0)]
            table[f"{ours}modulations.{place}.up.weight"] = [(f"{theirs}{place}.adaLN_modulation.2.weight", 0)]
    table["last_modulation.down.weight"] = [("net.final_layer.adaLN_modulation.1.weight", 0)]
    table["last_modulation.up.weight"] = [("net.final_layer.adaLN_modulation.2.weight", 0)]
    table["head.weight"] = [("net.final_layer.linear.weight", 0)]
    return table


def part_of(published_names: Iterable[str]) -> str | None:
    """Which part of a world a state dict is, by the names that only it has; None for anything else."""
    names = set(published_names)
    if "tok_embeddings.weight" in names:
        return "world_model"
    if "net.x_embedder.proj.1.weight" in names:
        return "diffusion_decoder"
    if names & {"encoder.conv_in.0.conv3d.weight", "decoder.conv_in.0.conv3d.weight"}:
        return "tokenizer"
    return None
