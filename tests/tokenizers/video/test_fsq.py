import pytest
import torch

from wfm_ar.tokenizers.video.fsq import FSQ


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 8, 8, 5, 5, 5), (3,), (2, 4)])
def test_ids_and_codes_are_a_bijection_over_the_whole_codebook(levels):
    fsq = FSQ(levels)
    ids = torch.arange(fsq.codebook_size).view(1, -1, 1, 1)
    codes = fsq.ids_to_codes(ids)
    assert codes.abs().max() <= 1
    assert torch.equal(fsq.codes_to_ids(codes), ids)
    assert torch.equal(fsq.codes_to_ids(codes.bfloat16()), ids)
    assert len(torch.unique(codes.flatten(2)[0].T, dim=0)) == fsq.codebook_size


def test_published_levels_have_the_published_ids():
    fsq = FSQ((8, 8, 8, 5, 5, 5))
    for z, index in ((0.0, 32036), (50.0, 63999), (-50.0, 0)):
        assert int(fsq.codes_to_ids(fsq(torch.full((1, 6, 1, 1, 1), z)))) == index


def test_gradient_passes_the_rounding():
    z = torch.zeros(1, 4, 1, 1, 1, requires_grad=True)
    FSQ((8, 5, 5, 5))(z).sum().backward()
    assert (z.grad > 0.5).all()


def test_unit_spread_uses_nearly_all_codes():
    torch.manual_seed(0)
    fsq = FSQ((8, 5, 5, 5))
    ids = fsq.codes_to_ids(fsq(torch.randn(1, 4, 200, 16, 16)))
    assert len(ids.unique()) > 0.9 * fsq.codebook_size


def test_golden(golden):
    tensors, _ = golden("fsq")
    fsq = FSQ((8, 8, 8, 5, 5, 5))
    torch.testing.assert_close(fsq.bound(tensors["z"]), tensors["bound"], atol=1e-5, rtol=0)
    assert torch.equal(fsq(tensors["z"]), tensors["codes"])
    assert torch.equal(fsq.codes_to_ids(tensors["codes"]), tensors["indices"].long())
