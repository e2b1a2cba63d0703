"""Lines of episodes.jsonl: what is refused, with words that say where and how to fix it."""

import json

import pytest

from wfm_ar.data.episodes_jsonl import parse_line
from wfm_ar.errors import BadData

LINE = {"id": "a", "video": "videos/a.mp4", "text": "go", "fps": 10, "split": "train"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("video"), "key 'video' is missing"),
        (lambda d: d.update(vidoe="a"), "unknown key 'vidoe' .did you mean .video"),
        (lambda d: d.update(fps="10"), "fps is '10'"),
        (lambda d: d.update(fps=0), "fps is 0"),
        (lambda d: d.update(fps=True), "fps is True"),
        (lambda d: d.update(split="valid"), "split is 'valid' .did you mean .val"),
        (lambda d: d.update(text="  "), "text is '  '"),
        (lambda d: d.update(text=3), "text is 3"),
        (lambda d: d.update(id=3), "id is 3"),
        (lambda d: d.update(video="/etc/passwd"), "leads out of the folder"),
        (lambda d: d.update(video="../a.mp4"), "leads out of the folder"),
        (lambda d: d.update(video="videos/../../a.mp4"), "leads out of the folder"),
        (lambda d: d.update(state="link/a.npz"), "leads out of the folder"),
        (lambda d: d.update(actions="a\0b"), "leads out of the folder"),
    ],
)
def test_bad_lines(tmp_path, change, words):
    (tmp_path / "link").symlink_to("/etc")
    data = dict(LINE)
    change(data)
    with pytest.raises(BadData, match=words) as caught:
        parse_line(json.dumps(data).encode(), "episodes.jsonl line 7", tmp_path)
    assert str(caught.value).startswith("episodes.jsonl line 7: ") and "; fix: " in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"3", b'{"id": "a", "id": "b"}', b'{"fps": NaN}', b'{"id": "\xff"}', b"[" * 100_000],
    ids=["empty", "half", "list", "number", "double", "nan", "utf8", "deep"],
)
def test_lines_that_are_no_object(tmp_path, line):
    with pytest.raises(BadData, match="^line 1: "):
        parse_line(line, "line 1", tmp_path)
