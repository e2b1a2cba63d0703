"""Detail of given frames: exact while nothing moves, gone where something did, and the same in a stream as in a whole clip."""

import torch

from wfm_ar.rollout.detail import GONE, MOVED, POOR_COPY, STILL, WIDE_REACH, Detail, stillness


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Given frames [3, 3, 16, 16], and what they and four later frames decode to, [1, 3, 7, 16, 16]; nothing moves."""
    draw = torch.Generator().manual_seed(0)
    given = torch.rand(3, 1, 16, 16, generator=draw).expand(-1, 3, -1, -1) * 2 - 1
    decoded = given[None, :, :1] + 0.1 * torch.randn(1, 3, 1, 16, 16, generator=draw)
    return given, decoded.expand(-1, -1, 7, -1, -1).clone()


def restored(given: torch.Tensor, decoded: torch.Tensor, made: torch.Tensor | None = None, sizes=(1, 2, 2, 2)) -> torch.Tensor:
    detail, out = Detail(given), []
    made = [None] * len(sizes) if made is None else made.split(sizes, 2)
    for piece, shown in zip(decoded.split(sizes, 2), made, strict=True):
        out.append(detail.restore(piece, shown))
    return torch.cat(out, 2)


def test_what_stands_still_is_exact():
    given, decoded = clips()
    out = restored(given, decoded)
    torch.testing.assert_close(out, given[None, :, :1].expand(-1, -1, 7, -1, -1))
    refined = decoded + 0.05  # whatever stands in for the decoded frames, the same detail comes out of it
    torch.testing.assert_close(restored(given, decoded, refined), out)


def test_what_moves_is_left_as_it_was_decoded():
    given, decoded = clips()
    decoded[:, :, 5:, 4:8, 4:8] += 2 * MOVED
    out = restored(given, decoded)
    reach = slice(4 - WIDE_REACH, 8 + WIDE_REACH)  # all of it is another thing now
    assert 2 * MOVED >= GONE and torch.equal(out[:, :, 5:, reach, reach], decoded[:, :, 5:, reach, reach])
    torch.testing.assert_close(out[:, :, 5:, :, 11:], given[None, :, :1, :, 11:].expand(-1, -1, 2, -1, -1))
    torch.testing.assert_close(out[:, :, 3:5], given[None, :, :1].expand(-1, -1, 2, -1, -1))  # only later frames are touched


def test_what_is_painted_a_little_differently_is_still_what_was_given():
    given, decoded = clips()
    decoded[:, :, 3:] += STILL * 0.9
    torch.testing.assert_close(restored(given, decoded), given[None, :, :1].expand(-1, -1, 7, -1, -1))


def test_the_edge_of_what_went_away_does_not_stay():
    frame = torch.zeros(1, 3, 1, 15, 15)
    moved = frame.clone()
    moved[..., 7, 7] = GONE
    weight = stillness(moved, frame)[0, 0, 0, 7]
    assert weight[7 - WIDE_REACH : 8 + WIDE_REACH].max() == 0 and weight[: 7 - WIDE_REACH].min() == 1
    moved[..., 7, 7] = STILL
    assert stillness(moved, frame).min() == 1


def test_it_fades_between_the_two_bounds():
    frame = torch.zeros(1, 3, 1, 9, 9)
    for change, weight in ((STILL, 1.0), ((STILL + MOVED) / 2, 0.5), (MOVED, 0.0)):
        moved = frame.clone()
        moved[:, 1, :, 4, 4] = change
        torch.testing.assert_close(stillness(moved, frame)[0, 0, 0, 4, 4], torch.tensor(weight))
        assert stillness(moved, frame)[0, 0, 0, 0, 0] == 1


def test_a_fork_goes_on_alone():
    given, decoded = clips()
    detail = Detail(given)
    detail.restore(decoded[:, :, :1])
    fork = detail.fork()
    one, other = detail.restore(decoded[:, :, 1:3]), fork.restore(decoded[:, :, 1:3])
    assert torch.equal(one, other) and torch.equal(one, given[None, :, 1:3])


def test_a_poor_copy_keeps_nothing_but_the_given_frames():
    """Everything decodes to one grey: nothing seems to move, and nothing can be told of the picture."""
    given, _ = clips()
    grey = torch.zeros(1, 3, 7, 16, 16)
    out = restored(given, grey)
    assert torch.equal(out[:, :, :3], given[None]) and torch.equal(out[:, :, 3:], grey[:, :, 3:])
    detail = Detail(given)
    detail.restore(given[None] * 0.9)
    assert detail.keeps and detail.copy_db > POOR_COPY
    detail = Detail(given)
    detail.restore(grey[:, :, :3])
    assert not detail.keeps and detail.copy_db < 12
