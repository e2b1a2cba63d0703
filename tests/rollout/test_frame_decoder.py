"""Decoding of frames: the same frames in the end or beside, and what happens when somebody stops or fails."""

import threading

import pytest
import torch

from wfm_ar.rollout.frame_decoder import BackgroundDecoder


class Slow:
    """Stands for a FrameDecoder: a latent of number n gives one frame full of n."""

    changes = False  # what is shown is what was decoded

    def __init__(self, broken: int = -1) -> None:
        self.broken, self.threads = broken, []

    def decode(self, tokens_hw: torch.Tensor) -> torch.Tensor:
        self.threads.append((threading.current_thread(), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        if int(tokens_hw[0, 0]) == self.broken:
            raise MemoryError("no room for the frame")
        return torch.full((1, 3, 1, 2, 2), int(tokens_hw[0, 0]) / 127.5 - 1)


def latent(number: int) -> torch.Tensor:
    return torch.full((2, 2), number)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_clips_come_in_order_whichever_thread_decodes(threads: int) -> None:
    slow = Slow()
    with BackgroundDecoder([slow, slow], threads) as background:
        background.add(1, latent(7))
        background.add(0, latent(1), latent(2))
        background.add(1, latent(8))
        clips = background.finish()
    assert [raw[:, 0, 0, 0].tolist() for _, raw in clips] == [[1, 2], [7, 8]]
    assert all(refined is raw for refined, raw in clips) and set(background.seconds) == {"decode", "refine"}
    decoded_by, counts, inference = (set(each) for each in zip(*slow.threads, strict=True))
    assert inference == {True} and len(decoded_by) == 1
    assert (decoded_by == {threading.main_thread()}) == (threads == 0)
    assert counts == {threads or torch.get_num_threads()}


@pytest.mark.parametrize("threads", [0, 1])
def test_a_failure_is_the_callers(threads: int) -> None:
    with pytest.raises(MemoryError, match="no room"), BackgroundDecoder([Slow(broken=2)], threads) as background:
        background.add(0, *map(latent, range(5)))
        background.finish()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_who_is_stopped_waits_for_one_latent_at_most() -> None:
    slow, begun, go_on = Slow(), threading.Event(), threading.Event()
    decode = slow.decode
    slow.decode = lambda tokens_hw: (begun.set(), go_on.wait(10), decode(tokens_hw))[2]
    with pytest.raises(KeyboardInterrupt), BackgroundDecoder([slow], 1) as background:
        background.add(0, *map(latent, range(50)))
        begun.wait(10)
        go_on.set()
        raise KeyboardInterrupt
    assert len(slow.threads) < 50 and not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
