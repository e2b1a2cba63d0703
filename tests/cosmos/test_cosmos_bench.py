"""The bench prints what it should; its numbers are for a quiet machine and not tested."""

from dataclasses import replace

import pytest

from wfm_ar.cli import main
from wfm_ar.cosmos import bench


def test_every_work_prints_a_line(monkeypatch, capsys):
    monkeypatch.setattr(
        bench, "MODEL", replace(bench.MODEL, vocab=64, out_vocab=64, layers=1, dim=32, heads=2, kv_heads=1, head_dim=16, hidden=32)
    )
    tiny = replace(bench.VIDEO_TOKENIZERS["dv8x16x16"], encoder_channels=2, decoder_channels=2, z_channels=4)
    monkeypatch.setitem(bench.VIDEO_TOKENIZERS, "dv8x16x16", tiny)
    for name, value in (("CAPACITY", 64), ("POSITION", 32), ("PROMPT", 48), ("PREFILL", 16)):
        monkeypatch.setattr(bench, name, value)
    copy = bench.copy_bandwidth
    monkeypatch.setattr(bench, "copy_bandwidth", lambda device: copy(device, 2**12))
    assert main(["bench", "cosmos", "steps=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(" " in line for line in lines)
    for line, word in zip(lines, ("copy bandwidth", "decode at position 32", "8 futures", "prefill", "encode", "decode"), strict=True):
        assert word in line


@pytest.mark.parametrize("words", [["work=[sleep]"], ["steps=0"]])
def test_bench_settings_that_cannot_be(words, capsys):
    assert main(["bench", "cosmos", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
