"""Captions that the user brings: a file of them, or a command that looks at a clip and prints one."""

import json
import shlex
import subprocess
from pathlib import Path

from wfm_ar.data.json_files import read_bytes
from wfm_ar.errors import BadConfig, BadData

LONGEST = 4096  # characters
LIST_BYTES = 256 << 20


def read_captions(path: Path) -> dict[str, str]:
    """A JSONL file of {"id": ..., "text": ...} -> text by id, of a source or of one of its clips. Raises BadData, naming the line."""
    try:
        lines = read_bytes(path, LIST_BYTES).decode().splitlines()
    except (OSError, ValueError) as error:
        raise BadData(f'{path}: cannot be read ({error}), expected JSON lines {{"id": ..., "text": ...}}; fix: check the path') from None
    captions: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path} line {number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{where}: is not JSON ({error}), expected one object a line; fix: write it with a JSON library") from None
        if not isinstance(data, dict) or data.keys() != {"id", "text"} or not all(isinstance(value, str) for value in data.values()):
            raise BadData(f"{where}: got {str(data)[:80]}, expected the keys id and text with texts; fix: see `wfm data curate --help`")
        if data["id"] in captions:
            raise BadData(f"{where}: id {data['id']!r} has a caption already, expected one; fix: remove a line")
        captions[data["id"]] = clean(data["text"], where)
    return captions


def run_captioner(command: str, clip: Path, timeout_s: float) -> str:
    """What `command` prints for a clip, as one line. {clip} in it stands for the file, else the file comes last; no shell is involved.

    Raises BadConfig where it cannot be started, BadData where it fails, takes too long, or prints nothing.
    """
    words = arguments(command)
    words = [word.replace("{clip}", str(clip)) for word in words] if "{clip}" in command else [*words, str(clip)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired:
        raise BadData(
            f"{clip}: the caption command took longer than {timeout_s:g} s, expected a caption; fix: raise caption_timeout_s, or mend it"
        ) from None
    except OSError as error:
        raise BadConfig(
            f"caption_command: {words[0]!r} cannot be started ({error.strerror}), expected a program; fix: check its path"
        ) from None
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1][:200]
        raise BadData(f"{clip}: the caption command ended with {done.returncode} ({said}), expected 0; fix: mend it, then run again")
    return clean(done.stdout.decode(errors="replace"), f"{clip}: the caption command's output")


def arguments(command: str) -> list[str]:
    """The words of a command line. Raises BadConfig."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadConfig(f"caption_command: {command!r} cannot be parted into words ({error}); fix: balance the quotes") from None
    if not words:
        raise BadConfig(f"caption_command: got {command!r}, expected a program and its arguments; fix: name one, or leave it out")
    return words


def clean(text: str, where: str) -> str:
    """One line without double spaces. Raises BadData for an empty or endless one."""
    line = " ".join(text.split())
    if not line or len(line) > LONGEST:
        raise BadData(f"{where}: got {len(line)} characters of text, expected 1 to {LONGEST}; fix: write a caption")
    return line
