"""How far a run of several stages is, and how long the whole of it still takes: a foretold time for each part, true ones as they come."""

from collections.abc import Mapping

from wfm_ar.train.budget import told_time


class WholeRun:
    """The parts of a run in order; one is at work at a time, and tells how long it will still take."""

    def __init__(self, foretold_s: Mapping[str, float], done: Mapping[str, float] | None = None):
        """foretold_s: seconds of each part, in order. done: seconds that finished parts took."""
        self._foretold, self._done = dict(foretold_s), dict(done or {})

    def foretell(self, part: str, seconds: float) -> None:
        """A part has been measured anew."""
        self._foretold[part] = seconds

    def finish(self, part: str, seconds: float) -> None:
        """A part has ended, after so many seconds of work."""
        self._done[part] = seconds

    def seconds_left(self, name: str, left: float) -> float:
        """Of the whole run, while the part that `name` begins with the name of takes `left` seconds more."""
        parts = list(self._foretold)
        at = self._place(name)
        later = parts[at + 1 :] if at is not None else [part for part in parts if part not in self._done]
        return left + sum(self._foretold[part] for part in later if part not in self._done)

    def share(self, name: str, left: float) -> float:
        """Of the whole run's time that has passed, 0 to 1."""
        at, parts = self._place(name), list(self._foretold)
        earlier = parts[:at] if at is not None else [part for part in parts if part in self._done]
        passed = sum(self._done.get(part, self._foretold[part]) for part in earlier)
        if at is not None:
            passed += max(0.0, self._foretold[parts[at]] - left)
        return passed / max(1e-9, passed + self.seconds_left(name, left))

    def told(self, name: str, left: float) -> str:
        """A few words for a line of progress."""
        return f"whole run {100 * self.share(name, left):.0f} %, {told_time(self.seconds_left(name, left))} left"

    def _place(self, name: str) -> int | None:
        return next((i for i, part in enumerate(self._foretold) if name.startswith(part)), None)
