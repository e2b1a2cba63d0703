"""The WfmError tree: every mistake a user can make ends here as one clear line.

A message reads `where: got X, expected Y; fix: Z`, and its parts are attributes. The command line prints it without a traceback and
exits with `exit_code`. Programming mistakes of our own stay `assert` or ordinary exceptions.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Self

from wfm_ar.plain_text import shown

MOST_CHARACTERS = 3000  # of a message: names and values in it may be anybody's


class WfmError(Exception):
    """Base of all errors that a user can cause and mend. The message is one plain line.

    Give the whole line, or its parts by name; either way the parts can be asked for, and nobody else takes a line apart.

    Attributes:
        where: the file, key or argument that is wrong; "" where the line begins with what is wrong.
        got: what was found there.
        expected: what would be right; "" where `got` says it all.
        fix: what to do; "" where there is nothing to advise.
        number: of the item of a list that was wrong, where `within` was told one.
        inner: the error without the place that `within` put before it.
    """

    exit_code = 2

    def __init__(self, message: str = "", *, where: str = "", got: str = "", expected: str = "", fix: str = "") -> None:
        """message: the whole line, or with parts beside it what is wrong, in words of its own that stand for `got X`."""
        self.number: int | None = None
        self.inner: WfmError | None = None
        if where or got or expected or fix:
            line = f"{where}: " if where else ""
            line += str(message) or f"got {got}"
            line += f", expected {expected}" if expected else ""
            message = line + (f"; fix: {fix}" if fix else "")
        super().__init__(_one_line(message))
        problem, _, self.fix = str(self).partition("; fix: ")
        self.where, placed, what = problem.partition(": ")
        self.where, what = (self.where, what) if placed else ("", problem)
        if where:  # which may hold the marks of a line
            self.where, what = _one_line(where), problem.removeprefix(f"{_one_line(where)}: ")
        what, _, self.expected = what.partition(", expected ")
        self.got = what.removeprefix("got ")

    @property
    def problem(self) -> str:
        """The line without its advice."""
        return str(self).partition("; fix: ")[0]

    @property
    def what(self) -> str:
        """The line without its place and its advice."""
        return self.problem.removeprefix(f"{self.where}: ") if self.where else self.problem

    def within(self, where: str, number: int | None = None) -> Self:
        """The same error with the place around it before its line, the `number`-th of several."""
        outer = type(self)(f"{where}: {self}")
        outer.inner, outer.number = self, number
        return outer

    def reworded(self, ours: str, theirs: str) -> Self:
        """The same error in another layer's words: the name `ours` is `theirs` there."""
        return type(self)(str(self).replace(ours, theirs))


def _one_line(message: str) -> str:
    line = shown(re.sub(r"\s*[\r\n]\s*", " ", str(message)))
    if len(line) > MOST_CHARACTERS:
        line = f"{line[: MOST_CHARACTERS * 2 // 3]} ... {line[-MOST_CHARACTERS // 4 :]}"
    return line


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
