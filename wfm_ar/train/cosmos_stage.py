"""Fine-tuning a converted Cosmos world on clips of one's own: its network, its order of tokens, and actions if the data have them.

Rows are `[BOV] latent_0 (actions_1) latent_1 ...`. Actions get ids behind the published ones: new rows of the input embedding,
trained whatever the method; the published rows never change. The loss is on video tokens behind the first latent, as published.
Text is a context: embeddings that T5 made of the episodes' texts, in one safetensors file by text; a text without one is zeros.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wfm_ar.data.shards import TokenStore
from wfm_ar.errors import BadConfig, BadData
from wfm_ar.rollout.cosmos_folder import save_cosmos_parts
from wfm_ar.rollout.world import World, WorldParts
from wfm_ar.schema import ActionSchema
from wfm_ar.tokenizers.action import ActionTokenizer
from wfm_ar.train.lora import add_lora, merge_lora
from wfm_ar.train.stage_protocol import Batch
from wfm_ar.world_model.sequence import Sequence, published_sequence
from wfm_ar.world_model.transformer import WorldModel, next_token_loss


@dataclass(frozen=True, kw_only=True)
class CosmosTraining:
    """How a published model is fine-tuned."""

    method: str = "lora"  # lora | last_layers | all
    lora_rank: int = 16
    lora_alpha: float = 16.0
    last_layers: int = 2  # with last_layers: how many are trained, and the norm and head behind them
    texts: Path | None = None  # safetensors: a tensor [tokens, width] a text; None = no texts
    z_loss: float = 1e-4
    val_clips: int = 16

    def __post_init__(self) -> None:
        if self.method not in ("lora", "last_layers", "all"):
            raise BadConfig(f"finetune.method: got {self.method!r}, expected lora, last_layers or all; fix: lora")
        if min(self.lora_rank, self.last_layers, self.val_clips) < 1 or self.lora_alpha <= 0:
            raise BadConfig("finetune: lora_rank, lora_alpha, last_layers, val_clips: expected above 0; fix: leave them out")


class CosmosStage:
    """Next-token cross-entropy on a published world model."""

    name = "world_model"
    judged_by = ("loss", -1)

    def __init__(self, world: World, training: CosmosTraining, train: TokenStore, val: TokenStore, schema: ActionSchema | None) -> None:
        """Raises BadData for a data set without clips of two latents or with another grid."""
        self.training, self.stores, self.parts, self.schema = training, {"train": train, "val": val}, world.parts, schema
        self.rate = world.rate
        bins = ActionTokenizer(schema).bins if schema else ()
        self.config = world.parts.world_model.config
        self.old_rows = self.config.vocab
        if world.action_schema is not None and schema is not None:
            world.check_schema(schema, "data set")
            self.old_rows -= sum(bins)  # the world has these actions already: go on with its rows
        else:
            self.config = replace(self.config, vocab=self.old_rows + sum(bins))
        self.clips = {name: np.flatnonzero(store.latents >= 2) for name, store in self.stores.items()}  # one latent predicts nothing
        for name, store in self.stores.items():
            if not len(self.clips[name]):
                raise BadData(f"{name} tokens: no clip of at least {1 + self.rate} frames, expected some; fix: longer clips")
            if short := len(store) - len(self.clips[name]):
                print(
                    f"{name} tokens: {short} of {len(store)} clips have fewer than {1 + self.rate} frames and are passed over", flush=True
                )
        self.sequence = Sequence(
            published_sequence(
                video_vocab=self.parts.sequence.video_vocab,
                vocab=self.config.vocab,
                bov=bool(self.config.context_dim),
                grid=train.grid,
                rate=self.rate,
                max_latents=self.parts.sequence.max_latents,
                action_bins=bins,
            )
        )
        if training.method == "last_layers" and training.last_layers > self.config.layers:
            got = f"finetune.last_layers: got {training.last_layers}, expected at most the {self.config.layers} of the model"
            raise BadConfig(f"{got}; fix: fewer, or method=all")
        self.texts = _read_texts(training.texts, self.parts)
        if training.texts is not None and not any(text in self.texts for text in train.texts if text):
            first = next(filter(None, train.texts), "")
            told = f"{training.texts}: got none of the texts of the data, expected a tensor for each, such as {first!r:.60}"
            raise BadData(f"{told}; fix: name the tensors by the episodes' texts")
        self.model = _trainable(world.parts.world_model, self.config, self.old_rows, training)

    def describe(self) -> dict:
        training = asdict(self.training) | {"texts": str(self.training.texts)}
        return {"model": asdict(self.config), "training": training, "schema": self.schema.to_json() if self.schema else None}

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """ids, positions [.., 3], targets, weights [B, L], and for a text model context [B, S, C]."""
        rng, store, rows = np.random.default_rng((seed, step)), self.stores["train"], []
        clips = []
        for _ in range(size):
            clips.append(int(rng.choice(self.clips["train"])))
            clip = store[clips[-1]]
            start = int(rng.integers(max(1, len(clip.video) - self.parts.sequence.max_latents + 1)))
            rows.append(self._row(clip, start))
        return _padded(rows) | {"clip": torch.tensor(clips)}

    def clip_ids(self, batch: Batch) -> list[str]:
        """The ids of the clips in a batch, each once."""
        return [self.stores["train"][i].id for i in dict.fromkeys(batch["clip"].tolist())]

    def loss(self, model: Any, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = model.features(batch["ids"], batch["positions"], context=batch.get("context"))
        loss, hits = next_token_loss(hidden, model.head, batch["targets"], batch["weights"], self.training.z_loss)
        kept = batch["weights"] > 0
        return loss, {"accuracy": hits[kept].float().mean(), "tokens": kept.sum()}

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Loss and accuracy over held-out clips from their beginnings."""
        store, losses, hits = self.stores["val"], [], []
        for i in self.clips["val"][: self.training.val_clips]:
            batch = {name: tensor.to(device) for name, tensor in _padded([self._row(store[i], 0)]).items()}
            loss, logs = self.loss(model, batch, torch.Generator(device))
            losses.append(float(loss))
            hits.append(float(logs["accuracy"]))
        return {"loss": float(np.mean(losses)), "accuracy": float(np.mean(hits))}, {}

    def _row(self, clip, start: int) -> Batch:
        """A clip from latent `start` on: ids, positions [.., 3], targets, weights, and for a text model its context."""
        latents = self.parts.sequence.max_latents
        video_thw = torch.from_numpy(clip.video[start : start + latents].astype(np.int64))
        bins_trA = None
        if self.schema is not None:
            bins_trA = torch.from_numpy(clip.bins[start : start + len(video_thw) - 1].astype(np.int64))[None]
        ids, positions, video, _ = (each[0] for each in self.sequence.pack_rows(video_thw[None], [None], bins_trA))
        weights = torch.zeros(len(ids))
        weights[video[self.sequence.latent_size :]] = 1
        row = {"ids": ids[:-1], "positions": positions[:-1], "targets": ids[1:] * (weights[1:] > 0), "weights": weights[1:]}
        if self.config.context_dim:
            row["context"] = self.texts.get(clip.text or "", self.texts[""])
        return row


