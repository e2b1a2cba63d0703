"""JSON that may be anybody's: what is taken, and what is refused with a reason."""

import pytest

from wfm_ar.data.json_files import parse_json, read_json


def test_numbers_of_every_kind():
    values = parse_json("[0, -7, 18446744073709551616, 1.5e300, -1e-400, 2E3, " + "9" * 300 + "]")
    assert values == [0, -7, 2**64, 1.5e300, 0.0, 2000.0, 10**300 - 1] and float(values[-1]) == 1e300


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1" + "0" * 400, "a number of 401 digits, at most 300 are taken"),
        ('{"fps": -' + "9" * 5000 + "}", "a number of 5001 digits"),
        ("[1e999]", "1e999 is larger than any number"),
        ("[-1e309]", "-1e309 is larger than any number"),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ('{"a": 1, "a": 2}', "a key occurs twice"),
        ("[" * 200_000, "it is nested too deep"),
        ('{"a":' * 200_000, "it is nested too deep"),
        ("[1,]", "Illegal trailing comma|Expecting value"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_refused(text, told):
    with pytest.raises(ValueError, match=told):
        parse_json(text)


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(ValueError, match="it has 21474836480 bytes, at most 1048576 are taken"):
        read_json(tmp_path / "a.json")
