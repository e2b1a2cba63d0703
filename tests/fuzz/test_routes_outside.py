"""Sets that lead outside themselves: tools/campaigns/routes_outside.py, whole."""

import sys

import pytest

pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
import routes_outside as campaign

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


def test_no_route_leads_outside(tmp_path):
    report = campaign.run(100, 0, tmp_path)
    assert report.failures == [] and report.outcomes["stayed inside"] == len(campaign.routes()) >= 80


def test_an_open_in_c_is_seen(tmp_path):
    campaign.secrets(tmp_path / "outside")
    watch = campaign.Watch(tmp_path / "outside")
    assert not watch.opened()
    with campaign.h5py.File(tmp_path / "outside" / "canary.hdf5"):
        assert watch.opened()


@pytest.mark.parametrize("format", campaign.small_sets.MAKERS)
def test_sets_without_harm_are_sound(tmp_path, format):
    campaign.small_sets.MAKERS[format](tmp_path)
    assert campaign.check_data(tmp_path) == [] and len(campaign.open_episodes(tmp_path)) == 2
