"""Two synthetic releases, converted once for all tests of this folder."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wfm_ar.cosmos.convert import convert
from wfm_ar.cosmos.synth import synthesise
from wfm_ar.data.video import write_image, write_video
from wfm_ar.rollout.world import load_world


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Releases 4b and 5b with their worlds, a clip, a picture, a text's embedding."""
    folder = tmp_path_factory.mktemp("cosmos")
    for name in ("4b", "5b"):
        synthesise(name, folder / f"release-{name}")
        convert(folder / f"release-{name}", folder / name, dtype="float32", height=64, width=96)
    frames = np.random.default_rng(0).integers(0, 256, (9, 64, 96, 3), dtype=np.uint8)
    write_video(folder / "in.mp4", frames, 24)
    write_image(folder / "in.png", frames[0])
    text = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))  # long enough to change what is drawn
    save_file({"text": text}, folder / "text.safetensors")
    return folder


@pytest.fixture(scope="session")
def world(place):
    return load_world(place / "4b")
