"""Action values to tokens and back: one token a step for each channel that is not constant.

Each channel has a lattice of values from low to high, both included; a value goes to the nearest lattice point and a token
decodes to exactly that point. Wherever the range spans zero, zero is a lattice point, so that "no motion" costs no drift:
a symmetric range gives up its last token when `bins` is even, any other range uses a slightly different step on either side
of zero. Discrete channels have one point a whole number.

"bins" below count from 0 in every channel; `offsets` turns them into ids of one action vocabulary: id = offset_c + bin.
In the vocabulary of several robots (ActionVocabulary) each has columns of its own, so that no id means two things.
"""

import numpy as np
import torch

from wfm_ar.errors import BadActions, BadData
from wfm_ar.schema import ActionChannel, ActionSchema, Schema


class ActionTokenizer:
    """Tokens of the channels of `schema`. Values are numpy arrays [N, A] in the schema's units, tokens torch int64 [N, C].

    C <= A: a constant channel has no column, and comes back as its one value.
    """

    def __init__(self, schema: ActionSchema) -> None:
        """Raises BadData when a channel's points cannot be told apart in float32, or a discrete range is not whole."""
        self.schema = schema
        self.varying = [i for i, channel in enumerate(schema.channels) if not channel.constant]
        self.points = tuple(_lattice(schema.channels[i]) for i in self.varying)  # float64 [bins_c] each, rising
        self._borders = tuple((points[1:] + points[:-1]) / 2 for points in self.points)
        # a limit stored as float32 may lie a rounding outside the float64 one: that is not clipping
        ends = [(channel.low, channel.high) for channel in schema.channels]
        for i, points in zip(self.varying, self.points, strict=True):
            ends[i] = (points[0], points[-1])
        self._lows = np.array([min(low, np.float32(low)) for low, _ in ends])
        self._highs = np.array([max(high, np.float32(high)) for _, high in ends])
        for i, points in zip(self.varying, self.points, strict=True):
            channel = schema.channels[i]
            if not (np.diff(points.astype(np.float32)) > 0).all():
                raise BadData(
                    f"action channel {channel.name!r}: {len(points)} values from {channel.low} to {channel.high} fall together in "
                    "float32, expected distinct ones; fix: fewer bins, or shift the range towards zero"
                )

    @property
    def bins(self) -> tuple[int, ...]:
        """Tokens of each column: `bins` of its channel or one less (see above), high - low + 1 where discrete."""
        return tuple(len(points) for points in self.points)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First id of each column in the action vocabulary."""
        return tuple(int(n) for n in np.cumsum((0,) + self.bins[:-1]))

    @property
    def vocab_size(self) -> int:
        return sum(self.bins)

    def encode(self, actions: np.ndarray, where: str = "actions") -> tuple[torch.Tensor, int]:
        """Values [N, A] -> (bins int64 [N, C], how many values were clipped to their range).

        Raises BadActions for the wrong width, NaN or infinity; `where` names the source in the message.
        """
        actions = np.asarray(actions)
        self.schema.validate(actions, where)
        actions = actions.astype(np.float64)
        bins = np.empty((len(actions), len(self.varying)), np.int64)
        for c, (i, borders) in enumerate(zip(self.varying, self._borders, strict=True)):
            bins[:, c] = np.searchsorted(borders, actions[:, i])
        clipped = (actions < self._lows) | (actions > self._highs)
        return torch.from_numpy(bins), int(clipped.sum())

    def decode(self, bins_NC: torch.Tensor) -> np.ndarray:
        """bins int64 [N, C] -> values float32 [N, A]. Raises BadActions for a bin the channel does not have."""
        bins = np.asarray(bins_NC)
        if bins.ndim != 2 or bins.shape[1] != len(self.varying):
            raise BadActions(f"action tokens: got shape {list(bins.shape)}, expected [N, {len(self.varying)}]; fix: one column a channel")
        values = np.tile(np.array([channel.low for channel in self.schema.channels], np.float32), (len(bins), 1))
        for c, (i, points) in enumerate(zip(self.varying, self.points, strict=True)):
            if len(bins) and not (0 <= bins[:, c].min() and bins[:, c].max() < len(points)):
                raise BadActions(
                    f"action tokens, channel {self.schema.channels[i].name!r}: got {bins[:, c].min()} to {bins[:, c].max()}, "
                    f"expected 0 to {len(points) - 1}; fix: take them from encode"
                )
            values[:, i] = points[bins[:, c]]
        return values


class ActionVocabulary:
    """One vocabulary for the actions of one robot, or of several: every robot has columns, and so ids, of its own.

    Bins are int64 [N, columns of all robots]; -1 stands in the columns of the others, and everywhere where there are no actions.
    """

    def __init__(self, schema: Schema) -> None:
        parts = [("", schema)] if isinstance(schema, ActionSchema) else list(schema.embodiments)
        self.schema, self.tokenizers = schema, {name: ActionTokenizer(part) for name, part in parts}
        self.bins = tuple(n for tokenizer in self.tokenizers.values() for n in tokenizer.bins)

    def columns(self, embodiment: str | None = None) -> range:
        """The columns of one robot; those of the only one whatever its name. Raises BadData for a name that is none of them."""
        wanted = self.tokenizer(embodiment)
        first = 0
        for tokenizer in self.tokenizers.values():
            if tokenizer is wanted:
                break
            first += len(tokenizer.bins)
        return range(first, first + len(wanted.bins))

    def tokenizer(self, embodiment: str | None = None) -> ActionTokenizer:
        """The tokenizer of one robot; the only one whatever its name. Raises BadData for a name that is none of them."""
        self.schema.of(embodiment)
        return self.tokenizers["" if isinstance(self.schema, ActionSchema) or embodiment is None else embodiment]

    def encode(self, actions: np.ndarray, embodiment: str | None = None, where: str = "actions") -> torch.Tensor:
        """Values [N, A] of one robot -> bins int64 [N, all columns]. Raises BadActions, BadData."""
        bins = self.absent(len(actions))
        columns = self.columns(embodiment)
        bins[:, columns.start : columns.stop] = self.tokenizer(embodiment).encode(actions, where)[0]
        return bins

    def absent(self, count: int) -> torch.Tensor:
        """The bins of `count` steps whose actions nobody knows: -1 everywhere."""
        return torch.full((count, len(self.bins)), -1, dtype=torch.int64)


def _lattice(channel: ActionChannel) -> np.ndarray:
    low, high, bins = channel.low, channel.high, channel.bins
    if channel.discrete:
        if not (low.is_integer() and high.is_integer()):
            raise BadData(
                f"action channel {channel.name!r}: low {low} and high {high} of a discrete channel, expected whole numbers; fix: round them"
            )
        return low + np.arange(round(high - low) + 1, dtype=np.float64)
    if bins == 2 or not low < 0 < high:
        return np.linspace(low, high, bins)
    if low == -high and bins % 2 == 0:
        bins -= 1
    zero = min(max(round((bins - 1) * -low / (high - low)), 1), bins - 2)
    return np.concatenate([np.linspace(low, 0.0, zero + 1)[:-1], np.linspace(0.0, high, bins - zero)])
