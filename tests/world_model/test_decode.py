"""The loop over the layers: with ops in a few lines of plain torch it is the model's forward, whatever the model has."""

import pytest
import torch
import torch.nn.functional as F

from wfm_ar.world_model import WorldModel, WorldModelConfig
from wfm_ar.world_model.decode import Layer, run_layers
from wfm_ar.world_model.rotary import rotary_tables
from wfm_ar.world_model.transformer import added_positions

KINDS = {"plain": {}, "text": {"context_dim": 10}, "added": {"additive_positions": True}}
KINDS["both"] = KINDS["text"] | KINDS["added"]


class PlainOps:
    """Whole rows without a cache."""

    def __init__(self, model: WorldModel, positions_BL3: torch.Tensor, context_BSC: torch.Tensor) -> None:
        self.model, self.context_BSC = model, context_BSC
        self.tables = rotary_tables(positions_BL3, model.frequencies, torch.float32)

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], weight, self.model.config.eps)

    def add_norm(self, y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.norm(x + y, weight), x + y

    def glu(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up

    def cross(self, index: int, layer: Layer, normed: torch.Tensor) -> torch.Tensor:
        return layer.cross(normed, self.context_BSC, None, index)

    def attend(self, index: int, layer: Layer, qkv: torch.Tensor) -> torch.Tensor:
        """By the model's own layer, which projects and is projected by the identity."""
        own = self.model.blocks[index].attention
        given, own.qkv, own.out = (own.qkv, own.out), torch.nn.Identity(), torch.nn.Identity()
        try:
            return own(qkv, *self.tables, index)
        finally:
            own.qkv, own.out = given


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_is_the_forward(kind) -> None:
    torch.manual_seed(0)
    sizes = dict(vocab=16, out_vocab=12, layers=3, dim=24, heads=4, kv_heads=2, head_dim=8, hidden=24)
    model = WorldModel(WorldModelConfig(**sizes, **KINDS[kind])).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids, context = torch.randint(0, 12, (2, 5)), torch.randn(2, 7, 10)
    positions = torch.stack((torch.arange(5), torch.arange(5) % 2, torch.arange(5) % 3), -1).expand(2, -1, -1)

    def layer_of(block) -> Layer:
        cross = block.cross_attention
        return Layer(
            attention_norm=block.attention_norm.weight,
            qkv=block.attention.qkv,
            head_norm=None,
            out=block.attention.out,
            cross_norm=None if cross is None else block.cross_norm.weight,
            cross=cross,
            ffn_norm=block.ffn_norm.weight,
            gate_up=block.ffn.gate_up,
            down=block.ffn.down,
        )

    with torch.inference_mode():
        expected = model.features(ids, positions, context=context)
        added, x = added_positions(model.config, positions, torch.float32), model.embedding(ids)
        x = x if added is None else x + added
        found = run_layers(x, [layer_of(block) for block in model.blocks], model.norm.weight, PlainOps(model, positions, context), added)
    assert (found - expected).abs().max() <= 1e-5 and expected.abs().max() > 0.1
