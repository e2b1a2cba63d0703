import pytest

from wfm_ar.errors import BadClip, WfmError, nearest
from wfm_ar.shapes import latent_frames


@pytest.mark.parametrize(("frames", "rate", "latents"), [(1, 4, 1), (5, 4, 2), (33, 4, 9), (33, 8, 5), (17, 1, 17), (49, 2, 25)])
def test_latents_of_frames(frames, rate, latents):
    assert latent_frames(frames, rate) == latents


def test_a_count_that_does_not_fit_names_its_neighbours():
    with pytest.raises(BadClip, match=r"got 32 frames, expected 1 \+ 4\*n; fix: use 29 or 33 frames"):
        latent_frames(32, 4)


def test_more_than_can_be_made_are_refused():
    assert latent_frames(1 << 20, 1) == 1 << 20
    with pytest.raises(BadClip, match="expected at most 1048576; fix: a shorter one"):
        latent_frames(1 + 4 * 10**400, 4)


@pytest.mark.parametrize("frames", [0, -3])
def test_no_frames_are_refused(frames):
    with pytest.raises(BadClip, match="expected 1"):
        latent_frames(frames, 4)


def test_every_error_leaves_with_code_2():
    assert {kind.exit_code for kind in WfmError.__subclasses__()} == {2}


def test_nearest_names_what_was_meant():
    assert nearest("sped", ["speed", "colour"]) == ' (did you mean "speed"?)'
    assert nearest("xyz", ["speed", "colour"]) == ""
