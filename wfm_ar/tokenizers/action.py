"""Action values to tokens and back: one token a channel a step.

Each channel has a lattice of values from low to high, both included; a value goes to the nearest lattice point and a token
decodes to exactly that point. Wherever the range spans zero, zero is a lattice point, so that "no motion" costs no drift:
a symmetric range gives up its last token when `bins` is even, any other range uses a slightly different step on either side
of zero. Discrete channels have one point a whole number.

"bins" below count from 0 in every channel; `offsets` turns them into ids of one action vocabulary: id = offset_c + bin.
"""

import numpy as np
import torch

from wfm_ar.errors import BadActions, BadData
from wfm_ar.schema import ActionChannel, ActionSchema


class ActionTokenizer:
    """Tokens of the channels of `schema`. Values are numpy arrays [N, A] in the schema's units, tokens torch int64 [N, A]."""

    def __init__(self, schema: ActionSchema) -> None:
        """Raises BadData when a channel's points cannot be told apart in float32, or a discrete range is not whole."""
        self.schema = schema
        self.points = tuple(_lattice(channel) for channel in schema.channels)  # float64 [bins_c] each, rising
        self._borders = tuple((points[1:] + points[:-1]) / 2 for points in self.points)
        # a limit stored as float32 may lie a rounding outside the float64 one: that is not clipping
        self._lows = np.array([min(points[0], np.float32(points[0])) for points in self.points])
        self._highs = np.array([max(points[-1], np.float32(points[-1])) for points in self.points])
        for channel, points in zip(schema.channels, self.points, strict=True):
            if not (np.diff(points.astype(np.float32)) > 0).all():
                raise BadData(
                    f"action channel {channel.name!r}: {len(points)} values from {channel.low} to {channel.high} fall together in "
                    "float32, expected distinct ones; fix: fewer bins, or shift the range towards zero"
                )

    @property
    def bins(self) -> tuple[int, ...]:
        """Tokens of each channel: `bins` of the schema or one less (see above), high - low + 1 where discrete."""
        return tuple(len(points) for points in self.points)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First id of each channel in the action vocabulary."""
        return tuple(int(n) for n in np.cumsum((0,) + self.bins[:-1]))

    @property
    def vocab_size(self) -> int:
        return sum(self.bins)

    def encode(self, actions: np.ndarray, where: str = "actions") -> tuple[torch.Tensor, int]:
        """Values [N, A] -> (bins int64 [N, A], how many values were clipped to their range).

        Raises BadActions for the wrong width, NaN or infinity; `where` names the source in the message.
        """
        actions = np.asarray(actions)
        self.schema.validate(actions, where)
        actions = actions.astype(np.float64)
        columns = [np.searchsorted(borders, actions[:, c]) for c, borders in enumerate(self._borders)]
        clipped = (actions < self._lows) | (actions > self._highs)
        return torch.from_numpy(np.stack(columns, axis=1).astype(np.int64)), int(clipped.sum())

    def decode(self, bins_NA: torch.Tensor) -> np.ndarray:
        """bins int64 [N, A] -> values float32 [N, A]. Raises BadActions for a bin the channel does not have."""
        bins = np.asarray(bins_NA)
        if bins.ndim != 2 or bins.shape[1] != self.schema.width:
            raise BadActions(f"action tokens: got shape {list(bins.shape)}, expected [N, {self.schema.width}]; fix: one column a channel")
        for c, points in enumerate(self.points):
            if bins.shape[0] and not (0 <= bins[:, c].min() and bins[:, c].max() < len(points)):
                raise BadActions(
                    f"action tokens, channel {self.schema.channels[c].name!r}: got {bins[:, c].min()} to {bins[:, c].max()}, "
                    f"expected 0 to {len(points) - 1}; fix: take them from encode"
                )
        columns = [points[bins[:, c]] for c, points in enumerate(self.points)]
        return np.stack(columns, axis=1).astype(np.float32)


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
