"""Pictures to tokens and back for a world: checks, padding and cropping, long clips in pieces."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_ar.errors import BadClip, BadPrompt, Note
from wfm_ar.rollout.frame_decoder import FrameDecoder, to_uint8
from wfm_ar.rollout.placement import Placement
from wfm_ar.shapes import latent_frames
from wfm_ar.tokenizers.video.model import VideoTokenizer

Size = tuple[int, int]  # pixels (H, W)
_ENCODE_AT_ONCE = 4  # latents of a given clip that are encoded in one pass; bounds the memory of long clips


class VideoCodec:
    """The video tokenizer of a world, for its own picture size or, where the world takes them, for any."""

    def __init__(self, tokenizer: VideoTokenizer, placement: Placement, multiple: int | None = None) -> None:
        """multiple: pixels that both sides are padded to multiples of, so that any size can be; None: only the trained one can."""
        config = tokenizer.config
        self.tokenizer, self.placement, self._multiple = tokenizer, placement, multiple
        self.rate, self.trained, self._side = config.temporal_compression, (config.height, config.width), config.spatial_compression

    @property
    def any_size(self) -> bool:
        """Whether pictures of any size can be encoded."""
        return self._multiple is not None

    def check(self, video: np.ndarray, where: str = "video") -> Size:
        """The picture size of frames that can be encoded. Raises BadClip. Warns of a size that the weights were not trained at."""
        height, width = self.trained if self._multiple is None else ("H", "W")
        pictures = isinstance(video, np.ndarray) and video.ndim == 4 and video.shape[3] == 3 and video.dtype == np.uint8
        sound = pictures and min(video.shape[1:3]) > 0
        if not sound or (self._multiple is None and video.shape[1:3] != self.trained):
            got = f"{getattr(video, 'dtype', type(video).__name__)} {list(getattr(video, 'shape', ()))}"
            raise BadClip(
                f"{where}: got {got}, expected uint8 [T, {height}, {width}, 3]; "
                "fix: wfm_ar.data.video.resize_crop makes the size, image[None] a clip of one frame"
            )
        check_frames(len(video), self.rate, where)
        self.warn_of(video.shape[1:3])
        return video.shape[1:3]

    def warn_of(self, size: Size) -> None:
        """A warning where the weights were trained at another size."""
        if size != self.trained:
            height, width = self.trained
            line = f"{size[1]}x{size[0]} pixels: the weights were trained at {width}x{height}; expect less of other sizes"
            warnings.warn(Note(line), stacklevel=6)

    def grid(self, size: Size) -> tuple[int, int]:
        """Tokens (rows, columns) of a picture, padded to what every part takes."""
        multiple = self._multiple or self._side
        height, width = (-(-one // multiple) * multiple // self._side for one in size)
        return height, width

    def encode(self, video: np.ndarray) -> Tensor:
        """Checked frames, uint8 [T, H, W, 3] -> int64 [t, h, w], padded at the right and below by the picture's own edge."""
        (h, w), (H, W) = self.grid(video.shape[1:3]), video.shape[1:3]
        padding = (0, w * self._side - W, 0, h * self._side - H)
        with self.placement.at_work("video_tokenizer"):
            weight = next(self.tokenizer.parameters())
            stream, tokens, chunk = self.tokenizer.encode_stream(), [], _ENCODE_AT_ONCE * self.rate
            for start in range(1 - chunk, len(video), chunk):  # the first piece is the first frame alone, or it and a chunk
                piece = torch.from_numpy(video[max(0, start) : start + chunk]).to(weight.device)
                if len(piece):
                    piece = piece.permute(3, 0, 1, 2)[None].to(weight.dtype) / 127.5 - 1
                    if any(padding):
                        piece = F.pad(piece.flatten(1, 2), padding, mode="replicate").unflatten(1, piece.shape[1:3])
                    tokens.append(stream.push(piece)[0].cpu())
        return torch.cat(tokens)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens int64 [1 + n, h, w] -> uint8 [1 + r*n, H, W, 3]. Raises BadPrompt."""
        tokens_thw, h, w = np.asarray(tokens), *self.grid(self.trained)
        fits = tokens_thw.ndim == 3 and tokens_thw.size and (self._multiple is not None or tokens_thw.shape[1:] == (h, w))
        if not fits:
            expected = f"[t, {h}, {w}]" if self._multiple is None else "[t, h, w]"
            raise BadPrompt(f"tokens: got shape {list(tokens_thw.shape)}, expected {expected}; fix: take them from encode or a rollout")
        codebook = self.tokenizer.codebook_size
        if tokens_thw.dtype.kind not in "iu" or tokens_thw.min() < 0 or tokens_thw.max() >= codebook:
            got = f"{tokens_thw.dtype} from {tokens_thw.min()} to {tokens_thw.max()}"
            raise BadPrompt(f"tokens: got {got}, expected whole numbers from 0 to {codebook - 1}; fix: use this world's tokens")
        decoder = FrameDecoder(self.tokenizer, placement=self.placement)
        with self.placement.at_work("video_tokenizer"):
            return np.concatenate([to_uint8(decoder.decode(torch.from_numpy(one.astype(np.int64)))) for one in tokens_thw])


def check_frames(num_frames: int, rate: int, where: str) -> int:
    """Latents of so many frames. Raises BadPrompt, BadClip."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, (int, np.integer)):
        raise BadPrompt(f"{where}: got {num_frames!r}, expected a whole number, 1 + {rate}*n; fix: such as {1 + 4 * rate}")
    try:
        return latent_frames(int(num_frames), rate)
    except BadClip as error:
        raise BadClip(f"{where}: {error}") from None
