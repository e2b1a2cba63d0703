"""How the weights of a world model begin: tokens that are alike have embeddings and rows of the head that are alike."""

import math

import torch
import torch.nn.functional as F

from wfm_ar.world_model import Sequence, WorldModel

DIGIT_SCALE = 0.3  # length of a digit's direction in embeddings and head as training begins
VALUE_WAVES = (1, 2, 3, 4)  # of an action's value, in half turns over its range
PASSED_ON = 4.0  # weight of a unit that passes a number on: silu is nearly straight there


@torch.no_grad()
def begin_with_digits(model: WorldModel, sequence: Sequence) -> None:
    """Video tokens that share FSQ digits begin with embeddings and rows of the head that are alike.

    What is learnt of a digit then serves all tokens that have it, however rare: copying what stands still is learnt in a tenth of
    the steps that a head of zeros takes. With a lookahead some units of the hints' network pass its digits on, so that the first
    guess is the predicted frame's token.
    """
    levels = sequence.config.levels
    if not levels or sum(levels) > model.config.dim:
        return
    ids = torch.arange(sequence.config.video_vocab)
    bases = [math.prod(levels[:i]) for i in range(len(levels))]
    digits = [F.one_hot(ids // base % level, level).float() for base, level in zip(bases, levels, strict=True)]
    digits_VE = torch.cat(digits, 1)
    digits_VE = digits_VE - digits_VE.mean(0)
    for weight_VD in (model.embedding.weight, model.head.weight):
        directions_DE, _ = torch.linalg.qr(torch.randn(model.config.dim, digits_VE.shape[1]))
        weight_VD[: len(ids)] = DIGIT_SCALE * digits_VE @ directions_DE.T
    if (hints := model.hints) is None:
        return
    for unit, column in enumerate(sequence.told_digits[: model.config.hint_hidden]):
        hints.up.weight[unit] = 0
        hints.up.weight[unit, column] = PASSED_ON
        hints.up.bias[unit] = 0
        hints.down.weight[:, unit] = directions_DE[:, unit]  # of the head, which comes last


@torch.no_grad()
def begin_with_values(model: WorldModel, sequence: Sequence) -> None:
    """Bins of an action begin with embeddings and rows of the head that are alike where their values are near: what is learnt of one of
    them serves its neighbours."""
    if not sequence.predicts_actions:
        return
    for channel in range(len(sequence.channels)):
        start, stop = sequence.action_range(channel)
        value_V = torch.linspace(-1, 1, stop - start)
        waves = [wave(math.pi / 2 * octave * value_V) for octave in VALUE_WAVES for wave in (torch.sin, torch.cos)]
        basis_VK = torch.stack([value_V, *waves], 1)
        basis_VK = basis_VK - basis_VK.mean(0)
        for weight_VD in (model.embedding.weight, model.head.weight):
            directions_KD = torch.randn(basis_VK.shape[1], model.config.dim) * model.config.dim**-0.5
            weight_VD[start:stop] = DIGIT_SCALE * basis_VK @ directions_KD
