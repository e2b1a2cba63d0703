"""What a run needs of its settings and its data, looked at before the first stage begins.

Hours lie between the start of a run and the stage that would fail. So every episode is opened at both ends and its actions read,
texts are measured, and the networks of all stages asked for are configured, before any of them is trained.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from wfm_ar.data.check import Defect, episode_defects
from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.files import write_atomic
from wfm_ar.data.fingerprint import actions_fingerprint, frames_fingerprint
from wfm_ar.data.json_files import read_bytes
from wfm_ar.diffusion_decoder.denoiser import DenoiserConfig
from wfm_ar.errors import BadData, WfmError
from wfm_ar.frame_predictor.network import FramePredictorConfig
from wfm_ar.rollout.lookahead import check_lookahead
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train.diffusion_decoder_stage import fitted_decoder
from wfm_ar.train.metrics import Progress
from wfm_ar.train.stages import DIFFUSION_DECODER, FRAME_PREDICTOR, VIDEO_TOKENIZER, WORLD_MODEL, sequence_config, text_tokenizer
from wfm_ar.train.windows import Windows, check_reach, check_windows
from wfm_ar.train.world_model_rows import WorldModelTraining
from wfm_ar.world_model import Sequence as TokenSequence
from wfm_ar.world_model import WorldModelConfig

SOUND = ".sound"  # the file of a run that lists them, a line of 64 hexadecimal digits each
SOUND_BYTES = 1 << 28
MOST_TOKENS = 1 << 40  # of a text that is only measured


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the stages that are to run will be made of."""

    stages: tuple[str, ...]
    tokenizer: VideoTokenizerConfig
    model: WorldModelConfig
    decoder: DenoiserConfig
    windows: dict[str, Windows]  # of the stages that learn from pixels
    world_model: WorldModelTraining
    max_latents: int
    max_text: int
    text_vocab: int
    action_sums: bool
    hint_latents: int
    predictor: FramePredictorConfig | None = None  # of a world with a lookahead
    begun: bool = False  # the run goes on from a world, whose length of texts stays


def check_needs(run: Path, needs: Needs, train_set: EpisodeSet, val_set: EpisodeSet, policy_set: EpisodeSet | None, workers: int) -> None:
    """Raises BadConfig, BadData, BadClip or BadActions for what would end one of the stages, in one line; `workers` threads read.

    The run's folder keeps which episodes were found sound, so that they are not read again when the run goes on.
    """
    for name, windows in needs.windows.items():
        if name in needs.stages:
            check_windows(windows, needs.tokenizer)
    if VIDEO_TOKENIZER in needs.stages:
        check_reach(needs.windows[VIDEO_TOKENIZER].window, needs.tokenizer)
    if needs.predictor is not None and {FRAME_PREDICTOR, WORLD_MODEL} & set(needs.stages):
        check_lookahead(needs.tokenizer, needs.predictor)
    if DIFFUSION_DECODER in needs.stages:
        fitted_decoder(needs.decoder, needs.tokenizer)
    sets = list({id(one): one for one in (train_set, val_set, policy_set) if one is not None}.values())
    if WORLD_MODEL in needs.stages:
        text = text_tokenizer(run, texts_of(train_set), needs.text_vocab, needs.max_text)
        lengths = {"max_latents": needs.max_latents, "max_text": needs.max_text}
        told = {"action_sums": needs.action_sums, "hint_latents": needs.hint_latents, "lookahead": needs.predictor is not None}
        sequence = sequence_config(needs.tokenizer, text, train_set.schema, **lengths, **told)
        replace(needs.model, **TokenSequence(sequence).model_vocabularies())
        _refuse_policy_without_actions(needs.world_model.policy_share, policy_set or train_set)
        if text is not None:
            refuse(long_texts(sets, text, needs.max_text, begun=needs.begun), train_set.path)
    known = _found_sound(run)
    defects, sound = _looked_at(sets, workers, known)
    refuse(defects, train_set.path)
    for name, windows in needs.windows.items():
        if name in needs.stages:
            _refuse_short(train_set, windows.window)
    if not sound <= known:
        run.mkdir(parents=True, exist_ok=True)
        write_atomic(run / SOUND, "".join(f"{key}\n" for key in sorted(sound)).encode(), overwrite=True)


