"""The table of bars: what reaches what, and what was not measured never passes."""

import pytest

from wfm_ar.evaluate.bars import BARS, judge, markdown_table, verdict


def rows_of(**sections) -> dict[str, dict]:
    return {row["key"]: row for row in judge(sections)}


@pytest.mark.parametrize(
    ("value", "passed", "reaches_aim", "word"),
    [
        (36.0, True, True, "aim"),
        (35.0, True, True, "aim"),
        (31.0, True, False, "bar"),
        (30.0, True, False, "bar"),
        (29.99, False, False, "no"),
    ],
)
def test_higher_is_better(value, passed, reaches_aim, word):
    row = rows_of(tokenizer={"psnr": value})["tokenizer.psnr"]
    assert (row["measured"], row["passed"], row["reaches_aim"], verdict(row)) == (value, passed, reaches_aim, word)


def test_lower_is_better():
    rows = rows_of(actions={"r_shuffled": 0.21}, refined={"edge_change": -0.16, "flicker_change": 0.01})
    assert rows["actions.r_shuffled"]["passed"] is False
    assert rows["refined.edge_change"]["passed"] is True
    assert rows["refined.flicker_change"]["passed"] is False


def test_what_was_not_measured_does_not_pass():
    rows = rows_of(text=None, speed={"frames_per_second": None})
    for key in ("text.followed", "speed.frames_per_second", "tokenizer.psnr"):
        assert rows[key]["measured"] is None and rows[key]["passed"] is False and verdict(rows[key]) == "not measured"


def test_every_row_of_the_contract_is_there():
    goals = {bar.key: (bar.bar, bar.aim) for bar in BARS}
    assert len(goals) == len(BARS)
    assert goals["objects.copy_iou"] == (0.85, 0.92) and goals["objects.copy_shape_right"] == (0.95, 0.99)
    assert goals["objects.moved_iou_16"] == (0.65, 0.8) and goals["objects.moved_iou_32"] == (0.6, 0.75)
    assert [goals[f"objects.moved_{name}"] for name in ("vanished", "other_colour", "doubled")] == [
        (0.05, 0.01),
        (0.02, 0.01),
        (0.02, 0.01),
    ]
    assert goals["objects.untouched_iou_32"] == (0.93, 0.97) and goals["objects.untouched_vanished_32"] == (0.01, 0)
    assert goals["actions.found_driven"] == (0.97, 0.99) and goals["actions.r_driven"] == (0.95, 0.98)
    assert goals["actions.r_shuffled"][0] == 0.2
    assert (
        goals["text.followed"] == (0.8, 0.95) and goals["text.alone_there"] == (0.9, 0.98) and goals["text.alone_followed"] == (0.6, 0.85)
    )
    assert goals["free_run.there_at_the_end"] == (0.8, 0.95)
    assert goals["tokenizer.psnr"] == (30, 35) and goals["tokenizer.ssim"] == (0.93, 0.97) and goals["tokenizer.code_usage"] == (0.5, 0.9)
    assert (
        goals["refined.edge_change"] == (-0.15, -0.25) and goals["refined.psnr_change"][0] == 0 and goals["refined.flicker_change"][0] == 0
    )
    assert goals["speed.frames_per_second"] == (15, 30) and goals["speed.stream_p95_ms"] == (150, 60)
    assert goals["speed.demo_peak_bytes"] == (2 * 2**30, 2**30)


def test_the_markdown_table_shows_numbers_as_people_write_them():
    table = markdown_table(judge({"tokenizer": {"psnr": 31.456, "code_usage": 0.875}, "speed": {"demo_peak_bytes": 1.5 * 2**30}}))
    assert "| video tokenizer, PSNR | ≥ 30 dB | ≥ 35 dB | 31.46 dB | bar |" in table
    assert "| codes used over the held-out split | ≥ 50 % | ≥ 90 % | 87.5 % | bar |" in table
    assert "| peak memory of `wfm demo` | ≤ 2 GiB | ≤ 1 GiB | 1.50 GiB | bar |" in table
    assert table.count("| not measured | not measured |") == len(BARS) - 3
