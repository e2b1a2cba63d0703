"""Which decoding step a model takes, and two of them side by side for classifier-free guidance."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from wfm_kernels.sample.reference import guided_BV

from wfm_ar.errors import Note
from wfm_ar.world_model.decode_step import DecodeStep, weights_of
from wfm_ar.world_model.forward_step import ForwardStep
from wfm_ar.world_model.kernel_step import KernelStep
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.row_product import half_products_here
from wfm_ar.world_model.transformer import Decoding, WorldModel

Step = DecodeStep | ForwardStep | KernelStep


class Steps(NamedTuple):
    """What makes the step of a cache."""

    prompt: Callable[[KVCache], Step]  # for all tokens of a prompt in one pass
    token: Callable[[KVCache], Step]  # for those behind it, few at a time


def steps_of(model: WorldModel) -> Steps:
    """On CUDA kernels and a captured graph; on a CPU the library, by way of DecodeStep where it can.

    Models without hints are the published ones, billions of parameters large. Their prompts, thousands of tokens long, go through the
    forward, which bounds the memory they take; and so do the tokens behind them, unless the model decodes in half precision: DecodeStep
    lays out a second copy of the weights.
    """
    forward, kernels = partial(ForwardStep, model), partial(KernelStep, model)
    cuda = model.head.weight.is_cuda
    if model.hints is None and (cuda or not decodes_in_half(model)):
        return Steps(forward, kernels if cuda else forward)
    if model.hints is None:
        return Steps(forward, partial(DecodeStep, model, weights=weights_of(model)))
    step = kernels if cuda else partial(DecodeStep, model, weights=weights_of(model))
    return Steps(step, step)


def decodes_in_half(model: WorldModel) -> bool:
    """Whether a model that is to decode in half precision can do so here; a note says so if not."""
    if model.decoding is not Decoding.HALF or model.head.weight.is_cuda:
        return False
    if not half_products_here():
        told = "decoding=half: this torch or CPU has no product with half-precision weights; the exact ones are taken"
        warnings.warn(Note(told), stacklevel=2)
        return False
    return True


def guesses(model: WorldModel) -> bool:
    """Whether the tokens of a lone row are guessed and checked many a pass."""
    return model.hints is not None and not model.head.weight.is_cuda and bool(weights_of(model).apart)


class GuidedStep:
    """Passes over the same tokens with the text or the actions and without: the scores are without + guidance * (with - without).

    Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): what they make likelier counts more.
    """

    def __init__(self, cond: Step, uncond: Step, guidance: float, hidden: int) -> None:
        """hidden: tokens behind the first of a plan that `uncond` does not see."""
        self._cond: Any = cond  # both are of one kind, which alone knows how to go beside its like
        self._uncond: Any = uncond
        self._both: Any = None
        self._guidance, self._hidden = guidance, hidden

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `DecodeStep.step`."""
        if first == 0:  # of a new plan
            self._both = type(self._cond).beside(self._cond, self._uncond)
        if first == 0 and self._hidden:
            cond_BV, uncond_BV = self._cond.step(ids_BT, first), self._uncond.step(ids_BT[:, :1], first)
        else:
            cond_BV, uncond_BV = self._both.step(ids_BT.repeat(2, 1), first).chunk(2)
        return guided_BV(cond_BV, uncond_BV, self._guidance)

    @property
    def apart(self) -> bool:
        """As `DecodeStep.apart`."""
        return self._cond.apart and self._uncond.apart

    def each(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `DecodeStep.each`."""
        cond_BTV, uncond_BTV = self._both.each(ids_BT.repeat(2, 1), first).chunk(2)
        return guided_BV(cond_BTV, uncond_BTV, self._guidance)

    def take_back(self, count: int) -> None:
        """As `DecodeStep.take_back`."""
        self._both.take_back(count)
