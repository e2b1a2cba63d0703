"""The shape legend, and the arithmetic between pixel frames and latents.

Tensors carry their axes as a suffix, one letter an axis:

    B batch        T frames of pixels    H W pixel rows, columns    C channels
    t h w latent grid (time, rows, columns)
    L sequence     D model width         N heads                    K head dimension     V vocabulary

So `video_BCTHW` is a batch of pixel clips and `tokens_Bthw` their token grids. Compression is causal in time: the first
latent holds the first frame alone, each later one holds `rate` frames, so 1 + rate*n frames <-> 1 + n latents and an image
is a one-frame clip.
"""

from wfm_ar.errors import BadClip

MOST_FRAMES = 1 << 20  # of a clip: a day at ten frames a second, which no memory holds; work for more would only begin


def latent_frames(num_frames: int, rate: int) -> int:
    """Latents of a clip: 1 + rate*n frames -> 1 + n. Raises BadClip when it does not divide, naming the nearest counts, or is too long."""
    assert rate >= 1, f"temporal rate must be at least 1, got {rate}"
    if num_frames < 1:
        raise BadClip(f"clip: got {num_frames} frames, expected 1 + {rate}*n; fix: give at least 1 frame")
    if num_frames > MOST_FRAMES:
        raise BadClip(f"clip: got {num_frames} frames, expected at most {MOST_FRAMES}; fix: a shorter one")
    n, rest = divmod(num_frames - 1, rate)
    if rest:
        below, above = 1 + rate * n, 1 + rate * (n + 1)
        raise BadClip(f"clip: got {num_frames} frames, expected 1 + {rate}*n; fix: use {below} or {above} frames, the nearest that fit")
    return 1 + n
