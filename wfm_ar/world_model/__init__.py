"""Sequence of text, action and video tokens, and the transformer that predicts the next one."""

from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.sequence import Sequence, SequenceConfig
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

__all__ = ["KVCache", "Sequence", "SequenceConfig", "WorldModel", "WorldModelConfig"]
