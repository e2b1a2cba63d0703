import pytest
import torch

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.world_model import WorldModel, WorldModelConfig
from wfm_ar.world_model.transformer import next_token_loss

TINY = {"vocab": 40, "out_vocab": 30, "layers": 2, "dim": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 48}


def make(**settings) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig(**(TINY | settings))).eval()
    torch.nn.init.normal_(model.head.weight, std=32**-0.5)  # logits of unit spread
    return model


def inputs(length=13, rows=2):
    torch.manual_seed(1)
    return torch.randint(40, (rows, length)), torch.randint(5, (rows, length, 3))


@pytest.mark.parametrize("split", range(1, 13))
def test_cached_logits_equal_uncached_ones_at_every_split(split):
    model = make(hint_width=20)
    ids, positions = inputs()
    hints = torch.randn(2, 13, 20)
    with torch.no_grad():
        whole = model(ids, positions, hints_BLF=hints)
        cache = model.new_cache(2, 16)
        parts = [
            model(ids[:, a:b], positions[:, a:b], hints_BLF=hints[:, a:b], cache=cache)
            for a, b in [(0, split)] + [(i, i + 1) for i in range(split, 13)]
        ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


def test_later_tokens_change_nothing_earlier():
    model = make()
    ids, positions = inputs()
    other = ids.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 40
    with torch.no_grad():
        one, two = model(ids, positions), model(other, positions)
    assert torch.equal(one[:, :7], two[:, :7]) and not torch.equal(one[:, 7:], two[:, 7:])


def test_cross_attention_keeps_its_keys_and_masks():
    model = make(context_dim=12, additive_positions=True)
    ids, positions = inputs()
    context, mask = torch.randn(2, 5, 12), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    with torch.no_grad():
        whole = model(ids, positions, context=context, context_mask=mask)
        cache = model.new_cache(2, 16)
        first = model(ids[:, :6], positions[:, :6], cache=cache, context=context, context_mask=mask)
        rest = model(ids[:, 6:], positions[:, 6:], cache=cache, context_mask=mask)  # the keys are in the cache
        context[1, 2:] = 99.0
        masked = model(ids, positions, context=context, context_mask=mask)
    torch.testing.assert_close(torch.cat((first, rest), 1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(masked, whole)


def test_hints_are_required_exactly_when_the_model_has_them():
    ids, positions = inputs()
    with pytest.raises(BadPrompt, match="hints"):
        make(hint_width=20)(ids, positions)
    with pytest.raises(BadPrompt, match="hints"):
        make()(ids, positions, hints_BLF=torch.zeros(2, 13, 20))
    with pytest.raises(BadConfig, match="multiple"):
        WorldModelConfig(**(TINY | {"kv_heads": 3}))


def test_loss_counts_weights_only_and_adds_z():
    hidden, head, targets = torch.randn(2, 3, 8), torch.nn.Linear(8, 30, bias=False), torch.randint(30, (2, 3))
    hidden.requires_grad_()
    weights = torch.tensor([[1.0, 0, 2], [0, 0, 1]])
    logits = head(hidden)
    targets[0, 2] = logits[0, 2].argmax()
    targets[1, 0] = logits[1, 0].argmax()
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    for z_loss in (0.0, 0.1):
        expected = ((each + z_loss * logits.logsumexp(-1).square()) * weights).sum() / 4
        loss, hits = next_token_loss(hidden, head, targets, weights, z_loss)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        for got, wanted in zip(*(torch.autograd.grad(x, (hidden, head.weight), retain_graph=True) for x in (loss, expected)), strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-4)
    assert hits.tolist() == ((logits.argmax(-1) == targets) & (weights > 0)).tolist() and hits[0, 2] and not hits[1, 0]


def _from_published(weights: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    out = {
        "embedding.weight": weights["tok_embeddings.weight"],
        "norm.weight": weights["norm.weight"],
        "head.weight": weights["output.weight"],
    }
    for i in range(layers):
        theirs, ours = f"layers.{i}.", f"blocks.{i}."
        for kind in ("attention", "cross_attention") if f"{theirs}cross_attention.wq.weight" in weights else ("attention",):
            q, k, v = (weights[f"{theirs}{kind}.w{x}.weight"] for x in "qkv")
            if kind == "attention":
                out[f"{ours}attention.qkv.weight"] = torch.cat((q, k, v))
            else:
                out[f"{ours}cross_attention.q.weight"], out[f"{ours}cross_attention.kv.weight"] = q, torch.cat((k, v))
            out[f"{ours}{kind}.out.weight"] = weights[f"{theirs}{kind}.wo.weight"]
            out[f"{ours}{kind.replace('cross_attention', 'cross')}_norm.weight"] = weights[f"{theirs}{kind}_norm.weight"]
            for x in "qk":
                out[f"{ours}{kind}.{x}_norm.weight"] = weights[f"{theirs}{kind}.{x}_norm.weight"]
        out[f"{ours}ffn_norm.weight"] = weights[f"{theirs}ffn_norm.weight"]
        out[f"{ours}ffn.gate_up.weight"] = torch.cat([weights[f"{theirs}feed_forward.w{n}.weight"] for n in (1, 3)])
        out[f"{ours}ffn.down.weight"] = weights[f"{theirs}feed_forward.w2.weight"]
    return out


@pytest.mark.parametrize("name", ["ar_base", "ar_base_12b_yarn", "ar_v2w", "ar_v2w_13b_yarn"])
def test_golden(golden, name):
    tensors, about = golden(name)
    published, conditioned = about["model_config"], "v2w" in name
    weights = {n.removeprefix("sd."): t for n, t in tensors.items() if n.startswith("sd.")}
    config = WorldModelConfig(
        vocab=len(weights["tok_embeddings.weight"]),
        out_vocab=len(weights["output.weight"]),
        layers=published["n_layers"],
        dim=published["dim"],
        heads=published["n_heads"],
        kv_heads=published["n_kv_heads"],
        head_dim=published["head_dim"] or published["dim"] // published["n_heads"],
        hidden=published["ffn_hidden_size"],
        context_dim=published["context_dim"] if conditioned else 0,
        additive_positions=conditioned,
        theta=float(published["rope_theta"]),
        yarn_shape=(3, 40) if "yarn" in name else None,
    )
    model = WorldModel(config).eval()
    model.load_state_dict(_from_published(weights, config.layers))
    grid = torch.stack(torch.meshgrid(torch.arange(5), torch.arange(4), torch.arange(6), indexing="ij"), -1).view(-1, 3)
    positions = (torch.cat((torch.full((1, 3), -1), grid)) if conditioned else grid)[None].expand(2, -1, -1)
    ids, context = tensors["tokens"].long(), {}
    if conditioned:
        context = {"context": tensors["context"], "context_mask": tensors["context_mask_ones"].bool().view(2, -1)}
    with torch.no_grad():
        torch.testing.assert_close(model(ids, positions, **context), tensors["logits_full_prefill"], atol=1e-4, rtol=0)
        cache, start = model.new_cache(2, 128), about["prefill_len"]
        model(ids[:, :start], positions[:, :start], cache=cache, **context)
        steps = [model(ids[:, i : i + 1], positions[:, i : i + 1], cache=cache, **context) for i in range(start, start + 8)]
        torch.testing.assert_close(torch.cat(steps, 1), tensors["logits_decode_steps"], atol=1e-4, rtol=0)
        torch.testing.assert_close(cache.k[0, :, :, : start + 8], tensors["kv_cache_k_layer0"], atol=1e-4, rtol=0)
        if conditioned:
            ragged = model(ids, positions, context=tensors["context"], context_mask=tensors["context_mask_ragged"].bool().view(2, -1))
            torch.testing.assert_close(ragged, tensors["logits_full_prefill_ragged_mask"], atol=1e-4, rtol=0)


def test_half_precision_keeps_exact_angles():
    model, ids_positions = make(), inputs()
    exact = model.frequencies.clone()
    with torch.no_grad():
        whole = model(*ids_positions)
        half = model.bfloat16()(*ids_positions)
    assert torch.equal(model.frequencies, exact)
    assert half.dtype == torch.float32 and (half - whole).abs().max() < 0.1 * whole.std()
