"""`wfm info` on a tiny random world: what it is made of."""

from wfm_ar.cli import main


def test_info_tells_what_a_world_is(place, capsys):
    assert main(["info", str(place / "world")]) == 0
    out = capsys.readouterr().out
    for words in ("24x16 pixels", "3x2 a latent, 3 a frame, codebook 36", "dx: -0.025 to 0.025 m, 9 bins", "world_model.safetensors"):
        assert words in out
    assert main(["info", str(place / "bare")]) == 0
    out = capsys.readouterr().out
    assert "actions    none" in out and "text       none" in out
