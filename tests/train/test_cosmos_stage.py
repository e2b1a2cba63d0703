"""Fine-tuning a converted Cosmos world on the training loop: what is trained learns, what is not stays as it was, bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wfm_ar.cli import main
from wfm_ar.cosmos.convert import convert
from wfm_ar.cosmos.synth import synthesise
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import BadActions, BadConfig, BadData
from wfm_ar.rollout.world import load_world
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.train.checkpoint import load_checkpoint
from wfm_ar.train.cosmos_stage import CosmosStage, CosmosTraining, save_finetuned
from wfm_ar.train.loop import train
from wfm_ar.train.lora import LoRALinear, add_lora, merge_lora
from wfm_ar.train.settings import LoopConfig, OptimizerConfig
from wfm_ar.train.tokens import tokenize

SCHEMA = ActionSchema(
    channels=(
        ActionChannel(name="dx", unit="m", low=-1.0, high=1.0, bins=5),
        ActionChannel(name="dy", unit="m", low=-1.0, high=1.0, bins=5),
    ),
    rate_hz=24.0,
)
LOOP = LoopConfig(
    steps=30, batch_size=2, log_every=10, val_every=30, checkpoint_every=30, num_workers=0, device="cpu", precision="fp32",
    optimizer=OptimizerConfig(lr=3e-2, warmup_steps=2, weight_decay=0.1, ema=0.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A 5b world, clips with actions and texts, the texts' embeddings."""
    folder = tmp_path_factory.mktemp("finetune")
    synthesise("5b", folder / "release")
    convert(folder / "release", folder / "world", dtype="float32", height=32, width=48)
    rng = np.random.default_rng(0)
    records = []
    for i in range(4):
        frames = np.repeat(np.repeat(rng.integers(0, 256, (17, 4, 6, 3), dtype=np.uint8), 8, 1), 8, 2)
        actions = rng.uniform(-1, 1, (16, 2)).astype(np.float32)
        split = "val" if i == 3 else "train"
        made = write_episode(folder / "set", id=f"e{i}", frames_THWC=frames, fps=24, split=split, text=f"text {i % 2}", actions=actions)
        records.append(made)
    write_episodes(folder / "set", records, SCHEMA)
    generator = torch.Generator().manual_seed(0)  # not the shared one, whose state depends on the tests before
    save_file({f"text {i}": torch.randn(5, 32, generator=generator) for i in range(2)}, folder / "texts.safetensors")
    return folder


def stage_of(place, folder, **training) -> CosmosStage:
    world = load_world(place / "world")
    sets = [open_episodes(place / "set", split) for split in ("train", "val")]
    stores = [tokenize(world.modules["video_tokenizer"], one, folder / str(i)) for i, one in enumerate(sets)]
    return CosmosStage(world, CosmosTraining(texts=place / "texts.safetensors", **training), *stores, SCHEMA)


