"""A released world on disk: written whole or not at all, and never parsed before its hashes hold.

    world.json                      version, settings of every part, action schema, fps, size and SHA-256 of every other file
    video_tokenizer.safetensors     half precision; read back as float32
    world_model.safetensors
    diffusion_decoder.safetensors   optional
    text_tokenizer.model            optional: a world trained without texts has none
    README.md, samples/             the model card and a few held-out episodes

This file knows files, bytes and settings; `world.py` knows what a world does.
"""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save_file
from torch import nn

from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.errors import BadCheckpoint, BadConfig, NoSpace, OutputExists, nearest
from wfm_ar.schema import ActionSchema
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video.model import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.world_model.sequence import SequenceConfig
from wfm_ar.world_model.transformer import WorldModel, WorldModelConfig

VERSION = 1
SETTINGS = "world.json"
TEXT_MODEL = "text_tokenizer.model"
SHIPPED = Path(__file__).parent.parent / "assets"
_KEYS = {"format", "version", "fps", "action_schema", "video_tokenizer", "sequence", "world_model", "diffusion_decoder", "text", "files"}
_FORMAT = "wfm-ar world"

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldParts:
    """Everything a world is made of. Raises BadCheckpoint where two parts do not fit each other."""

    video_tokenizer: VideoTokenizer
    sequence: SequenceConfig
    world_model: WorldModel
    fps: float  # frames a second of the clips it was trained on
    text_tokenizer: TextTokenizer | None = None
    action_schema: ActionSchema | None = None
    diffusion_decoder: Denoiser | None = None
