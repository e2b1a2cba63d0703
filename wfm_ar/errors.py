"""The WfmError tree: every mistake a user can make ends here as one clear line.

A message reads `what, where: got X, expected Y; fix: Z`. The command line prints it without a traceback and exits with
`exit_code`. Programming mistakes of our own stay `assert` or ordinary exceptions.
"""

import difflib
import re
from collections.abc import Iterable

from wfm_ar.plain_text import shown

MOST_CHARACTERS = 3000  # of a message: names and values in it may be anybody's


class WfmError(Exception):
    """Base of all errors that a user can cause and mend. The message is one plain line."""

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        line = shown(re.sub(r"\s*[\r\n]\s*", " ", str(message)))
        if len(line) > MOST_CHARACTERS:
            line = f"{line[: MOST_CHARACTERS * 2 // 3]} ... {line[-MOST_CHARACTERS // 4 :]}"
        super().__init__(line)


class BadClip(WfmError):
    """A video or image that cannot be read whole, or whose shape does not fit."""


class BadData(WfmError):
    """A data set, manifest or schema that does not hold together."""


class BadConfig(WfmError):
    """A setting that is unknown, missing, or out of range."""


class BadCheckpoint(WfmError):
    """A checkpoint that is incomplete, corrupted, or made for something else."""


class BadPrompt(WfmError):
    """A prompt (text, frames) the model cannot take."""


class BadActions(WfmError):
    """Actions of the wrong width, length, or value."""


class OutputExists(WfmError):
    """The output is there already and overwriting was not asked for."""


class NoSpace(WfmError):
    """The disk is full."""


class HubError(WfmError):
    """A hub that cannot be reached, refuses, or sends something else."""


class MissingDependency(WfmError):
    """An optional package is needed and not installed."""


class Note(UserWarning):
    """What was done beside what was asked for, and a user should know. The command line prints it as one line."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """' (did you mean "x"?)' with the choice most like `name`, or '' where none is near."""
    found = difflib.get_close_matches(str(name), [str(choice) for choice in choices], n=1)
    return f' (did you mean "{found[0]}"?)' if found else ""
