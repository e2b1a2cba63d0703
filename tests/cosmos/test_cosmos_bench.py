"""The bench prints what it should; its numbers are for a quiet machine and not tested."""

from dataclasses import replace

import pytest
import torch

from wfm_ar.cli import main
from wfm_ar.cosmos import bench
from wfm_ar.tokenizers.video.model import VideoTokenizer
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.transformer import WorldModel


def test_every_work_prints_a_line(monkeypatch, capsys):
    monkeypatch.setattr(
        bench, "MODEL", replace(bench.MODEL, vocab=64, out_vocab=64, layers=1, dim=32, heads=2, kv_heads=1, head_dim=16, hidden=32)
    )
    tiny = replace(bench.VIDEO_TOKENIZERS["dv8x16x16"], encoder_channels=2, decoder_channels=2, z_channels=4)
    monkeypatch.setitem(bench.VIDEO_TOKENIZERS, "dv8x16x16", tiny)
    for name, value in (("CAPACITY", 64), ("POSITION", 32), ("PROMPT", 48), ("LATENT", 16)):
        monkeypatch.setattr(bench, name, value)
    copy = bench.copy_bandwidth
    monkeypatch.setattr(bench, "copy_bandwidth", lambda clock: copy(clock, 2**12))
    assert main(["bench", "cosmos", "work=[decode,batch,prefill,published,tokenizer]", "steps=2", "repeats=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    begins = (
        "copy bandwidth", "decode at position 32", "8 futures of one past", "the same 16 tokens later", "prefill of 48",
        "the published way", "the published way", "the published way", "DV8x16x16 encode", "DV8x16x16 decode",
    )  # fmt: skip
    assert len(lines) == len(begins) and all(line.startswith(begin) for line, begin in zip(lines, begins, strict=True)), lines
    assert all(word in lines[1] for word in ("tokens/s", "GB/s", "% of copying")) and "tokens/s" in lines[2] and "tokens/s" in lines[4]
    assert all("x (" in line for line in lines[5:])  # ratios to the published way, with their range


def test_the_published_way_gives_the_same_numbers():
    """It differs in what it costs alone."""
    tiny = replace(bench.MODEL, vocab=64, out_vocab=64, layers=2, dim=32, heads=4, kv_heads=2, head_dim=8, hidden=32)
    torch.manual_seed(0)
    model = WorldModel(tiny)
    torch.nn.init.normal_(model.head.weight, std=tiny.dim**-0.5)  # logits near 1, so that the tolerance means something
    ids, positions = torch.randint(64, (1, 9)), torch.randint(4, (1, 9, 3))
    answers = []
    for kind in (KVCache, bench.EverySlot):
        cache = kind(2, 1, 16, 2, 8, torch.float32, "cpu")
        with torch.no_grad():
            whole = model(ids[:, :6], positions[:, :6], cache=cache)
            answers.append(torch.cat((whole, *(model(ids[:, i : i + 1], positions[:, i : i + 1], cache=cache) for i in (6, 7, 8))), 1))
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=0)


def test_the_plain_tokenizer_gives_the_same_numbers():
    """So do the tokenizer's two ways: what is timed beside ours is the whole of the work."""
    config = replace(bench.VIDEO_TOKENIZERS["dv8x16x16"], encoder_channels=4, decoder_channels=4, height=32, width=48)
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(config).eval()
    video, tokens = torch.rand(1, 3, 17, 32, 48) * 2 - 1, torch.randint(64000, (1, 3, 2, 3))
    with torch.inference_mode():
        assert torch.equal(bench.plain_encode(tokenizer, video), tokenizer.encode(video))
        decoded = tokenizer.decode(tokens)
        assert decoded.std() > 0.01
        torch.testing.assert_close(bench.plain_decode(tokenizer, tokens), decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("words", [["work=[sleep]"], ["steps=0"], ["repeats=0"], ["decoding=quarter"]])
def test_bench_settings_that_cannot_be(words, capsys):
    assert main(["bench", "cosmos", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