def unreadable(sets: Sequence[EpisodeSet], workers: int) -> list[Defect]:
    """The defects of all episodes' frames and actions, in order."""
    return _looked_at(sets, workers, set())[0]


def _looked_at(sets: Sequence[EpisodeSet], workers: int, sound: set[str]) -> tuple[list[Defect], set[str]]:
    """(`unreadable`, the keys of all episodes without a defect); those whose key is in `sound` are not read again."""
    places = [(one, i) for one in sets for i in range(len(one))]
    files: dict = {}

    def look(place: tuple[EpisodeSet, int]) -> tuple[str, list[Defect]]:
        key = _key_of(*place, files)
        return key, [] if key in sound else episode_defects(*place)

    progress, defects, keys = Progress("looking at the data", 0, len(places)), [], set()
    with ThreadPoolExecutor(workers) as pool:
        for done, (key, found) in enumerate(pool.map(look, places), 1):
            defects += found
            keys |= {key} if key and not found else set()
            progress.update(done, {})
    progress.close()
    return list(dict.fromkeys(defects)), keys  # a file that several episodes lie in is told once


def _found_sound(run: Path) -> set[str]:
    """The keys of the episodes that an earlier start of the run found sound; none where they cannot be read."""
    try:
        return set(read_bytes(run / SOUND, SOUND_BYTES).decode("ascii").split())
    except (OSError, ValueError):
        return set()


def _key_of(episodes: EpisodeSet, i: int, files: dict) -> str:
    """64 hexadecimal digits of the bytes of episode i; "" where they cannot be read. files: `known` of `frames_fingerprint`."""
    try:
        return f"{frames_fingerprint(episodes, i, files)[:32]}{actions_fingerprint(episodes, i)[:32]}"
    except WfmError:
        return ""


def long_texts(sets: Iterable[EpisodeSet], tokenizer: TextTokenizer, max_text: int, *, begun: bool = False) -> list[Defect]:
    """A defect for each text of more than `max_text` tokens, at the first episode that has it. begun: `max_text` cannot be chosen."""
    measure, first = TextTokenizer(tokenizer.model_bytes, max_tokens=MOST_TOKENS), {}
    for one in sets:
        for episode in one:
            if episode.text:
                first.setdefault(episode.text, f"{one.path} episode {episode.id}")
    counts = {text: len(measure.encode(text)) for text in first}
    longest = max(counts.values(), default=0)
    fix = "shorten it, or train without init=" if begun else f"shorten it, or train with sequence.max_text={longest}"
    return [
        Defect(
            file=place,
            line=None,
            what=f"text of {counts[text]} tokens ({len(text)} characters), expected at most sequence.max_text={max_text}",
            fix=fix,
        )
        for text, place in first.items()
        if counts[text] > max_text
    ]


def texts_of(episodes: EpisodeSet) -> list[str]:
    """The texts that a text tokenizer is trained on."""
    return [episode.text for episode in episodes if episode.text]


def refuse(defects: list[Defect], path: Path) -> None:
    """Raises BadData with the first defect, and how many more there are."""
    if not defects:
        return
    first, more = defects[0], len(defects) - 1
    others = f" (and {more} more: `wfm data check {path}` lists them)" if more else ""
    raise BadData(f"{first.what}{others}", where=first.place, fix=first.fix)


def _refuse_short(episodes: EpisodeSet, window: int) -> None:
    lengths = [episodes.num_frames(i) for i in range(len(episodes))]
    if all(0 < length < window for length in lengths):
        got = f"got {len(episodes)} episodes of {max(lengths)} frames at most"
        raise BadData(f"{episodes.path}: {got}, expected some of window={window} or more; fix: a smaller window, or longer clips")


def _refuse_policy_without_actions(share: float, episodes: EpisodeSet) -> None:
    if share > 0 and not any(episode.actions for episode in episodes):
        raise BadData(f"{episodes.path}: got no episode with actions, expected some for policy_share={share}; fix: policy_share=0")
