"""A few tokens a row through the transformer behind a KV cache: `WorldModel.forward` for decoding, in fewer and fatter calls.

Promises: the logits of `WorldModel.forward` up to rounding, and bit for bit the same logits for a row whatever its neighbours
and however many there are, which is why it multiplies by row_product.py; where a step is `apart` the same holds for a token and
those fed with it.
At a few million parameters calling an operation costs more than computing it, hence tables made once a latent, and the kernels'
CPU paths called past their checks. It knows the layers' weights, not what the tokens mean. Rows that share a past (a prefix of the
cache) read it once; their logits are those of a lone row up to rounding. A model of billions of parameters that decodes in half
precision (Decoding.HALF) gains by what is read: half the bytes; its activations are float32, its cache has the dtype of the model.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wfm_kernels.attention.span import Span, attention_over_span, tokens_apart
from wfm_kernels.qk_norm_rope_cache.cpu import norm_and_turn
from wfm_kernels.rms_norm.cpu import rms_norm
from wfm_kernels.swiglu.cpu import swiglu

from wfm_ar.errors import BadConfig
from wfm_ar.world_model.attention import CrossAttention, read_context
from wfm_ar.world_model.decode import Layer, run_layers
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.rotary import rotary_tables
from wfm_ar.world_model.row_product import BatchedProduct, HalfProduct, half_holds, product_for
from wfm_ar.world_model.scene import Scenes
from wfm_ar.world_model.transformer import Decoding, WorldModel, added_positions

LONGEST = 320  # tokens of a plan that is fed in pieces; longer ones are prompts, which go in one pass
Read = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # (layer, queries, keys, values) -> [B, N, T, K]
PRODUCTS = ("qkv", "out", "gate_up", "down")  # the parts of a Layer that know how many rows there are


class _Cross(NamedTuple):
    """What cross-attention needs of a layer's weights."""

    q_norm: Tensor
    q: HalfProduct | BatchedProduct
    out: HalfProduct | BatchedProduct

    def of(self, rows: int) -> "_Cross":
        return self._replace(q=self.q.of(rows), out=self.out.of(rows))


class DecodeWeights:
    """A model's weights as `DecodeStep` multiplies by them: laid out once for all steps of a rollout, and as they are then."""

    def __init__(self, model: WorldModel) -> None:
        """Raises BadConfig for weights that its `decoding` cannot take."""
        config, product = model.config, _product_of(model)
        self.dtype = torch.float32 if product is HalfProduct else model.head.weight.dtype  # of activations
        self.group, queries = product.GROUP, config.heads // config.kv_heads
        apart = product is HalfProduct and not config.context_dim
        self.apart = tokens_apart(queries, config.head_dim, torch.get_num_threads()) if apart else 0
        self.norm, self.head = self._kept(model.norm.weight), product(model.head.weight, padded=True)
        self.hints = None if model.hints is None else tuple(layer.weight.detach().t() for layer in (model.hints.up, model.hints.down))
        self.layers = [
            Layer(
                attention_norm=self._kept(block.attention_norm.weight),
                qkv=product(block.attention.qkv.weight),
                head_norm=self._kept(_per_head(block.attention.q_norm, block.attention.k_norm, config.heads, config.kv_heads)),
                out=product(block.attention.out.weight),
                cross_norm=self._kept(block.cross_norm.weight) if block.cross_norm else None,
                cross=self._cross(block.cross_attention, product) if block.cross_attention else None,
                ffn_norm=self._kept(block.ffn_norm.weight),
                gate_up=product(block.ffn.gate_up.weight),
                down=product(block.ffn.down.weight),
            )
            for block in model.blocks
        ]

    def _kept(self, weight: Tensor) -> Tensor:
        """A weight that is no product's."""
        return weight.detach().to(self.dtype)

    def _cross(self, attention: CrossAttention, product: type[HalfProduct] | type[BatchedProduct]) -> _Cross:
        return _Cross(self._kept(attention.q_norm.weight), product(attention.q.weight), product(attention.out.weight))


def _product_of(model: WorldModel) -> type[HalfProduct] | type[BatchedProduct]:
    weights = [weight.detach() for weight in _product_weights(model)]
    if model.decoding is Decoding.EXACT:
        return product_for(weights)
    if not all(half_holds(weight) for weight in weights):
        raise BadConfig("decoding: got half, but this model has weights above 65504, expected smaller ones; fix: decoding=exact")
    return HalfProduct


