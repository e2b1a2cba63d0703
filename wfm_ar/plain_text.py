"""What may be shown of other people's words: control characters, escapes, line breaks and marks that turn the direction of writing
can rewrite a terminal or fake a line of a log. They are shown escaped wherever something is printed, and refused in ids and names."""

import re
from typing import TextIO

_LINES = "\n\r\t"
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


class PlainStream:
    """A terminal or log that gets plain text only, lines and tabs aside; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(shown(text, keep=_LINES))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
