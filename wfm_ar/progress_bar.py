"""Progress bars on a command's terminal: rich draws them with escape codes, which nothing else that is printed may hold."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from wfm_ar.plain_text import PlainStream, beneath


class ProgressBar(Progress):
    """rich's Progress on stderr. What is printed while it is shown stays as plain as before, and goes above it."""

    def __init__(self, *columns: str | ProgressColumn, **more: Any) -> None:
        super().__init__(*columns, console=Console(file=beneath(sys.stderr)), **more)

    def start(self) -> None:
        before = sys.stdout, sys.stderr
        super().start()  # which may put streams of its own in their place, until stop
        if sys.stdout is not before[0] and isinstance(before[0], PlainStream):
            sys.stdout = PlainStream(sys.stdout)
        if sys.stderr is not before[1] and isinstance(before[1], PlainStream):
            sys.stderr = PlainStream(sys.stderr)
