"""conf/: every choice of every group composes and builds, and the published sizes are what their names say."""

from dataclasses import MISSING, asdict, fields, is_dataclass

import pytest
import torch

from wfm_ar.cli import settings_of
from wfm_ar.cli_help import conf_dir
from wfm_ar.data.curate.settings import CurateConfig
from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.errors import BadConfig
from wfm_ar.evaluate.settings import EvaluateConfig
from wfm_ar.simulate.planner import PlanConfig
from wfm_ar.simulate.play.config import PlayConfig
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.train.settings import LoopConfig
from wfm_ar.verbs.train import loop_config
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig

DERIVED = {  # keys that a user does not set: they follow from the tokenizers and the data
    WorldModelConfig: {"vocab", "out_vocab", "hint_width", "scene_digits", "scene_words"},
    DenoiserConfig: {"temporal_compression", "spatial_compression", "code_channels", "residual_scale"},
    VideoTokenizerConfig: set(),
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.mark.parametrize(("group", "name"), [(g, n) for g in ("experiment", "model", "tokenizer", "decoder") for n in choices(g)])
def test_every_choice_builds(group, name):
    settings = settings_of("train", [f"{group}={name}", "data=x"])
    assert isinstance(settings.tokenizer, VideoTokenizerConfig) and isinstance(settings.model, WorldModelConfig)


@pytest.mark.parametrize(("group", "kind"), [("model", WorldModelConfig), ("tokenizer", VideoTokenizerConfig), ("decoder", DenoiserConfig)])
def test_groups_name_every_key_that_can_be_set(group, kind):
    """hydra lets a user override only what the file names, so a key that is missing there cannot be reached."""
    from wfm_ar.cli import _compose, _verb_named

    shown = set(_compose(_verb_named("train"), [])[group])
    assert shown == {field.name for field in fields(kind)} - DERIVED[kind]


@pytest.mark.parametrize(("name", "low", "high"), [("nano", 1e6, 20e6), ("super", 250e6, 350e6), ("ultra", 1e9, 4e9)])
def test_model_sizes(name, low, high):
    """Built without memory, on the meta device."""
    settings = settings_of("train", [f"model={name}"])
    grid_h, grid_w = settings.tokenizer.grid
    sequence = Sequence(SequenceConfig(video_vocab=1000, grid_h=grid_h, grid_w=grid_w, rate=4, action_bins=(64, 64), text_vocab=512))
    with torch.device("meta"):
        model = WorldModel(WorldModelConfig(**asdict(settings.model) | sequence.model_vocabularies()))
    weights = sum(parameter.numel() for key, parameter in model.named_parameters() if not key.startswith("hints"))
    assert low <= weights <= high, f"{weights / 1e6:.0f}M"


def test_published_tokenizer_rates():
    """64,000 codes at 8 x 16 x 16 and 4 x 8 x 8, the published parameter count within a hundredth (its quantiser aside)."""
    published = {"dv8x16x16": 110_898_294, "dv4x8x8": 112_619_766}
    for name, parameters in published.items():
        config = settings_of("train", [f"tokenizer={name}"]).tokenizer
        with torch.device("meta"):
            tokenizer = VideoTokenizer(config)
        assert tokenizer.codebook_size == 64_000
        assert sum(p.numel() for p in tokenizer.parameters()) == pytest.approx(parameters, rel=0.01), name


def test_decoders_build():
    for name in choices("decoder"):
        settings = settings_of("train", [f"decoder={name}"])
        with torch.device("meta"):
            assert sum(p.numel() for p in Denoiser(settings.decoder).parameters()) > 1000


def test_what_is_set_for_all_stages_goes_before_their_own():
    settings = settings_of("train", ["experiment=smoke", "steps=7", "optimizer.lr=0.5", "optimizer.betas=[0.1,0.2]", "seed=3"])
    plain = settings_of("train", ["experiment=smoke"])
    for name in ("video_tokenizer", "world_model", "diffusion_decoder"):
        loop, own = loop_config(settings, name), loop_config(plain, name)
        assert isinstance(loop, LoopConfig) and (loop.steps, loop.optimizer.lr, loop.optimizer.betas, loop.seed) == (7, 0.5, (0.1, 0.2), 3)
        assert own.steps == getattr(plain.stages, name).steps and own.optimizer == getattr(plain.stages, name).optimizer
        assert (loop.batch_size, loop.optimizer.ema) == (own.batch_size, own.optimizer.ema)
    settings = settings_of("train", ["experiment=smoke", "stages.world_model.steps=9"])
    assert [loop_config(settings, name).steps for name in ("video_tokenizer", "world_model")] == [plain.stages.video_tokenizer.steps, 9]


def test_wrong_values_are_told_before_the_first_step():
    for override, word in {
        "steps=0": "steps",
        "optimizer.lr=-1": "lr",
        "precision=fp8": "precision",
        "tokenizer.levels=[1]": "levels",
        "model.heads=5": "heads",
        "decoder.predict=noise": "predict",
        "stages.world_model.training.text_dropot=1": "text_dropot",
    }.items():
        with pytest.raises(Exception, match=word) as caught:
            settings_of("train", ["experiment=smoke", override])
        assert isinstance(caught.value, BadConfig) or "text_dropot" in override
    with pytest.raises(BadConfig, match="auto or never"):
        settings_of("train", ["stage=all", "resume=somewhere"])


def test_run_folders():
    assert str(settings_of("train", ["experiment=smoke"]).run) == "runs/smoke"
    assert str(settings_of("train", ["experiment=tabletop"]).run) == "runs/tabletop"
    assert str(settings_of("train", ["experiment=smoke", "name=mine"]).run) == "runs/mine"


def differing(shown, kind: type | None = None) -> set[str]:
    """The settings that a composed config has otherwise than the class's own defaults; those that have none are left out.

    Of a group within, such as `optimizer`, each is named with a dot. kind: the class, where it is another than that of `shown`.
    """
    found = set()
    for field in fields(kind or type(shown)):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING or not hasattr(shown, field.name):
            continue
        value = getattr(shown, field.name)
        if is_dataclass(default):
            found |= {f"{field.name}.{name}" for name in differing(value)}
        elif value != default:
            found.add(field.name)
    return found


@pytest.mark.parametrize(
    ("verb", "kind"), [("plan", PlanConfig), ("evaluate", EvaluateConfig), ("data curate", CurateConfig), ("play", PlayConfig)]
)
def test_a_command_without_wishes_has_the_defaults_of_its_class(verb, kind):
    required = {"data curate": ["src=x", "out=y"], "plan": ["goal=x.png", "image=y.png"]}
    settings = settings_of(verb, required.get(verb, []))
    assert isinstance(settings, kind)
    assert differing(settings, kind) == set()


# Where conf/train.yaml and the files it names by default differ from the classes, and why. All other defaults are the same in both.
EXCEPTIONS = {
    # a schedule belongs to a stage: the loop has one class for all of them
    "video_tokenizer.loop": {"steps"},
    "frame_predictor.loop": {"steps", "batch_size", "optimizer.lr", "optimizer.min_lr_ratio", "optimizer.ema"},
    "world_model.loop": {"steps", "optimizer.warmup_steps", "optimizer.weight_decay"},
    "diffusion_decoder.loop": {"steps"},
    "inverse_dynamics.loop": {"steps", "optimizer.weight_decay", "optimizer.ema"},
    # the class alone is the plain objective; these are a recipe for data like the tabletop's
    "frame_predictor.training": {"active", "begun"},
    # worlds whose world.json does not say how tokens are drawn, and converted Cosmos worlds, take the class's values
    "sampling": {"image_temperature", "image_top_p"},
    # the class describes the rows of any world, those of published models and of worlds without text among them
    "sequence": {"action_sums", "text_vocab"},
}


def test_training_without_an_experiment_has_the_defaults_of_its_classes():
    settings = settings_of("train", ["data=x", "~experiment", "predictor=tabletop", "inverse_dynamics=small"])
    groups = ("tokenizer", "predictor", "model", "decoder", "inverse_dynamics", "sampling", "finetune", "watchdog")
    found = {name: differing(getattr(settings, name)) for name in groups}
    found["sequence"] = differing(settings.sequence, SequenceConfig)
    for field in fields(settings.stages):
        found[f"{field.name}.training"] = differing(getattr(settings.stages, field.name).training)
        found[f"{field.name}.loop"] = differing(loop_config(settings, field.name))
    assert {name: names for name, names in found.items() if names} == EXCEPTIONS
