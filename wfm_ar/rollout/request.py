"""From a prompt to what the engine is asked for: every mistake is told before any work is done."""

import warnings
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from wfm_ar.errors import BadPrompt, Note, WfmError, nearest
from wfm_ar.rollout.action_codec import ActionCodec
from wfm_ar.rollout.engine import Actions, Request, Row
from wfm_ar.rollout.prompt import Prompt
from wfm_ar.rollout.sampling import Stream, draws
from wfm_ar.rollout.text_context import TextReader
from wfm_ar.rollout.video_codec import Size, VideoCodec, check_frames
from wfm_ar.rollout.world_folder import WorldParts
from wfm_ar.world_model.sequence import Sequence as TokenSequence


class Asked(Protocol):
    """What of a world a prompt is checked for."""

    name: str
    parts: WorldParts
    codec: VideoCodec
    actions: ActionCodec
    sequence: TokenSequence
    rate: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class CheckedPrompt:
    """A prompt that can be, before its frames are encoded."""

    num_latents: int
    size: Size
    text_ids: list[int]
    context_SC: Tensor | None
    ids_nrA: Tensor | None  # of the actions
    actions: Actions


def check_prompt(prompt: Prompt, world: Asked, texts: TextReader, number: int | None = None) -> CheckedPrompt:
    """Checks all of a prompt for a world. Raises BadClip, BadPrompt or BadActions, each beginning with `name`."""
    try:
        draws(prompt.seed, 0, Stream.VIDEO, 0)  # refuses a seed that cannot be
        num_latents = check_frames(prompt.num_frames, world.rate, "num_frames")
        size = (world.height, world.width)
        if prompt.video is not None:
            size = world.codec.check(prompt.video)
        else:
            world.codec.warn_of(size)
        text_ids, context_SC = text_inputs(prompt.text, world.parts, texts)
        if prompt.video is not None and len(prompt.video) > prompt.num_frames:
            raise BadPrompt(
                f"num_frames: got {prompt.num_frames}, expected at least the {len(prompt.video)} given frames; "
                "fix: ask for more, or give a shorter video"
            )
        if prompt.video is None and not world.parts.sequence.bov:
            release = world.parts.release or world.name
            raise BadPrompt(f"prompt: got no frames, expected a picture or a video: {release} goes on from one; fix: give one")
        ids_nrA, kind = None, Actions.IMAGINED if prompt.imagine and world.sequence.predicts_actions else Actions.ABSENT
        if prompt.actions is not None:
            ids_nrA, kind = world.actions.encode_clip(prompt.actions, prompt.num_frames), Actions.GIVEN
    except WfmError as error:
        raise error if number is None else error.within(f"prompt {number}", number) from None
    return CheckedPrompt(num_latents=num_latents, size=size, text_ids=text_ids, context_SC=context_SC, ids_nrA=ids_nrA, actions=kind)


def request_of(prompt: Prompt, checked: CheckedPrompt, codec: VideoCodec) -> Request:
    """What the engine is asked for; encodes the given frames."""
    tokens = () if prompt.video is None else tuple(codec.encode(prompt.video))
    ids_nrA = checked.ids_nrA
    known = [None] * len(tokens) if ids_nrA is None else [None, *ids_nrA[: max(0, len(tokens) - 1)]][: len(tokens)]
    row = Row(seed=prompt.seed, text_ids=checked.text_ids, context_SC=checked.context_SC, tokens=tokens, bins=tuple(known))
    return Request(row=row, num_latents=checked.num_latents, actions=checked.actions, bins_nrA=ids_nrA)


def text_inputs(text: str | None, parts: WorldParts, texts: TextReader) -> tuple[list[int], Tensor | None]:
    """(ids of its tokens, the context [S, C] that the model attends to), each where the model has that. Raises BadPrompt."""
    width = parts.world_model.config.context_dim
    if text is None and width:
        raise BadPrompt(
            f"text: got none, expected a file of T5 embeddings [tokens, {width}] (.safetensors or .npy): this model "
            "attends to a text; fix: text=FILE, or words where the package transformers is installed"
        )
    if text is None:
        return [], None
    if width:
        return [], texts.read(text)
    if parts.text_tokenizer is None:
        raise BadPrompt(f"text: got {text!r}, expected none: this world takes no text, it was trained without texts; fix: leave it out")
    ids = parts.text_tokenizer.encode(text)
    if unknown := parts.text_tokenizer.never_trained(text):
        told = ", ".join(f'"{word}"{nearest(word, parts.text_tokenizer.words or ())}' for word in unknown[:8])
        warnings.warn(Note(f"text: no training text had {told}: what comes of it is a guess"), stacklevel=6)
    return ids, None
