"""Golden checks of whole networks: each is built from the published configuration in the JSON, filled through the name maps, and run."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from wfm_ar.cosmos.action_context import ActionContext, group_mask
from wfm_ar.cosmos.loading import Checkpoint, Entry, load_published
from wfm_ar.cosmos.names import names_of, stripped
from wfm_ar.cosmos.recognise import recognise
from wfm_ar.cosmos.shapes import YARN_SHAPE, Config
from wfm_ar.diffusion_decoder.dit import DiTConfig, dit_rotary
from wfm_ar.diffusion_decoder.dit_sampler import dit_sample
from wfm_ar.tokenizers.video.continuous import ContinuousTokenizerConfig
from wfm_ar.tokenizers.video.model import VideoTokenizerConfig
from wfm_ar.world_model.rotary import rotary_tables, sincos_positions
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

Tensors = dict[str, Tensor]
Found = Iterator[tuple[str, float, float]]  # name, largest error, tolerance
LOGITS, LATENTS, FRAMES, NET, SAMPLED = 1e-4, 2e-5, 1e-3, 1e-4, 1e-3


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; infinite for other shapes and for what is not finite."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    error = float((ours.double() - theirs.double()).abs().max())
    return error if error == error else float("inf")


def _load(config: Config, tensors: Tensors, dropped: str = "") -> tuple[Any, Config]:
    """The network filled with the file's `sd.` tensors, names beginning with `dropped` left out."""
    weights = {name.removeprefix("sd."): tensor for name, tensor in tensors.items() if name.startswith("sd.")}
    kept = {new: weights[old] for old, new in stripped(weights).items() if not (dropped and old.startswith(dropped))}
    entries = {name: Entry(shape=tuple(one.shape), dtype=one.dtype, read=lambda one=one: one) for name, one in kept.items()}
    checkpoint = Checkpoint(paths=(), format="golden", entries=entries)
    return load_published(config, checkpoint), recognise(checkpoint.shapes(), "golden file", 64, 64)


def _same(config: Config, recognised: Config) -> float:
    """0 where the configuration read off the tensors is the one the JSON says (picture sizes and levels aside), else 1."""
    aside = ("height", "width", "levels", "yarn_shape")
    one, other = ({key: value for key, value in vars(each).items() if key not in aside} for each in (config, recognised))
    return float(one != other or type(config) is not type(recognised))


def tokenizer(tensors: Tensors, about: dict[str, Any]) -> Found:
    """Discrete and continuous video tokenizers; the JIT archives' key lists."""
    theirs = about["config"]
    discrete = "levels" in theirs
    common: dict[str, Any] = dict(
        height=64,
        width=64,
        temporal_compression=theirs["temporal_compression"],
        spatial_compression=theirs["spatial_compression"],
        patch_time=theirs["patch_size"],
        patch_space=theirs["patch_size"],
        encoder_channels=theirs["channels"],
        decoder_channels=theirs["channels"],
        multipliers=tuple(theirs["channels_mult"]),
        encoder_blocks=theirs["num_res_blocks"],
        decoder_blocks=theirs["num_res_blocks"] + 1,
        z_channels=theirs["z_channels"],
        norm="frame",
        attention=True,
        factorised_ends=True,
        background=False,
        normalise=False,
    )
    if discrete:
        config = VideoTokenizerConfig(levels=tuple(theirs["levels"]), **common)
    else:
        config = ContinuousTokenizerConfig(latent_channels=theirs["latent_channels"], **common)
    network, recognised = _load(config, tensors)
    yield "configuration read off the tensors", _same(config, recognised), 0.0
    expected = {name for one in names_of(config) for name in one.published}
    for key, sides in (("encoder_jit_keys", ("encoder.", "quant_conv.")), ("decoder_jit_keys", ("decoder.", "post_quant_conv."))):
        if key in about:
            wanted = {name for name in expected if name.startswith(sides)}
            yield key, float(len(wanted ^ set(stripped(about[key]).values()))), 0.0
    if "state_dict_keys" in about:
        yield "state_dict_keys", float(len(expected ^ set(stripped(about["state_dict_keys"]).values()))), 0.0
    for clip in sorted(name.removesuffix(".video") for name in tensors if re.fullmatch(r"t\d+\.video", name)):
        video, recon = tensors[f"{clip}.video"], tensors[f"{clip}.recon"]
        latents = network.latents(video)
        if discrete:
            yield f"{clip} latents", difference(latents, tensors[f"{clip}.latent_prequant"]), LATENTS
            ids = network.encode(video)
            yield f"{clip} indices", difference(ids, tensors[f"{clip}.indices"]), 0.0
            yield f"{clip} codes", difference(network.codes(ids), tensors[f"{clip}.codes"]), 0.0
            yield f"{clip} reconstruction", difference(network.decode(tensors[f"{clip}.indices"].long()), recon), FRAMES
        else:
            yield f"{clip} latents", difference(latents, tensors[f"{clip}.latent"]), LATENTS
            yield f"{clip} reconstruction", difference(network.decode(tensors[f"{clip}.latent"]), recon), FRAMES
    if "decode_code.indices" in tensors:
        yield (
            "decode of any indices",
            difference(network.decode(tensors["decode_code.indices"].long()), tensors["decode_code.video"]),
            FRAMES,
        )


