"""Damaged SentencePiece models: the short form of tools/campaigns/hostile_tokenizers.py."""

import hostile_tokenizers as campaign
import pytest

from wfm_ar.errors import BadCheckpoint
from wfm_ar.tokenizers.text import TextTokenizer


def test_two_hundred_models(tmp_path):
    report = campaign.run(200, 0, tmp_path)
    assert report.failures == [] and report.cases == 200


def test_pieces_that_are_not_text():
    """Bytes that the native parser takes and Python cannot read as text: an error of ours, not a UnicodeDecodeError."""
    model = bytearray(TextTokenizer.train(campaign.TEXTS, vocab_size=300).model_bytes)
    at = model.index(b"<0x41>")
    model[at : at + 2] = b"\xff\xff"
    with pytest.raises(BadCheckpoint, match="no SentencePiece model"):
        TextTokenizer(bytes(model))
