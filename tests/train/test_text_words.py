"""The words of the training texts stay with a run and go into its world; a run that cannot know them says none."""

from tiny_stages import TEXTS

from wfm_ar.tokenizers.text import TextTokenizer, words_of
from wfm_ar.train import stages


def test_a_run_keeps_the_words_it_was_trained_on(tmp_path):
    text = stages.text_tokenizer(tmp_path, TEXTS, 300, 12)
    assert text is not None and text.words == words_of(TEXTS)
    stages.keep_text_tokenizer(tmp_path, text)
    again = stages.text_tokenizer(tmp_path, ["other texts"], 300, 12)
    assert again.words == text.words and again.model_bytes == text.model_bytes


def test_a_run_begun_from_a_world_of_unknown_words_names_none(tmp_path):
    text = TextTokenizer.train(TEXTS, vocab_size=300)
    stages.keep_text_tokenizer(tmp_path, TextTokenizer(text.model_bytes))
    again = stages.text_tokenizer(tmp_path, TEXTS, 300, 12)
    assert again is not None and again.words is None and again.never_trained("teapot") == []
