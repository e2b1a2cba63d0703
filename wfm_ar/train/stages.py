"""How the stages hang together in a run folder: what each one needs of the one before, and the world at the end.

run/video_tokenizer/   checkpoints of stage 1
run/frames/            decoded frames, see wfm_ar/data/frame_cache.py; may be deleted
run/tokens/{train,val} the data set in tokens, encoded once
run/text_tokenizer.model  and text_tokenizer.sha256, its pinned hash, and text_tokenizer.words.json
run/frame_predictor/   checkpoints of stage 2, where there is one (predictor=...)
run/lookahead/         what it tells of those tokens, see look_ahead.py
run/world_model/       checkpoints of stage 3
run/diffusion_decoder/ checkpoints of stage 4
run/inverse_dynamics/  checkpoints of stage 5, where there is one (inverse_dynamics=small)
run/world/             all of them packed into a world folder
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import torch

from wfm_ar.data.episodes import EpisodeSet, copy_episodes
from wfm_ar.data.files import write_atomic
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.data.json_files import read_json
from wfm_ar.data.shards import TokenStore
from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.errors import BadCheckpoint
from wfm_ar.frame_predictor.network import EARLIER_PREDICTOR, FramePredictor, FramePredictorConfig
from wfm_ar.inverse_dynamics.network import InverseDynamics, InverseDynamicsConfig
from wfm_ar.rollout.lookahead import Lookahead
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world_folder import WorldParts, save_world
from wfm_ar.schema import Schema
from wfm_ar.tokenizers.text import TextTokenizer, words_of
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.tokenizers.video.model import EARLIER_TOKENIZER
from wfm_ar.train.checkpoint import load_checkpoint, load_weights, newest_checkpoint
from wfm_ar.train.copy_quality import training_copies
from wfm_ar.train.diffusion_decoder_stage import DiffusionDecoderStage, DiffusionDecoderTraining
from wfm_ar.train.frame_predictor_stage import FramePredictorStage, FramePredictorTraining
from wfm_ar.train.inverse_dynamics_stage import InverseDynamicsStage, InverseDynamicsTraining
from wfm_ar.train.look_ahead import LookaheadStore, look_ahead
from wfm_ar.train.tokens import action_vocabulary, tokenize
from wfm_ar.train.video_tokenizer_stage import VideoTokenizerStage, VideoTokenizerTraining
from wfm_ar.train.whole_run import WholeRun
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.train.world_model_stage import WorldModelStage
from wfm_ar.world_model import SequenceConfig, WorldModel, WorldModelConfig
from wfm_ar.world_model.sequence import EARLIER
from wfm_ar.world_model.transformer import EARLIER_MODEL

VIDEO_TOKENIZER, FRAME_PREDICTOR, WORLD_MODEL, DIFFUSION_DECODER = "video_tokenizer", "frame_predictor", "world_model", "diffusion_decoder"
INVERSE_DYNAMICS = "inverse_dynamics"
STAGES = (VIDEO_TOKENIZER, FRAME_PREDICTOR, WORLD_MODEL, DIFFUSION_DECODER, INVERSE_DYNAMICS)
TEXT_MODEL = "text_tokenizer.model"
TEXT_PIN = "text_tokenizer.sha256"  # of those bytes
TEXT_WORDS = "text_tokenizer.words.json"  # of the texts it was trained on; not there where they are not known


def video_tokenizer_stage(
    config: VideoTokenizerConfig,
    training: VideoTokenizerTraining,
    train_set: EpisodeSet,
    val_set: EpisodeSet,
    cache: FrameCache | None = None,
) -> VideoTokenizerStage:
    """Stage 1; needs nothing but clips."""
    return VideoTokenizerStage(config, training, train_set, val_set, cache)


def frame_predictor_stage(
    run: Path,
    config: FramePredictorConfig,
    training: FramePredictorTraining,
    train_set: EpisodeSet,
    val_set: EpisodeSet,
    cache: FrameCache | None = None,
) -> FramePredictorStage:
    """Stage 2; works on frames as the run's tokenizer gives them back."""
    tokenizer, _ = trained_video_tokenizer(run)
    return FramePredictorStage(config, training, tokenizer, train_set, val_set, cache)


