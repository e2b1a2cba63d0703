"""Small files that ask for a lot: the short form of tools/campaigns/small_files.py."""

import sys

import pytest

pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
import small_files as campaign

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")


def test_some_small_files(tmp_path):
    assert len(campaign.cases()) >= 60
    report = campaign.run(5, 0, tmp_path)
    assert report.failures == [] and report.outcomes["stayed small"] == 5