def save_finetuned(out: str | Path, world: World, stage: CosmosStage, weights: dict[str, Tensor], *, overwrite: bool = False) -> Path:
    """The world with the trained network, updates merged, and its new actions. Raises OutputExists, NoSpace, BadCheckpoint."""
    model = stage.model
    model.load_state_dict(weights)
    merge_lora(model)
    schema = stage.schema or world.parts.action_schema
    assert schema is None or isinstance(schema, ActionSchema), "one robot: several are refused before"
    bins = ActionTokenizer(schema).bins if schema else ()
    order = world.parts.sequence.at(world.parts.video_tokenizer.config.grid)  # the run may have had a picture size of its own
    sequence = replace(order, vocab=stage.config.vocab, action_bins=tuple(bins))
    parts = replace(world.parts, world_model=model, sequence=sequence, action_schema=schema, release="")
    licence = "NVIDIA's weights are under the NVIDIA Open Model License; what holds for them holds for this copy."
    card = f"# Fine-tuned from {world.name}\n\n{licence}\n"
    return save_cosmos_parts(out, parts, card=card, overwrite=overwrite)


def _trainable(given: nn.Module, config, old_rows: int, training: CosmosTraining) -> WorldModel:
    """A copy of the network in float32 with room for the actions, of which the method's part and the new rows are trained."""
    model = WorldModel(config)
    state = {name: tensor.float() for name, tensor in given.state_dict().items()}
    old = state.pop("embedding.weight")
    fresh = torch.randn(config.vocab - len(old), config.dim) * old.std()
    model.load_state_dict(state | {"embedding.weight": torch.cat((old, fresh))})
    if training.method == "lora":
        add_lora(model, training.lora_rank, training.lora_alpha)
    elif training.method == "last_layers":
        model.requires_grad_(False)
        for part in [*list(model.blocks)[-training.last_layers :], model.norm, model.head]:
            part.requires_grad_(True)
    if training.method != "all" or config.vocab > old_rows:
        model.embedding.weight.requires_grad_(config.vocab > old_rows)

        def only_new(gradient: Tensor) -> Tensor:
            return torch.cat((torch.zeros_like(gradient[:old_rows]), gradient[old_rows:]))

        if config.vocab > old_rows:
            model.embedding.weight.register_hook(only_new)
    return model


def _read_texts(path: Path | None, parts: WorldParts) -> dict[str, Tensor]:
    """Contexts by text, zeros behind each; "" is no text."""
    tokens, width = parts.text_tokens, parts.world_model.config.context_dim
    texts = {"": torch.zeros(tokens, width)}
    if path is None:
        return texts
    if not width:
        raise BadConfig(f"finetune.texts: got {path}, expected none: this model takes no text (5B and 13B do); fix: leave it out")
    try:
        with safe_open(path, framework="pt") as file:
            for text in file.keys():
                one = file.get_tensor(text).float()
                if one.ndim != 2 or one.shape[1] != width or len(one) > tokens:
                    raise BadData(
                        f"{path}: {text[:40]!r} is {list(one.shape)}, expected [up to {tokens}, {width}]; fix: the output of the T5 encoder"
                    )
                texts[text] = torch.cat((one, one.new_zeros(tokens - len(one), width)))
    except (OSError, SafetensorError) as error:
        raise BadData(f"{path}: cannot be read ({error}), expected safetensors of T5 embeddings; fix: check the path") from None
    return texts


def _padded(rows: list[Batch]) -> Batch:
    return {name: nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]}