@pytest.mark.parametrize("method", ["lora", "last_layers"])
def test_the_loss_falls_and_untouched_weights_stay_bit_for_bit(place, tmp_path, method):
    stage = stage_of(place, tmp_path / "tokens", method=method, lora_rank=4, last_layers=1)
    before = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}
    batch = stage.batch(0, 4, 0)
    first = float(stage.loss(stage.model, batch, torch.Generator())[0].detach())
    folder = train(stage, LOOP, tmp_path / "run")
    assert float(stage.loss(stage.model, batch, torch.Generator())[0].detach()) < first - 0.5
    after, rows = stage.model.state_dict(), stage.old_rows
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert torch.equal(before["embedding.weight"][:rows], after["embedding.weight"][:rows])
    assert not torch.equal(before["embedding.weight"][rows:], after["embedding.weight"][rows:])
    if method == "lora":
        assert changed == {"embedding.weight"} | {name for name in before if name.endswith((".up", ".down"))}
        assert "blocks.0.cross_attention.kv.up" in changed
    else:
        assert changed <= {name for name in before if name.startswith("blocks.1.")} | {"embedding.weight", "norm.weight", "head.weight"}
        assert "blocks.1.cross_attention.q.weight" in changed and "head.weight" in changed
    # the world that comes of it takes the actions, and follows them
    world = load_world(place / "world")
    tuned = load_world(save_finetuned(tmp_path / "tuned", world, stage, load_checkpoint(folder)[0]["ema"]))
    assert not tuned.action_schema.diff(SCHEMA)
    np.save(tmp_path / "text.npy", np.zeros((1, 32), np.float32))
    prompt = {"video": np.zeros((1, 32, 48, 3), np.uint8), "text": str(tmp_path / "text.npy"), "num_frames": 17, "refine": False}
    left, right = (  # a dozen tokens of one draw may well be the same after thirty steps of training
        [tuned.generate(actions=np.full((16, 2), value, np.float32), **prompt, seed=seed).tokens for seed in range(8)] for value in (-1, 1)
    )
    assert not np.array_equal(left, right)
    with pytest.raises(BadActions, match="at least 16"):
        tuned.generate(actions=np.zeros((8, 2), np.float32), **prompt)
    with pytest.raises(BadActions, match="expected none"):
        world.generate(actions=np.zeros((16, 2), np.float32), **prompt)


def test_new_rows_leave_the_published_model_as_it_was(place, tmp_path):
    stage = stage_of(place, tmp_path / "tokens", lora_rank=4)
    given = load_world(place / "world").modules["world_model"]
    ids, positions, context = torch.randint(64000, (1, 9)), torch.randint(4, (1, 9, 3)), torch.randn(1, 6, 32)
    with torch.no_grad():
        assert torch.equal(stage.model(ids, positions, context=context), given(ids, positions, context=context))
    row = stage.batch(0, 1, 0)
    n, actions = 2 * 3, 8 * 2
    assert row["ids"].shape == (1, 1 + 3 * n + 2 * actions - 1)
    assert int(row["ids"][0, 0]) == 64000 and (row["positions"][0, 0] == -1).all()
    assert int((row["weights"] > 0).sum()) == 2 * n and (row["targets"] < 64000).all()
    assert int(row["ids"].max()) < stage.config.vocab and int((row["ids"] >= stage.old_rows).sum()) == 2 * actions
    assert row["context"].shape == (1, 512, 32)


def test_lora_merges_into_what_it_computed():
    model = nn.Module()
    block = nn.Module()
    block.attention, block.cross_attention, block.ffn = nn.Module(), None, nn.Module()
    block.attention.qkv, block.attention.out = nn.Linear(8, 12, bias=False), nn.Linear(8, 8, bias=False)
    block.ffn.gate_up, block.ffn.down = nn.Linear(8, 6, bias=False), nn.Linear(3, 8, bias=False)
    model.blocks = nn.ModuleList([block])
    add_lora(model, 2, 4.0)
    layer, x = block.attention.qkv, torch.randn(5, 8)
    assert isinstance(layer, LoRALinear) and torch.equal(layer(x), layer.base(x))
    assert [name for name, p in model.named_parameters() if p.requires_grad and "base" in name] == []
    nn.init.normal_(layer.up)
    expected = layer(x)
    merge_lora(model)
    assert type(block.attention.qkv) is nn.Linear
    torch.testing.assert_close(block.attention.qkv(x), expected)


def test_on_the_command_line(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "stage=world_model", "experiment=smoke", f"init={place / 'world'}", f"data={place / 'set'}", "run=run", "steps=2"]
    assert main([*words, "batch_size=1", "finetune.lora_rank=2"]) == 0, capsys.readouterr().err
    assert load_world(tmp_path / "run/world").action_schema.width == 2
    assert main(["info", "run/world"]) == 0
    assert "takes actions: dx, dy" in capsys.readouterr().out
    assert main([*words[:1], "stage=video_tokenizer", *words[2:]]) == 2
    assert "stage=world_model" in capsys.readouterr().err


