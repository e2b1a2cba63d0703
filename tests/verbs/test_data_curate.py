"""`wfm data curate` from the command line."""

import numpy as np

from wfm_ar.cli import main
from wfm_ar.data.video import read_image, write_video

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def test_curate_prints_its_report(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moving = np.stack([np.roll(np.repeat(FRAMES[:1], 1, 0)[0], 3 * t, 1) for t in range(15)])
    (tmp_path / "raw").mkdir()
    write_video(tmp_path / "raw/a.mp4", moving, 10)
    write_video(tmp_path / "raw/b.mp4", np.zeros_like(moving), 10)
    command = ["data", "curate", f"src={tmp_path / 'raw'}", "out=clean", "shots=false"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "2 sources, 2 pieces" in out and "dropped      1 black" in out and "kept         1" in out and err == ""
    assert read_image("clean/curation.png").shape[1] > 200
    assert main([*command[:2], f"src={tmp_path / 'raw'}", "out=clean", "shots=false", "crf=20"]) == 2
    assert "other settings" in capsys.readouterr().err
