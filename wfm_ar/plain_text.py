"""What may be shown of other people's words: control characters, escapes, line breaks and marks that turn the direction of writing
can rewrite a terminal or fake a line of a log. They are shown escaped wherever something is printed, and refused in ids and names."""

import re
from typing import Any, TextIO

# of the invisible characters, the two joiners that scripts and emoji need are let be
_UNPLAIN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def is_plain(text: str) -> bool:
    """Whether it is one line without anything that a terminal acts on."""
    return not _UNPLAIN.search(text)


def shown(text: str, keep: str = "") -> str:
    r"""The text with what is not plain written as \x1b, \u202e; characters of `keep` stay."""
    return _UNPLAIN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def print_lines(text: str, **how: Any) -> None:
    """Prints several lines. A PlainStream takes them for what they are, since each is a write of its own; values in them are plain."""
    print(*text.removesuffix("\n").split("\n"), sep="\n", **how)


class PlainStream:
    """A terminal or log that gets plain text only; all else is the stream's own.

    A write is one line, tabs and its end aside: a break within it comes from somebody's value, a path say, and is shown escaped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.several = False  # set: a write may hold several lines

    def write(self, text: str) -> int:
        line = text.rstrip("\r\n")
        again = "\r" if line.startswith("\r") else ""  # as what counts up begins, in its own line
        plain = shown(line.removeprefix(again), keep="\t\n" if self.several else "\t")
        self._stream.write(again + plain + text[len(line) :])
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def beneath(stream: TextIO) -> TextIO:
    """The terminal itself, for a program that draws on it with escape codes and is given plain text alone."""
    return stream._stream if isinstance(stream, PlainStream) else stream
