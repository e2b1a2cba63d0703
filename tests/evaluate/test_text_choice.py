"""The right text among wrong ones: a reader finds it, who does not read finds none."""

from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.text_choice import text_choice_numbers

TEXTS = [f"task {i}" for i in range(6)]


def clips(texts):
    return [Clip(id=str(i), text=text, frames=None, actions=None, peg_xy=None) for i, text in enumerate(texts)]


def test_a_reader_and_one_who_does_not_read():
    reads = text_choice_numbers(clips(TEXTS * 2), TEXTS, lambda clip, text: 1.0 if text == clip.text else 3.0)
    assert reads["right"] == [1, 1, 1] and reads["gap"] == [2, 2, 2] and reads["chance"] == 0.25
    blind = text_choice_numbers(clips(TEXTS * 2), TEXTS, lambda clip, text: 2.0)
    assert blind["right"] == [0, 0, 0] and blind["gap"] == [0, 0, 0]


def test_half_right_is_told_with_its_interval():
    some = text_choice_numbers(clips(TEXTS * 4), TEXTS, lambda clip, text: (int(clip.id) % 2) * (text == clip.text) * -2 + 2)
    mean, low, high = some["right"]
    assert mean == 0.5 and 0.2 < low < 0.5 < high < 0.8


def test_fewer_texts_make_a_likelier_chance_and_one_makes_no_question():
    two = text_choice_numbers(clips(TEXTS[:2]), TEXTS[:2], lambda clip, text: float(text != clip.text))
    assert two["chance"] == 0.5 and two["clips"] == 2
    assert text_choice_numbers(clips(TEXTS[:1]), TEXTS[:1], lambda clip, text: 0.0) is None
    assert text_choice_numbers(clips([None]), TEXTS, lambda clip, text: 0.0) is None
