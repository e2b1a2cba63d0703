"""TFRecord files and Examples without TensorFlow: check sums against the published ones, and every way a file can be damaged."""

import numpy as np
import pytest
import tfrecord_maker as maker

from wfm_ar.data.tfrecord import LANES, byte_strings, crc32c, features_of, index_records, masked, read_record, unmasked, values_of
from wfm_ar.errors import BadData

example, message, varint, write_records = maker.example, maker.message, maker.varint, maker.write_records


def slow_crc(content: bytes) -> int:
    """Bit by bit, straight from the polynomial."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_published_check_sums():
    # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E and crc32c(b"123456789") == 0xE3069283
    assert unmasked(masked(0xE3069283)) == 0xE3069283


@pytest.mark.parametrize("size", [0, 1, 4 * LANES[1] - 1, 4 * LANES[1], 4 * LANES[0], 12 * LANES[0] + 4 * LANES[1] + 7])
def test_lanes_add_up(size):
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    assert crc32c(content) == slow_crc(content)


def test_what_was_written_comes_back(tmp_path):
    values = np.array([0.5, -2, 3e8], np.float32)
    records = [example(a=values, steps__b=[b"x", b"yy"], c=[1, 2, -3]), example(a=np.zeros(1, np.float32))]
    write_records(tmp_path / "a.tfrecord", records)
    places = index_records(tmp_path / "a.tfrecord")
    assert [length for _, length in places] == [len(one) for one in records]
    features = features_of(read_record(tmp_path / "a.tfrecord", 0, *places[0]), "here")
    assert (values_of(features["a"], "") == values).all() and values_of(features["a"], "").dtype == np.float32
    assert values_of(features["steps/b"], "") == [b"x", b"yy"] and [bytes(v) for v in byte_strings(features["steps/b"])] == [b"x", b"yy"]
    assert values_of(features["c"], "").tolist() == [1, 2, -3]
    assert byte_strings(features["a"]) == []


def test_numbers_that_are_not_packed():
    one_by_one = message(2, b"".join(varint(1 << 3 | 5) + np.float32(v).tobytes() for v in (1.5, 2.5)))
    assert values_of(one_by_one, "").tolist() == [1.5, 2.5]
    assert values_of(message(3, varint(1 << 3) + varint(300)), "").tolist() == [300]


def test_every_flipped_byte_and_every_cut_is_found(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [example(a=np.arange(3, dtype=np.float32))])
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(BadData, match="a.tfrecord record 0"):
            for number, place in enumerate(index_records(path)):
                read_record(path, number, *place)
        if at:
            path.write_bytes(whole[:at])
            with pytest.raises(BadData, match="a.tfrecord record 0"):
                index_records(path)


def test_what_is_no_example():
    for content in (
        b"\xff" * 40,
        message(1, message(1, message(2, b""))),
        b"\x0a\x7f\x01",
        message(1, b"\x0b"),
        message(1, message(1, b"\x08\x7f")),
    ):
        with pytest.raises(BadData, match="place: is no tf.train.Example"):
            features_of(content, "place")
    with pytest.raises(BadData, match="place: cannot be read"):
        values_of(message(3, message(1, b"\xff" * 11)), "place")


@pytest.mark.parametrize("name", ["a\nb", "\r", "x" * 201])
def test_a_name_that_cannot_stand_in_a_message_is_refused(name):
    """It would come back in messages, which are one line (found by coverage-guided fuzzing)."""
    with pytest.raises(BadData, match="a name of .* characters") as caught:
        features_of(maker.example(**{name: [1]}), "here")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    assert list(features_of(maker.example(**{"x" * 200: [1]}), "here")) == ["x" * 200]


def test_integers_are_those_of_python():
    numbers = [0, 1, 127, 128, 300, (1 << 63) - 1, -1, -(1 << 63)]
    packed = b"".join(maker.varint(number & (1 << 64) - 1) for number in numbers)
    assert values_of(message(3, message(1, packed)), "here").tolist() == numbers
    assert values_of(message(3, b"\x08\x05\x08\x07"), "here").tolist() == [5, 7]
    for broken in (b"\x80", b"\x80" * 10 + b"\x01", b"\xff" * 9 + b"\x02"):
        with pytest.raises(BadData, match="leads out of the record|more than 64 bits"):
            values_of(message(3, message(1, broken)), "here")


def test_records_of_nothing_but_fields_are_refused_at_once():
    for content in (bytes(1 << 20), b"\x18\x00" * (1 << 19), message(1, b"\x0a\x02\x12\x00" * 2000)):
        with pytest.raises(BadData, match="a field without a number|more than 10000 fields|more than 1000 fields|is no tf.train.Example"):
            features_of(content, "here")