def world_model_stage(
    run: Path,
    config: WorldModelConfig,
    training: WorldModelTraining,
    train_set: EpisodeSet,
    val_set: EpisodeSet,
    *,
    max_latents: int,
    max_text: int,
    text_vocab: int,
    action_sums: bool = False,
    hint_latents: int = 1,
    workers: int = 1,
    made: bool = False,
    micro_batches: int = 1,
    policy_set: EpisodeSet | None = None,
    cache: FrameCache | None = None,
    lookahead: bool = False,
    precision: torch.dtype | None = None,
    whole: WholeRun | None = None,
) -> WorldModelStage:
    """Stage 3; encodes the data set with the run's tokenizer (once) and trains the text tokenizer on its texts (once).

    made: another rank has just encoded and looked ahead; what it made is read as it is, without a look at the data.
    policy_set: what steps on the policy alone are of; None = train_set. lookahead: the model is told what the run's frame predictor
    expects, which is worked out once, in `precision` (None: the networks' own). whole: the run's time, where it is foretold.
    """
    tokenizer, _ = trained_video_tokenizer(run)
    predictor = trained_frame_predictor(run) if lookahead else None
    if torch.cuda.is_available():
        tokenizer.cuda()
        if predictor is not None:
            predictor.cuda()
    alone = training.policy_share > 0 and not tokenizer.config.frames_apart  # a policy is asked at images
    asked = (policy_set or train_set) if alone else None
    sets = {"train": train_set, "val": val_set} | ({} if policy_set is None else {"policy": policy_set})
    stores = {}
    for name, episodes in sets.items():
        folder, how = run / "tokens" / name, {"workers": workers, "images": episodes is asked, "cache": cache, "whole": whole}
        stores[name] = TokenStore(folder) if made else tokenize(tokenizer, episodes, folder, **how)
    texts = [episode.text for episode in train_set if episode.text]
    text = text_tokenizer(run, texts, text_vocab, max_text)
    if text:
        keep_text_tokenizer(run, text)
    told = {"action_sums": action_sums, "hint_latents": hint_latents, "lookahead": lookahead}
    sequence = sequence_config(tokenizer.config, text, train_set.schema, max_latents=max_latents, max_text=max_text, **told)
    ahead, looking = {}, None
    if predictor is not None:
        looking = Lookahead(tokenizer, predictor, sequence.action_bins)
        for name, own in (("train", True), ("val", False)):
            folder, how = run / "lookahead" / name, {"own": own, "workers": workers, "precision": precision, "whole": whole}
            ahead[name] = LookaheadStore(folder, stores[name]) if made else look_ahead(looking, stores[name], folder, **how)
    return WorldModelStage(
        config,
        sequence,
        training,
        stores["train"],
        stores["val"],
        text,
        train_set.schema,
        tokenizer,
        micro_batches,
        stores.get("policy"),
        lookahead=looking,
        ahead=ahead,
    )


def sequence_config(
    tokenizer: VideoTokenizerConfig,
    text: TextTokenizer | None,
    schema: Schema | None,
    *,
    max_latents: int,
    max_text: int,
    action_sums: bool,
    hint_latents: int,
    lookahead: bool = False,
) -> SequenceConfig:
    """The sequence that these tokenizers and actions make. Raises BadConfig."""
    actions = action_vocabulary(schema)
    return SequenceConfig(
        video_vocab=math.prod(tokenizer.levels),
        levels=tokenizer.levels,
        grid_h=tokenizer.grid[0],
        grid_w=tokenizer.grid[1],
        rate=tokenizer.temporal_compression,
        action_bins=actions.bins if actions else (),
        text_vocab=text.vocab_size if text else 0,
        max_text=max_text,
        max_latents=max_latents,
        action_sums=action_sums,
        hint_latents=hint_latents,
        lookahead=lookahead,
    )


