"""The short form of tools/campaigns/flat_stream.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
pytestmark = [
    pytest.mark.skipif(not TOOLS.is_dir(), reason="needs the checkout"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc"),
]


@pytest.mark.slow
def test_a_stream_that_looks_ahead_stays_flat(tmp_path) -> None:
    words = ["--world", "tiny", "--latents", "900", "--every", "100", f"--json={tmp_path / 'kept.json'}"]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, TOOLS / "campaigns" / "flat_stream.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "1 passed, 0 failed" and done.stdout.count(" latents: ") == 9


def test_a_stream_that_grows_fails(load, monkeypatch, capsys) -> None:
    campaign = load(TOOLS / "campaigns" / "flat_stream.py")
    sizes = iter([400.0, 390.0, 421.0])
    monkeypatch.setattr(campaign, "resident", lambda: next(sizes))
    kept = campaign.campaign("tiny", 6, 2)
    assert kept["failures"] == 1 and kept["resident_mib"] == [400.0, 390.0, 421.0]
    assert kept["outcomes"] == {"latents, 400.0 MiB at 2, at most 421.0 from there on (+5.25 %)": 6}
