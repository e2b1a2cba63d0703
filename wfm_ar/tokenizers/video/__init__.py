"""Video <-> discrete tokens."""

from wfm_ar.tokenizers.video.model import VideoTokenizer, VideoTokenizerConfig

__all__ = ["VideoTokenizer", "VideoTokenizerConfig"]
