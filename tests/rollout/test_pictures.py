"""Prompts become a world's size as its training pictures did, unless the user says otherwise."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_world import make_parts

from wfm_ar.data.video import resize_crop
from wfm_ar.errors import BadClip
from wfm_ar.rollout.pictures import at_world_size, told_of
from wfm_ar.rollout.world import World
from wfm_ar.rollout.world_folder import read_world, save_world

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 48, 96, 3), dtype=np.uint8)


def world(crop):
    parts = make_parts()
    parts.video_tokenizer.config = replace(parts.video_tokenizer.config, crop=crop)
    return World(parts)


def test_the_worlds_crop_is_the_default_and_the_users_goes_before_it():
    fit = world("fit")
    assert (at_world_size(FRAMES, fit) == resize_crop(FRAMES, 16, 24, "fit")).all()
    assert (at_world_size(FRAMES, fit, "stretch") == resize_crop(FRAMES, 16, 24, "stretch")).all()
    assert told_of(FRAMES, fit) == "pictures become 24x16 (crop=fit); 96x48: 25% of 24x16 is black"
    own = FRAMES[:, :16, :24]
    assert (at_world_size(own, fit) == own).all() and told_of(own, fit) == ""


def test_a_world_of_an_area_takes_its_own_pictures_back():
    area = world("30,10,36,24")
    assert (at_world_size(FRAMES, area) == resize_crop(FRAMES[:, 10:34, 30:66], 16, 24)).all()
    own = FRAMES[:, :16, :24]
    assert (at_world_size(own, area) == own).all()
    with pytest.raises(BadClip, match="in.png: got pictures of 40x20 pixels, expected ones that hold crop=30,10,36,24"):
        at_world_size(FRAMES[:, :20, :40], area, where="in.png")


def test_the_crop_travels_with_the_world_and_worlds_from_before_are_centred(tmp_path):
    parts = make_parts()
    parts.video_tokenizer.config = replace(parts.video_tokenizer.config, crop="fit")
    save_world(tmp_path / "w", parts)
    assert World(read_world(tmp_path / "w")).crop == "fit"
    settings = tmp_path / "w/world.json"
    settings.write_text(settings.read_text().replace('"crop": "fit",', ""))
    assert World(read_world(tmp_path / "w")).crop == "centre"
