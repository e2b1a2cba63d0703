"""A bar on a real terminal: drawn with escape codes, while what is printed meanwhile stays plain and in one line."""

import os
import pty
import subprocess
import sys

import pytest

PROGRAM = r"""
import sys
from wfm_ar.plain_text import PlainStream
from wfm_ar.progress_bar import ProgressBar
sys.stdout, sys.stderr = before = PlainStream(sys.stdout), PlainStream(sys.stderr)
with ProgressBar() as bar:
    task = bar.add_task("work", total=2)
    bar.advance(task)
    print("out/a\nb\x1b[2J[red].mp4: made", flush=True)
    bar.advance(task)
assert (sys.stdout, sys.stderr) == before
print("end\x1b[2J")
"""


@pytest.mark.slow
def test_a_bar_is_drawn_and_the_rest_is_plain():
    ours, theirs = pty.openpty()
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=theirs, stdout=theirs, stderr=theirs, env=variables) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux says so at the end of a terminal
                break
            if not piece:
                break
            said += piece
    os.close(ours)
    text = said.decode()
    assert process.returncode == 0, text
    assert "\x1b[2K" in text and "100%" in text and r"\x1b[?25l" not in text  # the terminal is drawn on, not written at
    assert r"out/a\nb\x1b[2J[red].mp4: made" in text and r"end\x1b[2J" in text and "\x1b[2J" not in text
