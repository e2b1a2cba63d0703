"""x W^T for the few rows of decoding on the CPU, with bits that a row owes to itself alone.

A plain matrix product breaks that: its rounding changes with the number of rows. Two do not:

- `HalfProduct` keeps the weights in half precision, as a shipped world stores them, and multiplies them out in float32 by FBGEMM's
  product. Decoding is bound by reading weights: these are half as many bytes, read once for all rows. float16 holds 99.98 % of the
  published models' bfloat16 weights exactly, and the others, all below 2^-14, within 3e-8.
- `BatchedProduct` is for weights that half precision would round, and for CPUs without FBGEMM: every row of the batch is an entry
  of a batched product over one shared (expanded, not copied) weight, and so sees a product of its own shape.
"""

import functools
import warnings
from collections.abc import Iterable
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

VECTORS = 16  # numbers that an output's width of a batched product is a multiple of


class HalfProduct:
    """y = x W^T in float32, of weights that half precision holds exactly or, where a caller wants that, rounds."""

    GROUP = 4  # rows come in multiples of this: one or two take other kernels of FBGEMM's, which add up in another order
    AT_ONCE = 24  # rows of one call: of more it may leave one or two to those kernels

    def __init__(self, weight_OI: Tensor, padded: bool = False) -> None:
        """floats [out, in]. `padded`: see `BatchedProduct`."""
        self._packed = torch.fbgemm_pack_gemm_matrix_fp16(weight_OI.detach().float().contiguous())

    def of(self, batch: int) -> "HalfProduct":
        """The same product for a batch of so many rows."""
        return self

    def __call__(self, x_RI: Tensor) -> Tensor:
        """float32 [R, in], R a multiple of GROUP -> [R, out]."""
        multiply = torch.fbgemm_linear_fp16_weight_fp32_activation
        if len(x_RI) <= self.AT_ONCE:
            return multiply(x_RI, self._packed, None)
        return torch.cat([multiply(piece, self._packed, None) for piece in x_RI.split(self.AT_ONCE)])


class BatchedProduct:
    """y = x W^T in the weights' dtype."""

    GROUP = 1

    def __init__(self, weight_OI: Tensor, padded: bool = False) -> None:
        """[out, in]. `padded`: outputs may be added behind the last one, where that is faster."""
        self._weight_BIO = _laid_out(weight_OI.detach(), padded)[None]

    def of(self, batch: int) -> "BatchedProduct":
        """The same product for a batch of so many rows."""
        other = copy(self)
        other._weight_BIO = self._weight_BIO[:1].expand(batch, -1, -1)
        return other

    def __call__(self, x_RI: Tensor) -> Tensor:
        """[R, in], the tokens of one row of the batch behind those of another -> [R, out]."""
        batch, inputs, outputs = self._weight_BIO.shape
        return torch.bmm(x_RI.view(batch, -1, inputs), self._weight_BIO).view(-1, outputs)


def product_for(weights: Iterable[Tensor]) -> type[HalfProduct] | type[BatchedProduct]:
    """The faster of the two, of those that fit all `weights`."""
    fits = all(w.is_cpu and w.dtype == torch.float32 and torch.equal(w.half().float(), w) for w in weights)
    return HalfProduct if fits and half_products_here() else BatchedProduct


def half_products_here() -> bool:
    """Whether `HalfProduct` works in this process as it must."""
    return _fbgemm_keeps_rows_apart(torch.get_num_threads())


def half_holds(weight: Tensor) -> bool:
    """Whether half precision at most rounds these floats: none becomes infinite."""
    lowest, highest = weight.aminmax()
    return bool(max(-lowest, highest) <= torch.finfo(torch.float16).max)


@functools.lru_cache
def _fbgemm_keeps_rows_apart(threads: int) -> bool:
    """Whether this torch has FBGEMM's product and what it makes of a row on this CPU does not depend on the others."""
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    draw = torch.Generator().manual_seed(0)
    x_RI, weight_OI = (torch.randn(shape, generator=draw) for shape in ((HalfProduct.AT_ONCE, 96), (80, 96)))
    group = HalfProduct.GROUP
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is to go some day; what torch offers instead takes 20 us more a call
            product = HalfProduct(weight_OI)
            apart = torch.cat([product(piece) for piece in x_RI.split(group)])
    except (AttributeError, TypeError, RuntimeError):
        return False  # another torch
    return all(torch.equal(product(x_RI[:count]), apart[:count]) for count in range(group, len(x_RI) + 1, group))


def _laid_out(weight_OI: Tensor, padded: bool) -> Tensor:
    """The weight as [in, out], a row of it in one piece where that is the faster: for at least as many outputs as inputs.

    One token's product then adds up rows, where it takes a dot product for every output else: 1.4 to 1.8 times as fast (AVX2).
    Outputs that are no whole vectors are `padded` or stay as they lie: rows of a batch that begin inside of one are rounded otherwise.
    """
    weight_IO = weight_OI.t()
    inputs, outputs = weight_IO.shape
    missing = -outputs % VECTORS
    if weight_IO.dtype != torch.float32 or outputs < inputs or (missing and not padded):
        return weight_IO
    return F.pad(weight_IO, (0, missing)).contiguous()