def _product_weights(model: WorldModel) -> list[Tensor]:
    """The weights that tokens behind a prompt are multiplied by."""
    layers = [part for block in model.blocks for part in (block.attention.qkv, block.attention.out, block.ffn.gate_up, block.ffn.down)]
    crosses = [part for block in model.blocks if block.cross_attention for part in (block.cross_attention.q, block.cross_attention.out)]
    return [part.weight for part in (*layers, *crosses, model.head)]


def weights_of(model: WorldModel) -> DecodeWeights:
    """The model's weights, laid out for the first rollout; again only where they may have changed since. Raises BadConfig as above."""
    parameters = list(model.parameters())
    if any(parameter.requires_grad or parameter.is_inference() for parameter in parameters):  # those of a training; those without versions
        return DecodeWeights(model)
    versions = [model.decoding, *((parameter.data_ptr(), parameter._version) for parameter in parameters)]
    held = _laid_out.get(model)
    if held is None or held[0] != versions:
        same_memory = [parameter.detach() for parameter in parameters]  # held, so that no other weights come to lie where these do
        held = _laid_out[model] = versions, DecodeWeights(model), same_memory
    return held[1]


_laid_out: WeakKeyDictionary[WorldModel, tuple[list, DecodeWeights, list[Tensor]]] = WeakKeyDictionary()