def diffusion_decoder_stage(
    run: Path,
    config: DenoiserConfig,
    training: DiffusionDecoderTraining,
    train_set: EpisodeSet,
    val_set: EpisodeSet,
    cache: FrameCache | None = None,
) -> DiffusionDecoderStage:
    """Stage 4; refines what the run's tokenizer gives back.

    A run that has weights of this stage, its own or those of the world it began with, keeps the scale they were trained at.
    """
    tokenizer, _ = trained_video_tokenizer(run)
    begun = newest_checkpoint(run / DIFFUSION_DECODER)
    scale = None if begun is None else load_checkpoint(begun, groups=())[1]["describe"]["residual_scale"]
    return DiffusionDecoderStage(config, training, tokenizer, train_set, val_set, residual_scale=scale, cache=cache)


def inverse_dynamics_stage(
    run: Path,
    config: InverseDynamicsConfig,
    training: InverseDynamicsTraining,
    train_set: EpisodeSet,
    val_set: EpisodeSet,
    cache: FrameCache | None = None,
) -> InverseDynamicsStage:
    """Stage 5; reads actions off true frames and off what the run's tokenizer gives back."""
    return InverseDynamicsStage(config, training, trained_video_tokenizer(run)[0], train_set, val_set, cache)


def trained_video_tokenizer(run: Path) -> tuple[VideoTokenizer, dict]:
    """The averaged weights of the run's newest checkpoint of stage 1, and the checkpoint's state."""
    tensors, state = _newest(run, VIDEO_TOKENIZER)
    tokenizer = VideoTokenizer(_config(VideoTokenizerConfig, EARLIER_TOKENIZER | state["describe"]["model"]))
    load_weights(tokenizer, tensors, str(run / VIDEO_TOKENIZER))
    return tokenizer.eval(), state


def trained_frame_predictor(run: Path) -> FramePredictor:
    """The averaged weights of the run's newest checkpoint of stage 2."""
    tensors, state = _newest(run, FRAME_PREDICTOR)
    predictor = FramePredictor(_config(FramePredictorConfig, EARLIER_PREDICTOR | state["describe"]["model"]))
    load_weights(predictor, tensors, str(run / FRAME_PREDICTOR))
    return predictor.eval().requires_grad_(False)


def pack_world(
    run: Path,
    out: Path,
    train_set: EpisodeSet,
    val_set: EpisodeSet,
    card: str = "",
    samples: int = 8,
    overwrite: bool = False,
    sampling: SamplingConfig | None = None,
) -> Path:
    """The newest weights of all stages, and the first `samples` held-out episodes -> a world folder at `out`.

    sampling: how the world's tokens are drawn where nobody says otherwise; None = SamplingConfig's own defaults.

    The diffusion decoder and the inverse dynamics may be missing, and the frame predictor of a world model without a lookahead.
    """
    tokenizer, _ = trained_video_tokenizer(run)
    tensors, state = _newest(run, WORLD_MODEL)
    model = WorldModel(_config(WorldModelConfig, EARLIER_MODEL | state["describe"]["model"]))
    load_weights(model, tensors, str(run / WORLD_MODEL))
    denoiser = None
    if newest_checkpoint(run / DIFFUSION_DECODER):
        weights, about = _newest(run, DIFFUSION_DECODER)
        settings = about["describe"]["model"] | {"residual_scale": about["describe"]["residual_scale"]}
        denoiser = Denoiser(_config(DenoiserConfig, settings))
        load_weights(denoiser, weights, str(run / DIFFUSION_DECODER))
    reader = None
    if newest_checkpoint(run / INVERSE_DYNAMICS):
        weights, about = _newest(run, INVERSE_DYNAMICS)
        reader = InverseDynamics(_config(InverseDynamicsConfig, about["describe"]["model"]))
        load_weights(reader, weights, str(run / INVERSE_DYNAMICS))
    sequence = _config(SequenceConfig, EARLIER | state["describe"]["sequence"])
    text = _pinned_text_tokenizer(run / TEXT_MODEL, sequence.max_text) if (run / TEXT_MODEL).exists() else None
    if text is not None and text.words is not None:  # a run begun from a world has texts of its own besides
        text.words |= words_of(episode.text for episode in train_set if episode.text) or set()
    parts = WorldParts(
        video_tokenizer=tokenizer,
        sequence=sequence,
        world_model=model.eval(),
        fps=Counter(episode.fps for episode in train_set).most_common(1)[0][0],
        text_tokenizer=text,
        action_schema=train_set.schema if action_vocabulary(train_set.schema) else None,
        frame_predictor=trained_frame_predictor(run) if sequence.lookahead else None,
        diffusion_decoder=denoiser,
        inverse_dynamics=reader,
        sampling=sampling or SamplingConfig(),
        copies=training_copies(tokenizer, val_set),
    )
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "samples"
        copy_episodes(val_set, range(min(samples, len(val_set))), shown)
        return save_world(out, parts, card=card, samples=shown, overwrite=overwrite)


