"""Where does a recording surprise the world? A map of -log p of every token, over the frames.

Run `wfm samples out=samples` first. The world reads the true tokens and actions and says at each place how likely the next token was;
what moves, and what goes against its data, lights up. Useful to find odd episodes and to see what a world has not learnt.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

import wfm_ar
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import write_video
from wfm_ar.evaluate.prediction import prediction_row
from wfm_ar.rollout.pictures import at_world_size


def surprise(world: wfm_ar.World, frames: np.ndarray, actions: np.ndarray, text: str | None) -> np.ndarray:
    """Nats of every token, float64 [t, h, w], of frames uint8 [1 + r*n, H, W, 3] under actions float32 [r*n, A]."""
    tokens = torch.from_numpy(world.encode(frames))
    bins = world.bins_of(actions)[0].unflatten(0, (-1, world.rate))
    words = world.parts.text_tokenizer.encode(text) if text and world.takes_text else None
    return prediction_row(world.parts.world_model, world.sequence, tokens, words, bins, world.lookahead).loss


def main(data: Path, index: int, frames: int, out: Path) -> np.ndarray:
    """Writes frames and map side by side -> the map, nats [t, h, w]."""
    world, episodes = wfm_ar.load_world("tabletop"), open_episodes(data)
    frames -= (frames - 1) % world.rate
    clip = at_world_size(episodes.load_frames(index, 0, frames), world)
    nats = surprise(world, clip, episodes.load_actions(index)[: frames - 1], episodes[index].text)
    by_frame = np.concatenate([nats[:1], nats[1:].repeat(world.rate, axis=0)])
    side = clip.shape[1] // nats.shape[1]
    heat = (by_frame / max(nats[1:].max(), 1e-6) * 255).clip(0, 255).astype(np.uint8).repeat(side, 1).repeat(side, 2)
    shown = np.stack([np.maximum(clip[..., 0] // 3, heat), clip[..., 1] // 3, clip[..., 2] // 3], axis=-1)
    write_video(out, np.concatenate([clip, shown], axis=2), world.fps, overwrite=True)
    return nats


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("samples/episodes"))
    parser.add_argument("--index", type=int, default=1)
    parser.add_argument("--frames", type=int, default=33)
    parser.add_argument("--out", type=Path, default=Path("surprise.mp4"))
    nats = main(**vars(parser.parse_args()))
    print(f"{nats[1:].mean():.2f} nats a token, {nats[1:].max():.2f} at most")
