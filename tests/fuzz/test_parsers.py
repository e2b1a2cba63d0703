"""What coverage-guided fuzzing kept (tools/campaigns/coverage_guided.py): inputs that reach other parts of a parser, base64 a line."""

import base64
from pathlib import Path

import parsers
import pytest

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", parsers.TARGETS)
def test_what_was_kept_is_taken_or_refused_in_one_line(target):
    contents = [base64.b64decode(line) for line in (CORPUS / f"{target}.txt").read_text().splitlines()]
    assert len(contents) >= 5
    refused = sum(not parsers.check(target, content) for content in contents)
    assert refused > 0 or target == "json"  # its errors are not told apart


@pytest.mark.parametrize("target", parsers.TARGETS)
def test_sound_inputs_are_taken(target):
    """Else refusing everything would pass; and a parser that a rename left without its file would too."""
    taken = [parsers.check(target, content) for content in parsers.seeds(target)]
    assert any(taken) or target == "checkpoint"  # a manifest without its files is none