class DecodeStep:
    """Passes over the rows of `cache`. Call `plan` with what the coming tokens share, then `step` for its tokens in order."""

    def __init__(self, model: WorldModel, cache: KVCache, weights: DecodeWeights | None = None) -> None:
        """`weights`: the model's, where somebody has laid them out already. Raises BadConfig as `DecodeWeights` does."""
        self._over(model, weights or DecodeWeights(model), [cache])

    @staticmethod
    def beside(*steps: "DecodeStep") -> "DecodeStep":
        """One step over the rows of all, in order: what they have planned, in one pass, which reads the weights once. They go on from
        there, each by itself or together again."""
        both = object.__new__(DecodeStep)
        both._over(steps[0].model, steps[0]._weights, [cache for step in steps for cache in step._caches])
        both._spans = [spans for step in steps for spans in step._spans]
        both._cos, both._sin = (torch.cat([getattr(step, name) for step in steps]) for name in ("_cos", "_sin"))
        for name in ("_hints", "_added"):
            each = [getattr(step, name) for step in steps]
            setattr(both, name, None if each[0] is None else torch.cat(each))
        return both

    def _over(self, model: WorldModel, weights: DecodeWeights, caches: list[KVCache]) -> None:
        self.model, self._weights, self._caches = model, weights, caches
        self._rows = [len(cache.lengths_B) for cache in caches]
        rows = sum(self._rows)
        self._head, self._hint_layers = weights.head.of(rows), weights.hints and [weight.expand(rows, -1, -1) for weight in weights.hints]
        self._layers = [
            layer._replace(
                **{name: getattr(layer, name).of(rows) for name in PRODUCTS}, cross=None if layer.cross is None else layer.cross.of(rows)
            )
            for layer in weights.layers
        ]

    def plan(self, positions_BL3: Tensor, hints_BLF: Tensor | None, scenes: Scenes | None = None) -> None:
        """Positions, hints and scenes (as `WorldModel.forward` takes them) of the coming L tokens; worked out once for all of them."""
        model, device, count = self.model, self.model.head.weight.device, positions_BL3.shape[1]
        queries = model.config.heads // model.config.kv_heads
        spanned = self._weights.apart and count <= LONGEST
        apart = self._weights.apart
        self._spans = [_Spans(cache, count, queries, apart) if spanned and cache.prefix is None else None for cache in self._caches]
        self._cos, self._sin = rotary_tables(positions_BL3.to(device), model.frequencies, self._weights.dtype)
        self._added = positions_BL3.to(device) if model.config.additive_positions else None
        self._hints = None
        if hints_BLF is not None and model.hints is not None and self._hint_layers is not None:
            up_t, down_t = self._hint_layers
            hidden = torch.bmm(hints_BLF.to(device, up_t.dtype).contiguous(), up_t) + model.hints.up.bias
            self._hints = torch.bmm(F.silu(hidden), down_t)
            if scenes is not None and model.scene is not None:
                self._hints = self._hints + model.scene(scenes.to(device))[0].to(self._hints.dtype)

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """Tokens first .. first + T - 1 of the plan, int64 [B, T] -> float32 logits [B, V] of the token behind the last one.

        Their keys and values go into the cache. Raises BadPrompt when it is full.
        """
        rows, count = ids_BT.shape
        normed_RD = self._pass(ids_BT, first)
        if count > 1:
            normed_RD = normed_RD.narrow(0, 0, rows * count).view(rows, count, -1).select(1, count - 1)
        return self._logits(normed_RD, rows)

    @property
    def apart(self) -> bool:
        """Whether tokens of this plan that are fed in one pass each have the logits, bit for bit, that they have alone."""
        return all(spans is not None for spans in self._spans)

    def each(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `step`, with the logits behind every token, [B, T, V]. `take_back` forgets those of the tokens that turn out to be others."""
        rows, count = ids_BT.shape
        return self._logits(self._pass(ids_BT, first), rows * count).view(rows, count, -1)

    def take_back(self, count: int) -> None:
        """Forget the last `count` tokens of every row; the rows of a cache are equally long."""
        for cache in self._caches:
            cache.truncate(cache.longest - count)

    def _logits(self, normed_RD: Tensor, rows: int) -> Tensor:
        """float32 [rows, V] of the first rows."""
        logits_RV = self._head(_padded(normed_RD, -len(normed_RD) % self._weights.group))
        return logits_RV.narrow(0, 0, rows).narrow(1, 0, self.model.config.out_vocab).float()

    def _pass(self, ids_BT: Tensor, first: int) -> Tensor:
        """What the head reads: the tokens of a row behind those of another, and rows that fill the last group, [B * T + missing, D]."""
        rows, count = ids_BT.shape
        x = F.embedding(ids_BT, self.model.embedding.weight).to(self._weights.dtype)
        if self._hints is not None:
            x = x + self._hints.narrow(1, first, count)
        ops = _CpuOps(self, rows, count, first)
        x = _padded(x.view(rows * count, -1), ops.missing)
        added = None
        if self._added is not None:
            added_BTD = added_positions(self.model.config, self._added.narrow(1, first, count), x.dtype)
            assert added_BTD is not None, "the model adds positions"
            added = _padded(added_BTD.reshape(rows * count, -1), ops.missing)
            x = x + added
        normed_RD = run_layers(x, self._layers, self._weights.norm, ops, added)
        for cache in self._caches:
            cache.advance(count)
        return normed_RD


class _CpuOps:
    """The ops of one pass of a step; tensors are [B * T + missing, D]: the products take whole groups of rows."""

    def __init__(self, step: DecodeStep, rows: int, count: int, first: int) -> None:
        """Tokens first .. first + count - 1 of the plan, of `rows` rows."""
        config = step.model.config
        self._caches, self._cache_rows, self._eps = step._caches, step._rows, config.eps
        self._rows, self._count, self._tokens = rows, count, rows * count
        self._heads, self._kv_heads, self._head_dim = config.heads, config.kv_heads, config.head_dim
        self._cos, self._sin = step._cos.narrow(1, first, count), step._sin.narrow(1, first, count)
        self._reads = [_reading(cache, spans, count) for cache, spans in zip(step._caches, step._spans, strict=True)]
        self.missing = -self._tokens % step._weights.group

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, eps=self._eps)

    def add_norm(self, y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        x = x + y
        return rms_norm(x, weight, eps=self._eps), x

    def cross(self, index: int, layer: Layer, normed: Tensor) -> Tensor:
        q = layer.cross.q(normed).narrow(0, 0, self._tokens).reshape(self._rows, self._count, self._heads, self._head_dim)
        q_BNTK = rms_norm(q, layer.cross.q_norm, eps=self._eps).transpose(1, 2)
        parts = []
        for cache, q_bNTK in zip(self._caches, q_BNTK.split(self._cache_rows), strict=True):
            keys, values = cache.context[index]
            parts.append(read_context(q_bNTK.to(keys.dtype), keys, values, None).to(normed.dtype))
        y = torch.cat(parts).transpose(1, 2).reshape(self._tokens, self._heads * self._head_dim)
        return layer.cross.out(_padded(y, self.missing))

    def glu(self, gate_up: Tensor) -> Tensor:
        return swiglu(*gate_up.chunk(2, -1))

    def attend(self, index: int, layer: Layer, qkv: Tensor) -> Tensor:
        rows, count, N, H, K = self._rows, self._count, self._heads, self._kv_heads, self._head_dim
        qkv = qkv.narrow(0, 0, self._tokens).view(rows, count, N + 2 * H, K)
        qk = norm_and_turn(qkv.narrow(2, 0, N + H), layer.head_norm, self._cos, self._sin, self._eps).transpose(1, 2)
        read = qk.narrow(1, 0, N), qk.narrow(1, N, H), qkv.narrow(2, N + H, H).transpose(1, 2)
        y = self._read(index, *(x.to(self._caches[0].k.dtype) for x in read)).to(qkv.dtype)
        return _padded(y.transpose(1, 2).reshape(self._tokens, N * K), self.missing)

    def _read(self, index: int, q_BNTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        """Keys and values into the caches of their rows, and what the queries see there: [B, N, T, K]."""
        if len(self._reads) == 1:
            return self._reads[0](index, q_BNTK, *self._caches[0].update(index, k_BHTK, v_BHTK))
        split = (x.split(self._cache_rows) for x in (q_BNTK, k_BHTK, v_BHTK))
        parts = zip(self._caches, self._reads, *split, strict=True)
        return torch.cat([read(index, q, *cache.update(index, k, v)) for cache, read, q, k, v in parts])


def _reading(cache: KVCache, spans: "_Spans | None", count: int) -> Read:
    """How the coming `count` tokens of all rows read a layer's keys and values."""
    if spans is None:
        return partial(cache.read, lengths_B=cache.lengths_B + count, longest=cache.longest + count)
    return spans.reading(cache.longest, count)


class _Spans:
    """The spans of a cache's rows for the tokens of a plan."""

    def __init__(self, cache: KVCache, count: int, queries: int, apart: int) -> None:
        """Of `count` tokens behind what `cache` holds now; `queries`: heads a KV head; `apart`: tokens that are read for together."""
        self._longest, self._apart = cache.longest, apart
        starts = [cache.longest] if cache.shortest == cache.longest else cache.lengths_B.tolist()
        self._spans = [Span(start, count, queries, cache.capacity) for start in starts]  # one for all rows, or one each

    def reading(self, longest: int, count: int) -> Read:
        """`longest`: as the cache has it before these `count` tokens."""
        at = longest - self._longest
        pieces = [(first, min(self._apart, count - first)) for first in range(0, count, self._apart)]
        reads = [_piece([span.bias(at + first, size) for span in self._spans]) for first, size in pieces]
        if len(reads) == 1:
            return reads[0]

        def read(layer: int, q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Tensor:
            parts = q_BNTK.split(self._apart, 2)
            return torch.cat([one(layer, q, k_BHLK, v_BHLK) for one, q in zip(reads, parts, strict=True)], 2)

        return read


def _piece(biases: Sequence[Tensor]) -> Read:
    """How the tokens of one or of each row read, given `Span.bias` of all rows or of each."""

    def read(_: int, q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Tensor:
        if len(biases) == 1:
            return attention_over_span(q_BNTK, k_BHLK, v_BHLK, biases[0])
        rows = zip(*(x.split(1) for x in (q_BNTK, k_BHLK, v_BHLK)), biases, strict=True)
        return torch.cat([attention_over_span(q, k, v, bias_RS) for q, k, v, bias_RS in rows])

    return read


def _padded(x_RD: Tensor, missing: int) -> Tensor:
    """With so many rows of zeros behind."""
    return F.pad(x_RD, (0, 0, 0, missing)) if missing else x_RD


def _per_head(q_norm: nn.RMSNorm, k_norm: nn.RMSNorm, heads: int, kv_heads: int) -> Tensor:
    """The weights of every query head and every key head, [N + H, K]."""
    return torch.cat((q_norm.weight.expand(heads, -1), k_norm.weight.expand(kv_heads, -1))).detach()