def test_the_seed_decides_everything(place, tmp_path, monkeypatch, capsys):
    """A run that is killed before its first checkpoint begins again with the same new rows and updates."""
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        "stage=world_model",
        "experiment=smoke",
        f"init={place / 'world'}",
        f"data={place / 'set'}",
        "steps=2",
        "num_workers=0",
    ]
    for run in ("one", "two"):
        torch.rand(3)  # whatever drew before
        assert main([*words, f"run={run}", "batch_size=1", "finetune.lora_rank=2"]) == 0, capsys.readouterr().err
    hashes = [json.loads((tmp_path / run / "world/world.json").read_text())["files"] for run in ("one", "two")]
    assert hashes[0] == hashes[1]


def test_clips_of_one_latent_are_passed_over(place, tmp_path, capsys):
    """They have nothing to predict: as rows they would count as a loss of 0 and an accuracy of NaN."""
    rng, records = np.random.default_rng(1), []
    for i, (frames, split) in enumerate([(5, "train"), (17, "train"), (5, "val"), (17, "val"), (1, "val")]):
        video = rng.integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)
        records.append(write_episode(tmp_path / "set", id=f"e{i}", frames_THWC=video, fps=24, split=split))
    write_episodes(tmp_path / "set", records, None)
    world = load_world(place / "world")
    stores = [tokenize(world.modules["video_tokenizer"], open_episodes(tmp_path / "set", one), tmp_path / one) for one in ("train", "val")]
    stage = CosmosStage(world, CosmosTraining(), *stores, None)
    assert "val tokens: 2 of 3 clips have fewer than 9 frames and are passed over" in capsys.readouterr().out
    assert {stage.clip_ids(stage.batch(step, 2, 0))[0] for step in range(8)} == {"e1"}
    numbers, _ = stage.validate(stage.model, torch.device("cpu"))
    with torch.no_grad():
        alone, _ = stage.loss(stage.model, {k: v[None] for k, v in stage._row(stores[1][1], 0).items()}, torch.Generator())
    assert numbers["loss"] == pytest.approx(float(alone)) and numbers["accuracy"] == numbers["accuracy"]


def test_models_that_attend_to_a_text_are_not_evaluated(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for verb in ("evaluate", "demo"):
        assert main([verb, f"world={place / 'world'}", f"data={place / 'set'}", "out=out"]) == 2
        assert "world 'world' attends to T5 embeddings of a text, expected one that does not" in capsys.readouterr().err


def test_settings_that_cannot_be(place, tmp_path):
    with pytest.raises(BadConfig, match="lora"):
        CosmosTraining(method="some")
    save_file({"text 0": torch.randn(5, 31)}, tmp_path / "texts.safetensors")
    with pytest.raises(BadData, match="31"):
        world = load_world(place / "world")
        store = tokenize(world.modules["video_tokenizer"], open_episodes(place / "set", "val"), tmp_path / "val")
        CosmosStage(world, CosmosTraining(texts=tmp_path / "texts.safetensors"), store, store, None)
    save_file({"another text": torch.randn(5, 32)}, tmp_path / "others.safetensors")
    with pytest.raises(BadData, match="none of the texts of the data.*'text 1'"):
        CosmosStage(world, CosmosTraining(texts=tmp_path / "others.safetensors"), store, store, None)
    with pytest.raises(BadConfig, match="got 3, expected at most the 2"):
        CosmosStage(world, CosmosTraining(method="last_layers", last_layers=3), store, store, None)
    world.parts.world_model.config = replace(world.parts.world_model.config, context_dim=0)
    with pytest.raises(BadConfig, match="takes no text"):
        CosmosStage(world, CosmosTraining(texts=tmp_path / "others.safetensors"), store, store, None)
