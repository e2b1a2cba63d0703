"""Sets that lead outside themselves: tools/campaigns/routes_outside.py, whole."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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


TRACED = """
import sys
from pathlib import Path
import routes_outside as campaign

folder = Path(sys.argv[1])
with campaign.h5py.File(folder / "outside" / "canary.hdf5"):  # the one open that strace must show
    pass
for root in sorted(folder.glob("set-*")):
    campaign.use(root, folder / "out" / root.name)
campaign.pool.close()
"""
ROUTES = (  # one of each kind
    *("external storage under obs/joint", "external storage under mask", "external storage in a pipe", "virtual data set under actions"),
    *("virtual data set that grows with a pipe", "external link at data/demo_0/obs", "external link to a pipe at mask"),
    *("soft link into another file at data/demo_0/obs/joint", "episodes: states/e0.npz is a link", "episodes: relative path"),
    *("lerobot: absolute template", "lerobot: data is a link", "npz: train/a.npz is a link to a pipe", "the file is a link to a pipe"),
)


@pytest.mark.slow
def test_under_strace_no_file_outside_is_asked_for(tmp_path):
    """inotify tells of opens that succeed; strace also of those that fail, and of every child and thread."""
    if shutil.which("strace") is None or subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True).returncode:
        pytest.skip("needs strace, and a system that lets it trace")
    makers, outside = dict(campaign.routes()), tmp_path / "outside"
    campaign.secrets(outside)
    for i, name in enumerate(ROUTES):
        root = tmp_path / f"set-{i:02}"
        root.mkdir()
        makers[name](root, outside)
    (tmp_path / "out").mkdir()
    trace, tools = tmp_path / "trace.txt", Path(campaign.__file__).parent
    words = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=open,openat,openat2,creat", "-o", str(trace)]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tools), *(path for path in sys.path if path)])}
    done = subprocess.run([*words, sys.executable, "-c", TRACED, str(tmp_path)], capture_output=True, text=True, env=variables, timeout=250)
    assert done.returncode == 0, done.stderr
    lines = trace.read_text(errors="replace").splitlines()
    asked = [line for line in lines if re.search(rf'"{re.escape(str(outside))}|"[^"]*\.\./outside', line)]
    assert len(asked) == 1 and "canary.hdf5" in asked[0], "\n".join(asked)
    assert sum(str(tmp_path / "set-00" / "set.hdf5") in line for line in lines), "the sets were not looked at"


@pytest.mark.parametrize("format", campaign.small_sets.MAKERS)
def test_sets_without_harm_are_sound(tmp_path, format):
    campaign.small_sets.MAKERS[format](tmp_path)
    assert campaign.check_data(tmp_path) == [] and len(campaign.open_episodes(tmp_path)) == 2
