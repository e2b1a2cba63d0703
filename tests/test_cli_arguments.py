"""Overrides as they are handed to hydra: words and paths arrive as they were typed."""

from pathlib import Path

import pytest

from wfm_ar.cli import settings_of
from wfm_ar.cli_arguments import quoted


@pytest.mark.parametrize(
    "value",
    [
        "push the red cube left",
        "left, then right",
        "don't",
        'say "hi"',
        "a=b",
        "(x)[y]{z}",
        "back\\slash",
        "ends with \\",
        "quote then backslash '\\",
        "\\'",
        "1e3",
        "true",
        "x:y",
        "日本語 ✓",
        "a #b",
        "  spaces  ",
        "$HOME",
        "%d",
        "*?!",
    ],
)
def test_words_and_paths_need_no_second_quoting(value):
    assert settings_of("data check", [f"path={value}"]).path == Path(value)


def test_what_is_not_quoted():
    assert quoted("null") == "null" and quoted("") == "" and quoted("'a b'") == "'a b'" and quoted("${out}") == "${out}"
