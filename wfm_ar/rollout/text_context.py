"""Text embeddings for models that attend to a text: read from a file that T5 made somewhere else.

The published models were trained with the encoder of T5-11B (1,024 numbers a token, up to 512 tokens, zeros behind the text),
and attend to the zeros too: they act as a sink whose strength depends on the text's length, so they must be there.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wfm_ar.errors import BadPrompt, MissingDependency

SUFFIXES = (".safetensors", ".npy")
ENCODER = "google-t5/t5-11b"


def text_context(text: str, tokens: int, width: int) -> Tensor:
    """float32 [tokens, width], zeros behind the text. `text` is a file of embeddings, or words for the T5 encoder of the extra [t5].

    Raises BadPrompt for a file that does not fit, MissingDependency for words without the encoder.
    """
    embedding = read_embedding(Path(text), width) if text.endswith(SUFFIXES) else encode_words(text, tokens)
    if embedding.shape[1] != width:
        raise BadPrompt(
            f"text: got embeddings {embedding.shape[1]} wide, expected {width}; fix: the encoder that the model was trained with"
        )
    if len(embedding) > tokens:
        raise BadPrompt(f"text: got {len(embedding)} tokens, expected at most {tokens}; fix: a shorter text")
    return torch.cat((embedding, embedding.new_zeros(tokens - len(embedding), width)))


def read_embedding(path: Path, width: int) -> Tensor:
    """float32 [tokens, width] of a .npy file, or of a safetensors file with one tensor; a leading axis of 1 is taken off."""
    expected = f"[tokens, {width}] T5 embeddings"
    try:
        if path.suffix == ".npy":
            tensor = torch.from_numpy(np.load(path, allow_pickle=False))
        else:
            tensors = load_file(path)
            if len(tensors) != 1:
                raise BadPrompt(f"{path}: got {len(tensors)} tensors, expected one of {expected}; fix: save that one alone")
            (tensor,) = tensors.values()
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise BadPrompt(f"{path}: cannot be read ({error}), expected {expected}; fix: check the path and the file") from None
    if tensor.ndim == 3 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim != 2 or tensor.shape[1] != width or not tensor.is_floating_point() or not len(tensor):
        raise BadPrompt(f"{path}: got {tensor.dtype} {list(tensor.shape)}, expected floats {expected}; fix: the output of the T5 encoder")
    if not tensor.isfinite().all():
        raise BadPrompt(f"{path}: got numbers that are not finite, expected {expected}; fix: make it again")
    return tensor.float()


def encode_words(text: str, tokens: int) -> Tensor:
    """float32 [n, width] by the T5-11B encoder of the `transformers` package. Raises MissingDependency without it."""
    try:
        from transformers import AutoTokenizer, T5EncoderModel
    except ImportError:
        raise MissingDependency(
            f'text: got the words "{text[:40]}", expected a file of T5 embeddings, or the package transformers to make them; '
            "fix: text=FILE.safetensors ([tokens, 1024]), or pip install transformers"
        ) from None
    try:
        tokenizer, encoder = AutoTokenizer.from_pretrained(ENCODER), T5EncoderModel.from_pretrained(ENCODER).eval()
    except OSError as error:
        line = str(error).splitlines()[0]
        raise MissingDependency(
            f"text: the encoder {ENCODER} cannot be loaded ({line}); fix: download it once, or text=FILE.safetensors"
        ) from None
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=tokens).input_ids
    with torch.inference_mode():
        return encoder(input_ids=ids).last_hidden_state[0].float().clone()
