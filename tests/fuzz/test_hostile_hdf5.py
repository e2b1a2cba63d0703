"""Corrupt HDF5 files: the short form of tools/campaigns/hostile_hdf5.py."""

import pytest

pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
import hostile_hdf5 as campaign


def test_sixty_hdf5_files(tmp_path):
    for name, how in campaign.LIKE.items():
        (tmp_path / "set.hdf5").write_bytes(campaign.make_file(*how))
        assert campaign.use(tmp_path / "set.hdf5") == "taken", name
    report = campaign.run(60, 0, tmp_path)
    assert report.failures == [] and report.cases == 60
    assert report.outcomes["refused"] > 30 and report.outcomes["taken"] > 5
