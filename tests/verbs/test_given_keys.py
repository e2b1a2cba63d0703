"""Keys that the user set, and values put in by dotted key."""

from wfm_ar.cli import settings_of
from wfm_ar.verbs.given_keys import given, with_keys


def test_what_the_user_set_is_known_by_its_key_its_group_and_for_all_stages():
    assert given("stages.world_model.steps", ("steps",)) and given("stages.world_model.optimizer.ema", ("optimizer.ema",))
    assert given("model.layers", ("model",)) and given("tokenizer.height", ("height",)) and given("fps", ("fps",))
    assert not given("stages.world_model.steps", ("stages.video_tokenizer.steps", "data", "val_every"))
    assert not given("stages.world_model.training.crop", ("crop",)) and not given("model.layers", ("model.dim",))


def test_keys_replace_values_of_nested_settings():
    settings = settings_of("train", ["experiment=robot", "data=x"])
    changed = with_keys(settings, {"stages.world_model.steps": 7, "predictor.channels": [8, 16], "fps": 5.0})
    assert changed.stages.world_model.steps == 7 and changed.predictor.channels == (8, 16) and changed.fps == 5.0
    assert changed.stages.video_tokenizer == settings.stages.video_tokenizer and settings.fps is None
