"""What is shown of other people's words: errors, sets, schemas, and everything that a command prints."""

import io

import pytest

from wfm_ar.errors import BadData, WfmError
from wfm_ar.plain_text import PlainStream, beneath, is_plain, print_lines, shown
from wfm_ar.schema import ActionChannel, MixedSchema

CLEAR, TITLE, TURN = "\x1b[2J", "\x1b]0;owned\x07", "\u202etxt.4pm"


@pytest.mark.parametrize("text", ["push the cube", "größe", "立方体を押す", "می‌خواهم", "👩‍🔬 grasps", "x²", ""])
def test_words_of_every_script_stay(text):
    assert is_plain(text) and shown(text) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CLEAR, r"\x1b[2J"),
        (TITLE, r"\x1b]0;owned\x07"),
        (TURN, r"\u202etxt.4pm"),
        ("a\nwfm: done", r"a\nwfm: done"),
        ("100 %\r", r"100 %\r"),
        ("\x9b31m\u2028\u2066\ufeff\ud800\U000e0041", r"\x9b31m\u2028\u2066\ufeff\ud800\U000e0041"),
    ],
)
def test_what_a_terminal_acts_on_is_escaped(text, told):
    assert not is_plain(text) and shown(text) == told


def test_a_stream_keeps_lines_and_its_own_ways():
    under = io.StringIO()
    stream = PlainStream(under)
    assert stream.write(f"\ra\tb{CLEAR}\r\n") == 10
    stream.writelines([TURN, "\n"])
    assert stream.getvalue() == "\ra\tb\\x1b[2J\r\n\\u202etxt.4pm\n" and not stream.isatty()


def test_a_write_is_one_line_and_several_lines_are_several_writes():
    under = io.StringIO()
    stream = PlainStream(under)
    print("out/a\nwfm: done\r.mp4: made", file=stream)
    print("\nb", file=stream)
    print_lines("one\ntwo\n", file=stream)
    stream.several = True
    print(f"a: 1\nb: {CLEAR}", file=stream)
    assert stream.getvalue().splitlines() == [r"out/a\nwfm: done\r.mp4: made", r"\nb", "one", "two", "a: 1", r"b: \x1b[2J"]
    assert beneath(stream) is under and beneath(under) is under


def test_errors_are_one_plain_line_of_bounded_length():
    assert str(BadData(f"a{CLEAR}\nb; fix: c")) == r"a\x1b[2J b; fix: c"
    long = str(WfmError("x" * 10_000_000 + "; fix: shorten it"))
    assert len(long) < 3000 and long.startswith("xxx") and long.endswith("; fix: shorten it")


@pytest.mark.parametrize("odd", [CLEAR, "a\nb", TURN])
def test_names_of_channels_and_robots_are_plain(odd):
    sound = dict(name="dx", unit="m", low=-1, high=1)
    for key in ("name", "unit"):
        with pytest.raises(BadData, match=f"{key} is .*expected text of one line"):
            ActionChannel(**sound | {key: odd})
    with pytest.raises(BadData, match="distinct plain names"):
        MixedSchema(embodiments=(("arm", None), (odd, None)))
