"""The actions of the robot that acts in a world: values to action ids and back, under the schema the world was trained with."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from wfm_ar.errors import BadActions, BadConfig, BadData
from wfm_ar.schema import ActionSchema, MixedSchema, Schema
from wfm_ar.tokenizers.action import ActionTokenizer, ActionVocabulary


class ActionCodec:
    """Checks, encodes and decodes the actions of one robot; `schema` and `tokenizer` are None where none acts."""

    def __init__(self, schema: Schema | None, rate: int, embodiment: str | None = None):
        """schema: of the world, maybe of several robots, of which `embodiment` names one. rate: actions a latent.

        Raises BadConfig for a robot that is not there, BadData for a schema that makes no tokens.
        """
        self.world_schema, self.embodiment, self.rate = schema, embodiment, rate
        self.schema: ActionSchema | None = None
        self.tokenizer: ActionTokenizer | None = None
        self.columns: range | None = None  # of the action vocabulary; None = all
        if isinstance(schema, MixedSchema):
            self.columns = range(0)
            if embodiment is not None:
                self._act_as(schema, embodiment)
            return
        if embodiment is not None:
            raise BadConfig(f"embodiment: got {embodiment!r}, expected none: this world has at most one robot; fix: leave it out")
        if schema is not None:
            self.schema, self.tokenizer = schema, ActionTokenizer(schema)

    def _act_as(self, schema: MixedSchema, embodiment: str) -> None:
        try:
            vocabulary = ActionVocabulary(schema)
            self.schema, self.tokenizer = schema.of(embodiment), vocabulary.tokenizer(embodiment)
            self.columns = vocabulary.columns(embodiment)
        except BadData as error:
            raise BadConfig(str(error)) from None

    def check_schema(self, schema: Schema, where: str = "actions") -> None:
        """Raises BadActions, with the difference, unless `schema` (of a data set, say) is the world's own."""
        if isinstance(schema, MixedSchema) and self.embodiment in schema.names:
            schema = schema.of(self.embodiment)
        if isinstance(schema, MixedSchema) and self.world_schema == schema:
            return
        if self.schema is None:
            raise self._refusal(where)
        if difference := self.schema.diff(schema):
            raise BadActions(f"{where}: the schema differs from the world's ({difference}); fix: convert the actions, or train on them")

    def encode(self, actions: np.ndarray, where: str = "actions") -> tuple[Tensor, int]:
        """Values [N, A] -> (int64 ids [N, A], counted from 0 in each channel; how many values were clipped). Raises BadActions."""
        if self.tokenizer is None:
            raise self._refusal(where)
        return self.tokenizer.encode(actions, where)

    def encode_clip(self, actions: np.ndarray, num_frames: int) -> Tensor | None:
        """The actions of a clip, values [N, A] with N >= num_frames - 1 -> int64 ids [n, r, A] of its n later latents, None for a
        clip of one frame. Raises BadActions."""
        needed, ids_NA = num_frames - 1, self.encode(actions)[0]
        if len(ids_NA) < needed:
            raise BadActions(
                f"actions: got {len(ids_NA)}, expected at least {needed} for {num_frames} frames; "
                f"fix: more actions, or num_frames={1 + self.rate * (len(ids_NA) // self.rate)}"
            )
        return ids_NA[:needed].unflatten(0, (-1, self.rate)) if needed else None

    def encode_step(self, actions: np.ndarray, first: bool) -> Tensor | None:
        """The actions that lead to one latent, values [r, A] -> int64 ids [r, A]; None for a first latent, which none leads to.

        Raises BadActions.
        """
        ids_NA, _ = self.encode(actions)
        if len(ids_NA) != (0 if first else self.rate):
            expected = "none before the first frame" if first else f"{self.rate}, one a frame of the next latent"
            raise BadActions(f"actions: got {len(ids_NA)}, expected {expected}; fix: give that many rows a step")
        return None if first else ids_NA

    def decode(self, ids: Sequence[Tensor | None]) -> np.ndarray | None:
        """int64 ids [r, A] that led to each latent, None where none did -> values float32 [T - 1, A], NaN where there were none; None
        if there were none at all."""
        if all(each is None for each in ids):
            return None
        assert self.schema is not None and self.tokenizer is not None, "ids come of a world with actions"
        unknown = np.full((self.rate, self.schema.width), np.nan, np.float32)
        return np.concatenate([unknown if each is None else self.tokenizer.decode(each) for each in ids[1:]])

    def _refusal(self, where: str) -> BadActions:
        if isinstance(self.world_schema, MixedSchema):
            robots = ", ".join(self.world_schema.names)
            return BadActions(f"{where}: got actions, expected embodiment= too, one of {robots}; fix: name the robot that acts")
        return BadActions(f"{where}: got actions, expected none: this world takes no actions; fix: leave them out, or train it with some")