def _newest(run: Path, stage: str) -> tuple[dict[str, torch.Tensor], dict]:
    found = newest_checkpoint(run / stage)
    if found is None:
        raise BadCheckpoint(f"{run / stage}: holds no whole checkpoint; fix: train stage={stage} first, or all of them with stage=all")
    tensors, state = load_checkpoint(found, groups=("ema",))
    return tensors["ema"], state


def _config(kind: type, values: dict):
    """A config dataclass from JSON, where tuples have become lists."""
    names = {field.name for field in fields(kind)}
    if names != values.keys():
        odd = ", ".join(sorted(names ^ values.keys()))
        raise BadCheckpoint(f"{kind.__name__}: the checkpoint has other settings ({odd}); fix: use the version that wrote it")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def keep_text_tokenizer(run: Path, text: TextTokenizer) -> None:
    """Make `text` the run's own, unless it has one."""
    run.mkdir(parents=True, exist_ok=True)
    if not (run / TEXT_MODEL).exists():
        write_atomic(run / TEXT_PIN, text.sha256.encode(), overwrite=True)
        if text.words is not None:
            write_atomic(run / TEXT_WORDS, json.dumps(sorted(text.words)).encode(), overwrite=True)
        write_atomic(run / TEXT_MODEL, text.model_bytes)


def text_tokenizer(run: Path, texts: Iterable[str], vocab: int, max_tokens: int) -> TextTokenizer | None:
    """The run's own text tokenizer, else one trained on the texts; None without texts. Raises BadConfig, BadCheckpoint."""
    texts = sorted(set(texts))
    if not texts:
        return None
    if (run / TEXT_MODEL).exists():
        return _pinned_text_tokenizer(run / TEXT_MODEL, max_tokens)
    return TextTokenizer.train(texts, vocab_size=vocab, max_tokens=max_tokens)


def _pinned_text_tokenizer(path: Path, max_tokens: int) -> TextTokenizer:
    """The run's own text tokenizer; its native parser is not for bytes of another hash than the one written with it."""
    pin = path.with_name(TEXT_PIN)
    try:
        model_bytes, sha256 = path.read_bytes(), pin.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadCheckpoint(
            f"{pin}: cannot be read ({error}), expected the SHA-256 of {path.name}; fix: delete both, train again"
        ) from None
    words = read_json(path.with_name(TEXT_WORDS)) if path.with_name(TEXT_WORDS).exists() else None
    return TextTokenizer.from_bytes(model_bytes, sha256, max_tokens=max_tokens, words=words)
