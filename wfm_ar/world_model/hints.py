"""Hints: what is known of each *next* token before it is predicted, as numbers that the model is given beside the token before.

They are its place in the latent (or the action slot), the codes around that place in the latent before, or in the last
`hint_latents`, the actions that lead to it, and their sum since the row's first latent. Copying what stands still, and moving what
an action moves, then needs no attention; and codes that are alike have hints that are alike, however rare they are. The sum does
not drift as a picture drawn after a drawn picture does.
"""

import math

import torch
import torch.nn.functional as F

from wfm_ar.world_model.sequence_config import SequenceConfig

NOT_TOLD = -128  # of a lookahead that was not asked
TOLD_SCALE = 100  # of what a lookahead tells, which is kept in 8 bits
REACH = 2  # places to each side of a hint's neighbourhood: 5 x 5 codes of the previous latent
WAVES = (2, 4, 8, 16, 32, 64)  # periods of the sines of a sum of actions, in steps at full deflection


class HintLayout:
    """The columns of the hints of one SequenceConfig, and the numbers in them."""

    def __init__(self, config: SequenceConfig):
        self.config = c = config
        self.latent_size = c.grid_h * c.grid_w
        # Columns: the slot, one-hot (0 = nothing known, then latent places, then action slots); a neighbourhood of
        # codes, each `known, c_1 .. c_n, c_1^2 .. c_n^2`; the actions, `known`, then the values, then their squares; and with
        # action_sums `known`, then of each channel the sum and its sines and cosines; last what a lookahead tells: `known`, how near
        # each level of each digit is, and the numbers of the 3 x 3 places around.
        every_action = c.rate * len(c.action_bins)  # of all robots: each has columns of its own
        self.slots = 1 + self.latent_size + every_action
        self._codes = _code_table(c.video_vocab if c.hints else 0, c.levels)
        self._around = (2 * REACH + 1) ** 2 * self._codes.shape[1]
        self._acts = self.slots + c.hint_latents * self._around
        sums = 1 + (1 + 2 * len(WAVES)) * len(c.action_bins) if c.action_sums else 0
        self._ahead = self._acts + (1 + 2 * every_action + sums if every_action else 0)
        ahead = 1 + sum(c.levels) + 9 * self.told_ahead if c.lookahead else 0
        self.width = self._ahead + ahead if c.hints else 0
        self.none = F.one_hot(torch.tensor(0), self.width).float() if c.hints else torch.zeros(0)

    @property
    def told_ahead(self) -> int:
        """Numbers that a lookahead tells of each place, 0 without one."""
        return len(self.config.levels) + 1 if self.config.lookahead else 0

    @property
    def told_digits(self) -> range:
        """The columns of a hint that tell how near each level of each digit is, in the order of the levels; none without a lookahead."""
        return range(self._ahead + 1, self._ahead + 1 + sum(self.config.levels)) if self.config.lookahead else range(0)

    def of(
        self,
        tokens_Bthw: torch.Tensor,
        bins_BtrA: torch.Tensor,
        video_BK: torch.Tensor,
        slots_BK: torch.Tensor,
        ahead_BthwK: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 [B, K, F] of chosen tokens of rows of the tokens [B, t, h, w] and the bins [B, t - 1, r, A]; made where these are.

        video_BK: int64, latent * h * w + place of a video token, -1 where it is none; slots_BK: the action slot of an action
        token, 0 where nothing is known, -1 where it is a video token or padding.
        ahead_BthwK: int8 [B, t, h, w, K], what a lookahead tells of each latent, NOT_TOLD where it tells nothing; None = nowhere.
        """
        c, t, device = self.config, tokens_Bthw.shape[1], tokens_Bthw.device
        hints = torch.zeros(*video_BK.shape, self.width, device=device)
        if not c.hints:
            return hints
        row, column = torch.where(slots_BK >= 0)
        hints[row, column, slots_BK[row, column]] = 1
        row, column = torch.where(video_BK >= 0)
        at = video_BK[row, column]
        latent, place = at // self.latent_size, at % self.latent_size
        described = torch.zeros(len(at), self.width, device=device)
        described[torch.arange(len(at), device=device), 1 + place] = 1
        padded_BtP = F.pad(tokens_Bthw, (REACH,) * 4, value=c.video_vocab).flatten(2)
        width, side = c.grid_w + 2 * REACH, torch.arange(2 * REACH + 1, device=device)
        around = (side[:, None] * width + side).flatten()
        corner = (place // c.grid_w) * width + place % c.grid_w
        table = self._codes.to(device)
        for i in range(c.hint_latents):
            there = latent > i
            ids = padded_BtP[row[there, None], latent[there, None] - 1 - i, corner[there, None] + around]
            start = self.slots + i * self._around
            described[there, start : start + self._around] = F.embedding(ids, table).flatten(1)
        if c.action_bins and t > 1:
            later = latent > 0
            described[later, self._acts : self._ahead] = self._of_actions(bins_BtrA)[row[later], latent[later] - 1]
        if c.lookahead and ahead_BthwK is not None:
            described[:, self._ahead :] = self._of_ahead(ahead_BthwK, row, latent, place)
        hints[row, column] = described
        return hints

    def codes(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 tokens [...] -> float32 codes [..., n] in [-1, 1]."""
        return self._codes[:, 1 : 1 + len(self.config.levels)].to(tokens.device)[tokens]

    def _of_ahead(self, ahead_BthwK: torch.Tensor, row: torch.Tensor, latent: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """float32 [n, columns] of the n places (row, latent, place): what hints say of a lookahead."""
        width, side = self.config.grid_w + 2, torch.arange(3, device=ahead_BthwK.device)
        padded_BtPK = F.pad(ahead_BthwK, (0, 0, 1, 1, 1, 1), value=0).flatten(2, 3)
        corner = (place // self.config.grid_w) * width + place % self.config.grid_w
        around_n9K = padded_BtPK[row[:, None], latent[:, None], corner[:, None] + (side[:, None] * width + side).flatten()]
        known_n1 = around_n9K[:, 4, :1] != NOT_TOLD
        around_n9K = around_n9K.float() / TOLD_SCALE
        parts = [torch.ones_like(known_n1, dtype=torch.float32)]
        for digit, levels in enumerate(self.config.levels):
            at_n1 = around_n9K[:, 4, digit, None] * (levels - 1)
            parts.append((1 - (at_n1 - torch.arange(levels, device=at_n1.device)).abs()).clamp_min(0))
        return torch.cat((*parts, around_n9K.flatten(1)), 1) * known_n1

    def _of_actions(self, bins_BtrA: torch.Tensor) -> torch.Tensor:
        """float32 [B, t, columns]: what hints say of the actions that lead to each of t latents; bins below 0 are not there."""
        top_A = torch.tensor(self.config.action_bins, device=bins_BtrA.device).sub(1).clamp_min(1)
        there_BtrA = bins_BtrA >= 0
        values_BtrA = torch.where(there_BtrA, 2 * bins_BtrA / top_A - 1, 0.0)
        known_Bt1 = there_BtrA.flatten(2).any(2, keepdim=True).float()
        parts = [known_Bt1, values_BtrA.flatten(2), values_BtrA.flatten(2).square()]
        if self.config.action_sums:
            known_Bt1 = known_Bt1.cumprod(1)  # a latent whose actions are not known may have moved anything
            sums_BtA1 = values_BtrA.sum(2).cumsum(1)[..., None]
            angles_BtAw = sums_BtA1 * (2 * math.pi / torch.tensor(WAVES, device=bins_BtrA.device))
            of_each_BtAf = torch.cat((sums_BtA1 / self.config.rate, angles_BtAw.sin(), angles_BtAw.cos()), -1)
            of_each_BtAf = of_each_BtAf * (there_BtrA.any(2) * known_Bt1)[..., None]
            parts += [known_Bt1, of_each_BtAf.flatten(2)]
        return torch.cat(parts, 2)


def _code_table(vocab: int, levels: tuple[int, ...]) -> torch.Tensor:
    """float32 [vocab + 1, 1 + 2 * len(levels)]: `1, codes in [-1, 1], their squares` of each id; the last row, "no token", is 0."""
    ids = torch.arange(vocab)[:, None]
    basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))], dtype=torch.int64)
    sizes = torch.tensor(levels, dtype=torch.int64)
    codes = (ids // basis % sizes).float() * 2 / (sizes - 1) - 1 if levels else torch.zeros(vocab, 0)
    table = torch.cat((torch.ones(vocab, 1), codes, codes.square()), 1)
    return F.pad(table, (0, 0, 0, 1))