def world_model_config(theirs: dict[str, Any], vocab: int, out_vocab: int) -> WorldModelConfig:
    """Our configuration of a published model_config."""
    original = theirs.get("original_latent_shape")
    yarn = theirs["apply_yarn"]
    assert not yarn or (theirs["yarn_scale"], theirs["yarn_beta_fast"], theirs["yarn_beta_slow"]) == (2, 4, 1)
    return WorldModelConfig(
        vocab=vocab,
        out_vocab=out_vocab,
        layers=theirs["n_layers"],
        dim=theirs["dim"],
        heads=theirs["n_heads"],
        kv_heads=theirs["n_kv_heads"],
        head_dim=theirs["head_dim"] or theirs["dim"] // theirs["n_heads"],
        hidden=theirs["ffn_hidden_size"],
        context_dim=theirs["context_dim"] if theirs["insert_cross_attn"] else 0,
        additive_positions=theirs["apply_abs_pos_emb"],
        theta=float(theirs["rope_theta"]),
        yarn_shape=(original[0], original[1]) if yarn and original else YARN_SHAPE if yarn else None,
    )


def _positions(theirs: dict[str, Any], length: int, begins: bool) -> Tensor:
    """[length, 3]: raster order, -1 for BOV and for padding behind the clip."""
    t, h, w = theirs["video_latent_shape"]
    token = torch.arange(length) - int(begins)
    positions = torch.stack((token // (h * w), token // w % h, token % w), -1)
    positions[(token < 0) | (token >= t * h * w)] = -1
    return positions


def world_model(tensors: Tensors, about: dict[str, Any]) -> Found:
    """Logits of a whole row, of a prefill and cached steps; the cache; the greedy continuation; the positional tables."""
    theirs = about["model_config"]
    config = world_model_config(theirs, len(tensors["sd.tok_embeddings.weight"]), len(tensors["sd.output.weight"]))
    model, recognised = _load(config, tensors)
    yield "configuration read off the tensors", _same(config, recognised), 0.0
    ids, start = tensors["tokens"].long(), about["prefill_len"]
    rows, length = ids.shape
    begins = about["tokenizer"]["training_type"] == "text_to_video"
    table = _positions(theirs, tensors["rope_cos"].shape[1], begins)
    cos, sin = rotary_tables(table[None], model.frequencies, torch.float32)
    sin[..., : sin.shape[-1] // 2] *= -1
    yield "rotary cos", difference(cos, tensors["rope_cos"]), 1e-5
    yield "rotary sin", difference(sin, tensors["rope_sin"]), 1e-5
    if "abs_pos_emb_bf16" in tensors:
        yield "added positions", difference(sincos_positions(table[None], config.dim).bfloat16(), tensors["abs_pos_emb_bf16"]), 1e-5
    positions = table[None, :length].expand(rows, -1, -1)
    context = {}
    if config.context_dim:
        context = {"context": tensors["context"], "context_mask": tensors["context_mask_ones"].bool().view(rows, -1)}
    yield "logits of the whole row", difference(model(ids, positions, **context), tensors["logits_full_prefill"]), LOGITS
    cache = model.new_cache(rows, length + 1)
    prefill = model(ids[:, :start], positions[:, :start], cache=cache, **context)
    yield "logits of the prefill", difference(prefill, tensors["logits_prefill_P"]), LOGITS
    steps = tensors["logits_decode_steps"].shape[1]
    decoded = [model(ids[:, i : i + 1], positions[:, i : i + 1], cache=cache, **context) for i in range(start, start + steps)]
    yield "logits of cached steps", difference(torch.cat(decoded, 1), tensors["logits_decode_steps"]), LOGITS
    yield "cache, keys", difference(cache.k[0, :, :, : start + steps], tensors["kv_cache_k_layer0"]), LOGITS
    yield "cache, values", difference(cache.v[0, :, :, : start + steps], tensors["kv_cache_v_layer0"]), LOGITS
    if "logits_full_prefill_ragged_mask" in tensors:
        ragged = model(ids, positions, context=tensors["context"], context_mask=tensors["context_mask_ragged"].bool().view(rows, -1))
        yield "logits with a ragged context mask", difference(ragged, tensors["logits_full_prefill_ragged_mask"]), LOGITS
    greedy = tensors["generate_greedy_tokens"].long()
    first = {name: tensor[:1] for name, tensor in context.items()}
    yield "greedy continuation", difference(_greedy(model, greedy[:, :start], table, greedy.shape[1], first), greedy), 0.0


def _greedy(model: WorldModel, ids: Tensor, table: Tensor, length: int, context: dict[str, Tensor]) -> Tensor:
    cache = model.new_cache(1, length)
    logits = model(ids, table[None, : ids.shape[1]], cache=cache, **context)
    while ids.shape[1] < length:
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), 1)
        place = ids.shape[1] - 1
        logits = model(ids[:, -1:], table[None, place : place + 1], cache=cache, **context)
    return ids


def action_conditioned(tensors: Tensors, about: dict[str, Any]) -> Found:
    """The training tree's action token in the context, repeated or behind a text, and its group masks."""
    theirs = about["model_config"]
    config = world_model_config(theirs, len(tensors["sd.tok_embeddings.weight"]), len(tensors["sd.output.weight"]))
    model, _ = _load(config, tensors, dropped="action_embedding_layers.")
    hidden, action_dim = tensors["sd.action_embedding_layers.0.weight"].shape
    embed = ActionContext(action_dim, hidden, config.context_dim).bfloat16()
    for leaf, parameter in embed.layers.named_parameters():
        parameter.copy_(tensors[f"sd.action_embedding_layers.{leaf}"])
    ids, action = tensors["tokens"].long(), tensors["action"]
    rows, length = ids.shape
    positions = _positions(theirs, length, begins=False)[None].expand(rows, -1, -1)
    context = embed(action)
    yield "action context", difference(context, tensors["action_context"]), 1e-2
    context = context.float()
    yield "logits", difference(model(ids, positions, context=context), tensors["logits_train_forward_action"]), LOGITS
    one = {"ids_BL": ids[:1], "positions_BL3": positions[:1]}
    text = tensors["concat_context_B1"].shape[1] - 1
    joined = torch.cat((torch.zeros(1, text, config.context_dim), embed.token(action[:1]).float()), 1)
    yield "context behind a text", difference(joined, tensors["concat_context_B1"].float()), 1e-2
    yield "logits behind a text", difference(model(**one, context=joined), tensors["logits_concat_action_B1"]), LOGITS
    for mode, key in (("causal", "group_causal"), ("diagonal", "group_group_diagonal")):
        mask = tensors[f"{key}_mask"].bool()
        yield f"{mode} group mask", difference(group_mask(mode, length, mask.shape[-1])[None], mask), 0.0
        logits = model(**one, context=context[:1], context_mask=mask)
        yield f"logits with the {mode} group mask", difference(logits, tensors[f"{key}_B1"]), LOGITS


def diffusion_decoder(tensors: Tensors, about: dict[str, Any]) -> Found:
    """One network call, the token path, rows of a batch, and guided trajectories."""
    theirs = about["tiny_net_config"] if "tiny_net_config" in about else about["release_net_config"]
    config = DiTConfig(
        latent_channels=theirs["in_channels"],
        token_vocab=theirs["diffusion_decoder_token_condition_voc_size"],
        token_dim=theirs["diffusion_decoder_token_condition_dim"],
        layers=theirs["num_blocks"],
        dim=theirs["model_channels"],
        heads=theirs["num_heads"],
        hidden=int(theirs["model_channels"] * theirs["mlp_ratio"]),
        context_dim=theirs["crossattn_emb_channels"],
        modulation_rank=theirs["adaln_lora_dim"],
        patch=theirs["patch_spatial"],
        padding_mask=theirs["concat_padding_mask"],
        space_stretch=theirs["rope_h_extrapolation_ratio"],
        time_stretch=theirs["rope_t_extrapolation_ratio"],
        sigma_data=about["sigma_data"],
    )
    dit, recognised = _load(config, tensors)
    yield "configuration read off the tensors", _same(config, recognised), 0.0
    x, tokens, context = tensors["x"], tensors["tokens"][:, 0], tensors["crossattn_emb"]
    h, w = x.shape[3:]
    condition = dit.condition(tokens, h, w)
    yield "tokens", difference(condition, tensors["token_cond_BDTHW"]), NET
    angles = dit_rotary(config, x.shape[2], h // config.patch, w // config.patch, float(tensors["fps"]))
    yield "rotary angles", difference(torch.cat((angles, angles), -1), tensors["act.rope_angles_L11D"][:, 0, 0]), 1e-5
    plain = dit(x, tensors["net.timesteps"], condition, context, fps=float(tensors["fps"]), padding_BHW=tensors["padding_mask"][:, 0])
    yield "network", difference(plain, tensors["net.out"]), NET
    for case, (noise, fps, mask) in enumerate(((-1.2, 24.0, "padding_mask"), (0.9, 30.0, "padding_mask"), (0.37, 24.0, "padding_mask2"))):
        answer = dit(x, torch.tensor([noise]), condition, context, fps=fps, padding_BHW=tensors[mask][:, 0])
        yield f"network, case {case}", difference(answer, tensors[f"net.case{case}.out"]), NET
    two = tensors["b2.x"]
    answer = dit(two, tensors["b2.timesteps"], dit.condition(tensors["b2.tokens"][:, 0], *two.shape[3:]), tensors["b2.crossattn_emb"])
    yield "network, two rows", difference(answer, tensors["b2.out"]), NET
    for run in sorted({name.split(".unit_noise")[0] for name in tensors if name.endswith(".unit_noise")}):
        found = re.fullmatch(r"sampler\.s(\d+)g([\d.]+)", run)
        assert found is not None, run
        steps, guidance = found.groups()
        trace: list[Tensors] = []
        final = dit_sample(dit, tokens, context, tensors[f"{run}.unit_noise"], steps=int(steps), guidance=float(guidance), trace=trace)
        for step, made in enumerate(trace):
            for part in ("x_in", "net_guided", "x0_pred", "x_out"):
                if (golden := tensors.get(f"{run}.step{step}.{part}")) is not None:
                    yield f"{run} step {step} {part}", difference(made[part], golden), SAMPLED
        yield f"{run} final", difference(final, tensors[f"{run}.final"]), SAMPLED
