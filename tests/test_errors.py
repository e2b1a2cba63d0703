"""The parts of an error are what its line says, however it was made; nobody else takes lines apart."""

import ast
import copy
from pathlib import Path

import pytest

from wfm_ar import errors
from wfm_ar.errors import BadConfig, BadPrompt, WfmError


def test_parts_make_the_line_that_a_text_would() -> None:
    parts = BadConfig(where="top_p", got="1.5", expected="a number up to 1", fix="top_p=0.9")
    line = BadConfig("top_p: got 1.5, expected a number up to 1; fix: top_p=0.9")
    assert str(parts) == str(line) == "top_p: got 1.5, expected a number up to 1; fix: top_p=0.9"
    for error in (parts, line):
        assert (error.where, error.got, error.expected, error.fix) == ("top_p", "1.5", "a number up to 1", "top_p=0.9")
        assert error.problem == "top_p: got 1.5, expected a number up to 1"
        assert error.what == "got 1.5, expected a number up to 1"


def test_a_place_may_hold_the_marks_of_a_line_and_parts_are_as_short_and_plain_as_the_line() -> None:
    error = WfmError("is damaged", where="runs: old, expected ones/clip.mp4", fix="copy it again")
    assert (error.where, error.got, error.what) == ("runs: old, expected ones/clip.mp4", "is damaged", "is damaged")
    long = WfmError(where="clip\nmp4", got="\x1b" + "x" * 100_000, fix="shorten it")
    assert long.where == "clip mp4" and long.fix == "shorten it"
    assert long.got.startswith("\\x1bxx") and len(long.got) < len(str(long)) < 3100


def test_a_copy_as_another_process_sends_it_is_whole() -> None:
    error = copy.copy(BadPrompt("text: got 3; fix: 5").within("prompt 7", 7))
    assert (str(error), error.number, str(error.inner), error.fix) == ("prompt 7: text: got 3; fix: 5", 7, "text: got 3; fix: 5", "5")


def test_words_of_its_own_stand_for_what_was_got() -> None:
    error = WfmError("is damaged", where="clip.mp4", fix="copy it again")
    assert str(error) == "clip.mp4: is damaged; fix: copy it again"
    assert (error.got, error.expected, error.what) == ("is damaged", "", "is damaged")


@pytest.mark.parametrize("line", ["", "the disk is full", "stopped; fix: go on"])
def test_a_line_without_a_place_or_advice_has_none(line: str) -> None:
    error = WfmError(line)
    assert str(error) == line
    assert error.where == ""
    assert error.fix == line.partition("; fix: ")[2]
    assert error.what == error.problem == line.partition("; fix: ")[0]


def test_a_place_goes_before_the_line_and_comes_off_again() -> None:
    inner = BadPrompt("num_frames: got 3, expected 5; fix: 5")
    outer = inner.within("prompt 7", 7)
    assert type(outer) is BadPrompt
    assert str(outer) == "prompt 7: num_frames: got 3, expected 5; fix: 5"
    assert (outer.number, outer.inner) == (7, inner)
    assert (inner.number, inner.inner) == (None, None)
    assert str(inner.reworded("num_frames", "frames")) == "frames: got 3, expected 5; fix: 5"


def test_only_the_errors_themselves_know_how_a_line_is_made_up() -> None:
    """No call of a text's method or of re with the marks of a message in it, outside errors.py."""
    package = Path(errors.__file__).parent
    cuts = ("partition", "rpartition", "split", "rsplit", "removeprefix", "sub", "match", "search", "find")
    found = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if path.name == "errors.py" or not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            if node.func.attr in cuts and any(mark in text for text in texts for mark in ("; fix", ", expected", "prompt \\d")):
                found.append(f"{path.relative_to(package)}:{node.lineno}")
    assert not found
