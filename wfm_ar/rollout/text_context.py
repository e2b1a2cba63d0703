"""Text embeddings for models that attend to a text: from a file that T5 made somewhere else, or from words by T5 here.

The published models were trained with the encoder of T5-11B (1,024 numbers a token, up to 512 tokens, zeros behind the text),
and attend to the zeros too: they act as a sink whose strength depends on the text's length, so they must be there.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wfm_ar.data.arrays import read_npy
from wfm_ar.errors import BadData, BadPrompt, MissingDependency
from wfm_ar.extras import how_to_install
from wfm_ar.rollout.prompt import EMBEDDING_SUFFIXES

ENCODER = "google-t5/t5-11b"


class TextReader:
    """Texts to contexts. The encoder is loaded at the first words and lives as long as the reader: keep one a batch, then let it go."""

    def __init__(self, tokens: int, width: int, encoder: str = ENCODER) -> None:
        """tokens, width: of a context. encoder: a T5 encoder's folder, or its name where it has been downloaded."""
        self.tokens, self.width, self.encoder = tokens, width, encoder
        self._loaded: tuple[Any, Any] | None = None
        self._read: dict[str, Tensor] = {}

    def read(self, text: str) -> Tensor:
        """float32 [tokens, width], zeros behind the text. `text` is a file of embeddings, or words for the T5 encoder of the extra [t5].

        Raises BadPrompt for a file or an encoder that does not fit, MissingDependency for words without the encoder.
        """
        if text not in self._read:
            embedding = read_embedding(Path(text), self.width) if text.endswith(EMBEDDING_SUFFIXES) else self._encode(text)
            if len(embedding) > self.tokens:
                raise BadPrompt(f"text: got {len(embedding)} tokens, expected at most {self.tokens}; fix: a shorter text")
            self._read[text] = torch.cat((embedding, embedding.new_zeros(self.tokens - len(embedding), self.width)))
        return self._read[text]

    def _encode(self, text: str) -> Tensor:
        if self._loaded is None:
            self._loaded = load_encoder(self.encoder, text)
        tokenizer, encoder = self._loaded
        if encoder.config.d_model != self.width:
            raise BadPrompt(
                f"text_encoder: {self.encoder} gives embeddings {encoder.config.d_model} wide, expected {self.width}; "
                "fix: the encoder that the model was trained with"
            )
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=self.tokens).input_ids
        with torch.inference_mode():
            return encoder(input_ids=ids).last_hidden_state[0].float().clone()


def read_embedding(path: Path, width: int) -> Tensor:
    """float32 [tokens, width] of a .npy file, or of a safetensors file with one tensor; a leading axis of 1 is taken off."""
    expected = f"[tokens, {width}] T5 embeddings"
    try:
        if path.suffix == ".npy":
            tensor = torch.from_numpy(read_npy(path))
        else:
            tensors = load_file(path)
            if len(tensors) != 1:
                raise BadPrompt(f"{path}: got {len(tensors)} tensors, expected one of {expected}; fix: save that one alone")
            (tensor,) = tensors.values()
    except BadData as error:
        raise BadPrompt(str(error)) from None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise BadPrompt(f"{path}: cannot be read ({error}), expected {expected}; fix: check the path and the file") from None
    if tensor.ndim == 3 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim != 2 or tensor.shape[1] != width or not tensor.is_floating_point() or not len(tensor):
        raise BadPrompt(f"{path}: got {tensor.dtype} {list(tensor.shape)}, expected floats {expected}; fix: the output of the T5 encoder")
    if not tensor.isfinite().all():
        raise BadPrompt(f"{path}: got numbers that are not finite, expected {expected}; fix: make it again")
    return tensor.float()


def load_encoder(name: str, text: str) -> tuple[Any, Any]:
    """(tokenizer, T5 encoder) of the `transformers` package, from what is on the disk: nothing is downloaded.

    Nothing but tensors is read of pickled weights. Raises MissingDependency, in one line that says what to do for the words `text`.
    """
    try:
        from transformers import AutoTokenizer, T5EncoderModel
        from transformers.utils import logging
    except ImportError:
        raise MissingDependency(
            f'text: got the words "{text[:40]}", expected a file of T5 embeddings, or the package transformers to make them; '
            f"fix: text=FILE.safetensors ([tokens, 1024]), or {how_to_install('t5')}"
        ) from None
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # on stderr, where a mistake is told in one line
    logging.set_verbosity_error()  # T5's decoder is in the file too: that it is left out is meant
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
        return tokenizer, T5EncoderModel.from_pretrained(name, local_files_only=True).eval()
    except Exception as error:  # what a folder of any content makes another package raise has no bounds
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if type(error).__name__ == "UnpicklingError":  # torch's own words advise to run it
            line = "its weights are a pickle of more than tensors, which is not run"
        raise MissingDependency(
            f"text: the encoder {name} cannot be loaded ({line[:160]}), expected it on this disk; "
            f"fix: hf download {ENCODER}, or text_encoder=FOLDER, or text=FILE.safetensors ([tokens, 1024])"
        ) from None
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
