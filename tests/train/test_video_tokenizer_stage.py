"""Stage 1 on numbers that are not finite, and what stages 1 and 3 show; what they learn is in test_resume.py and the smoke test."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_stages as tiny
import torch

from wfm_ar.data.formats import open_episodes
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.data.video import write_video
from wfm_ar.train.video_tokenizer_stage import reencoding_error, restlessness


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_codes_that_are_not_finite_give_a_loss_that_says_so(tmp_path, value):
    """Not an error of the counting of codes: the loop skips such a step, and would end with anything else (the NaN campaign)."""
    stage = tiny.make_stage("video_tokenizer", tiny.make_data(tmp_path))
    with torch.no_grad():
        for parameter in stage.model.encoder.parameters():
            parameter.fill_(value)
    loss, logs = stage.loss(stage.model, stage.batch(0, 2, 0), torch.Generator().manual_seed(0))
    assert not torch.isfinite(loss)
    assert 0 <= float(logs["codes_in_batch"]) <= 1


@pytest.mark.parametrize("name", ["video_tokenizer", "diffusion_decoder"])
def test_validation_shows_clips_of_any_lengths(name, tmp_path):
    """As every robot's are; the strips below one another are then of several widths."""
    (tmp_path / "long").mkdir()
    for frames in (1, 9, 13, 25):
        write_video(tmp_path / "long" / f"{frames}.mp4", np.full((frames, 16, 24, 3), 99, np.uint8), 10)
    stage = tiny.make_stage(name, tiny.make_data(tmp_path / "data"))
    stage.val_set, stage.training = open_episodes(tmp_path / "long"), replace(stage.training, val_clips=4)
    _, pictures = stage.validate(stage.model.eval(), torch.device("cpu"))
    (picture,) = pictures.values()
    rows = 4 * 2 if name == "video_tokenizer" else 3 * 3
    assert picture.shape[0] == rows * 16 and picture.shape[1] % 24 == 0 and picture.shape[1] >= 9 * 24


@pytest.mark.parametrize("name", ["video_tokenizer", "diffusion_decoder"])
def test_stages_that_learn_from_pixels_tell_what_is_to_be_decoded(name, tmp_path):
    stage = tiny.make_stage(name, tiny.make_data(tmp_path))
    assert stage.to_decode() is None  # they have no cache
    stage.windows.clips.cache = FrameCache(tmp_path / "frames", 1e9)
    assert stage.to_decode() == (36, 36)
    stage.batch(0, 2, 0)
    assert stage.to_decode()[0] < 36


def test_restlessness_counts_latents_that_change_where_no_pixel_does():
    foreground = torch.zeros(1, 3, 2, 16, 16)
    foreground[:, :, 1, :8, :8] = 0.5  # one of four places moves
    bounded = torch.zeros(1, 2, 2, 2, 2)
    bounded[:, :, 1, 0, 0] = 1.0  # that place may change
    assert restlessness(bounded, foreground, 8) == 0
    bounded[:, 0, 1, 1, 1] = 1.2  # this one may not
    assert float(restlessness(bounded, foreground, 8)) == pytest.approx(1.2**2 / (3 * 2))
    assert restlessness(bounded[:, :, :1], foreground[:, :, :1], 8) == 0  # windows of one frame say nothing


def test_reencoding_error_counts_places_with_content_alone():
    foreground = torch.zeros(1, 3, 1, 16, 16)
    foreground[..., :8, :8] = 0.5  # one of four places
    bounded, again = torch.full((1, 2, 1, 2, 2), 0.4), torch.zeros(1, 2, 1, 2, 2)
    again[..., 1, 1] = 5.0
    assert reencoding_error(again, bounded, foreground, 8) == 0  # the codes are 0, and are found again where it counts
    again[:, 0, 0, 0, 0] = 1.5
    assert float(reencoding_error(again, bounded, foreground, 8)) == pytest.approx(1.5**2 / 2)


def test_reconstructions_are_encoded_as_what_they_were_decoded_from_where_the_loss_asks_for_it(tmp_path):
    """The same steps with and without: a reconstruction's latents are nearer to its codes with it, and its statistics are untouched."""
    errors, seen = {}, {}
    for weight in (0.0, 10.0):
        stage = tiny.make_stage("video_tokenizer", tiny.make_data(tmp_path))
        stage.training = replace(stage.training, again=weight)
        optimizer = torch.optim.Adam(stage.model.parameters(), lr=3e-3)
        for step in range(25):
            optimizer.zero_grad()
            stage.loss(stage.model, stage.batch(step, 4, 0), torch.Generator())[0].backward()
            optimizer.step()
        foreground = stage.batch(99, 4, 0)["foreground"]
        seen[weight] = float(stage.model.latent_norm.seen)
        with torch.no_grad():
            made, _, latents = stage.model.eval()(foreground)
            again, bounded = (stage.model.quantizer.bound(each) for each in (stage.model.latents(made), latents))
        frames, side = foreground[:, :, :: stage.config.temporal_compression], stage.config.spatial_compression
        errors[weight] = float(reencoding_error(again, bounded, frames, side))
    assert errors[10.0] < 0.7 * errors[0.0] and seen[10.0] == seen[0.0] == 25


def test_still_places_keep_their_latents_where_the_loss_asks_for_it(tmp_path):
    """The same steps with and without: what the latents change where nothing moves is far less with it."""
    restless = {}
    for weight in (0.0, 30.0):
        stage = tiny.make_stage("video_tokenizer", tiny.make_data(tmp_path))
        stage.training = replace(stage.training, still=weight)
        optimizer = torch.optim.Adam(stage.model.parameters(), lr=3e-3)
        for step in range(25):
            optimizer.zero_grad()
            stage.loss(stage.model, stage.batch(step, 4, 0), torch.Generator())[0].backward()
            optimizer.step()
        foreground = stage.batch(99, 4, 0)["foreground"]
        rate = stage.config.temporal_compression
        with torch.no_grad():
            bounded = stage.model.quantizer.bound(stage.model(foreground)[2])
        restless[weight] = float(restlessness(bounded, foreground[:, :, ::rate], stage.config.spatial_compression))
    assert restless[30.0] < 0.7 * restless[0.0]
