"""`wfm demo` on a tiny random world: which clips it makes, and what is refused."""

import json
from pathlib import Path

from wfm_ar.data.video import read_video


def test_demo_makes_four_ways_raw_and_shown(wfm, refused, tmp_path):
    code, out, err = wfm("demo", "out=demo", "episodes=1")
    assert (code, err) == (0, "")
    names = sorted(path.name for path in Path("demo").iterdir())
    ways = ("from-nothing", "opposite-actions", "text-only", "true-actions")
    clips = [f"e1-{way}-{kind}.mp4" for way in ways for kind in ("raw", "shown")]
    assert names == sorted([*clips, "e1-beside-the-truth.mp4", "contact_sheet.png", "demo.json"])
    assert read_video("demo/e1-true-actions-raw.mp4").shape == (9, 16, 24, 3)
    assert read_video("demo/e1-beside-the-truth.mp4").shape == (9, 16, 72, 3)
    summary = json.loads(Path("demo/demo.json").read_text())
    assert summary["frames_imagined"] == 8 * 3 + 9 and summary["frames_per_second"] > 0
    assert [row["clip"] for row in summary["against_the_truth"]][1:3] == ["true actions, raw", "true actions, shown"]
    assert "frames/s" in out and "PSNR" in out and "contact_sheet.png" in out
    refused(wfm("demo", "out=demo"), "demo: exists already")
    assert wfm("demo", "out=demo", "episodes=1", "overwrite=true")[0] == 0
    refused(wfm("demo", "out=other", world="bare"), "samples", "data=")


def test_demo_of_a_world_without_text_and_actions(wfm, place):
    code, _, err = wfm("demo", "out=demo", "episodes=1", f"data={place / 'set'}", world="bare")
    assert (code, err) == (0, "")
    assert {path.name for path in Path("demo").glob("*.mp4")} == {"e1-first-frame-only-raw.mp4", "e1-from-nothing-raw.mp4"}
