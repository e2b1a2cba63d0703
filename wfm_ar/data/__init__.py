"""What comes in and goes out: episodes, video files, their check."""

from wfm_ar.data.check import Defect, Summary, check_data, summarize
from wfm_ar.data.episodes import Episode, EpisodeSet, write_episode, write_episodes
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import (
    VideoInfo,
    read_image,
    read_video,
    resize_crop,
    video_info,
    write_image,
    write_video,
)

__all__ = [
    "Defect",
    "Episode",
    "EpisodeSet",
    "Summary",
    "VideoInfo",
    "check_data",
    "open_episodes",
    "read_image",
    "read_video",
    "resize_crop",
    "summarize",
    "video_info",
    "write_episode",
    "write_episodes",
    "write_image",
    "write_video",
]
