import pytest
import torch

from wfm_ar.haar import haar_patch, haar_unpatch


@pytest.mark.parametrize(("time", "space"), [(1, 4), (2, 2), (4, 4), (4, 8), (8, 2)])
def test_unpatch_inverts_patch(time, space):
    video = torch.randn(2, 3, 1 + 2 * time, 16, 24, dtype=torch.float64)
    patched = haar_patch(video, time, space)
    assert patched.shape == (2, 3 * time * space**2, 3, 16 // space, 24 // space)
    torch.testing.assert_close(haar_unpatch(patched, time, space), video)


def test_first_channels_are_block_means_and_a_still_block_has_nothing_else():
    frame = torch.randn(1, 3, 1, 8, 8).repeat_interleave(4, 3).repeat_interleave(4, 4)  # constant 4x4 blocks
    patched = haar_patch(frame.expand(-1, -1, 5, -1, -1), 4, 4)
    torch.testing.assert_close(patched[:, :3, 0], frame[:, :, 0, ::4, ::4])
    assert patched[:, 3:].abs().max() < 1e-6


def test_a_stream_of_chunks_equals_the_whole():
    video = torch.randn(1, 3, 13, 8, 8)
    whole = haar_patch(video, 4, 2)
    pieces = [haar_patch(video[:, :, :1], 4, 2)] + [haar_patch(video[:, :, i : i + 4], 4, 2, first=False) for i in (1, 5, 9)]
    assert torch.equal(torch.cat(pieces, 2), whole)
    back = [haar_unpatch(whole[:, :, :1], 4, 2)] + [haar_unpatch(whole[:, :, i : i + 1], 4, 2, first=False) for i in (1, 2, 3)]
    assert torch.equal(torch.cat(back, 2), haar_unpatch(whole, 4, 2))


def test_a_block_side_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two"):
        haar_patch(torch.zeros(1, 3, 4, 6, 6), 3, 2)


def test_golden(golden):
    tensors, _ = golden("wavelet")
    for size in (2, 4):
        for name in sorted(n for n in tensors if n.startswith(f"p3d_ps{size}") and n.endswith(".video")):
            stem = name.removesuffix(".video")
            torch.testing.assert_close(haar_patch(tensors[name], size, size), tensors[f"{stem}.patched"], atol=1e-5, rtol=0)
            torch.testing.assert_close(
                haar_unpatch(tensors[f"{stem}.patched"], size, size), tensors[f"{stem}.unpatched"], atol=1e-5, rtol=0
            )
