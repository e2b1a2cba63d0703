"""Constant channels cost no tokens; several robots share one vocabulary and no id."""

import numpy as np
import pytest

from wfm_ar.errors import BadActions, BadData
from wfm_ar.schema import ActionChannel, ActionSchema, MixedSchema, schema_from_json
from wfm_ar.tokenizers.action import ActionTokenizer, ActionVocabulary


def channel(name, bins=5, **more):
    return ActionChannel(**dict(name=name, unit="", low=-1, high=1, bins=bins) | more)


ARM = ActionSchema(channels=(channel("x"), channel("stuck", low=0.5, high=0.5, constant=True), channel("y", 7)), rate_hz=5)
HAND = ActionSchema(channels=(channel("grip", 2),), rate_hz=10)
MIXED = MixedSchema(embodiments=(("arm", ARM), ("hand", HAND)))


def test_constant_channels_have_no_column_and_come_back():
    tokenizer = ActionTokenizer(ARM)
    bins, clipped = tokenizer.encode(np.array([[-1, 0.5, 1], [0, 0.6, 0]], np.float32))
    assert tokenizer.bins == (5, 7) and bins.tolist() == [[0, 6], [2, 3]] and clipped == 1  # 0.6 is not what it always is
    assert tokenizer.decode(bins).tolist() == [[-1, 0.5, 1], [0, 0.5, 0]]
    with pytest.raises(BadActions, match=r"expected \[N, 2\]"):
        tokenizer.decode(np.zeros((1, 3), np.int64))


def test_every_robot_has_columns_of_its_own():
    vocabulary = ActionVocabulary(MIXED)
    assert vocabulary.bins == (5, 7, 2) and (vocabulary.columns("arm"), vocabulary.columns("hand")) == (range(0, 2), range(2, 3))
    assert vocabulary.encode(np.array([[1, 0.5, 0]]), "arm").tolist() == [[4, 3, -1]]
    assert vocabulary.encode(np.array([[1.0]]), "hand").tolist() == [[-1, -1, 1]] and vocabulary.absent(1).tolist() == [[-1, -1, -1]]
    with pytest.raises(BadData, match="embodiment: got 'hans'.*hand.*expected one of"):
        vocabulary.encode(np.zeros((1, 1)), "hans")
    with pytest.raises(BadActions, match=r"expected \[N, 3\]"):
        vocabulary.encode(np.zeros((1, 1)), "arm")
    alone = ActionVocabulary(HAND)
    assert alone.columns() == range(1) and alone.encode(np.array([[1.0]]), "whatever").tolist() == [[1]]


def test_json_of_either_kind_comes_back():
    for schema in (ARM, MIXED):
        assert schema_from_json(schema.to_json()) == schema and schema.diff(schema_from_json(schema.to_json())) == ""
    other = MixedSchema(embodiments=(("arm", ARM), ("hand", ARM)))
    assert MIXED.diff(other).startswith("hand: rate_hz 10 != 5") and MIXED.diff(ARM) == "2 robots (arm, hand) != one"
    assert ARM.diff(MIXED) == "one robot != 2: arm, hand"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"motion": "jump"}, "motion is 'jump'"),
        ({"rotation": "eulr"}, "rotation is 'eulr' .did you mean .euler"),
        ({"constant": True}, "low -1.0 and high 1.0 of a constant channel"),
        ({"constant": 1}, "constant is 1, expected true or false"),
    ],
)
def test_declarations_that_cannot_be(change, line):
    with pytest.raises(BadData, match=line):
        channel("x", **change)
    with pytest.raises(BadData, match="expected two or more distinct plain names"):
        MixedSchema(embodiments=(("a", ARM), ("a", HAND)))
    with pytest.raises(BadData, match="embodiment 'a': action schema"):
        schema_from_json({"embodiments": {"a": {}, "b": {}}})
