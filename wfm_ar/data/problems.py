"""What is wrong with a data set: opening it for use stops at the first mistake, `wfm data check` notes each and goes on."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from wfm_ar.errors import BadConfig, WfmError

Problems = list[WfmError] | None  # None: the first mistake is raised


def bare(error: WfmError) -> WfmError:
    """The error without the frames it came through: kept by the hundred thousand, they would fill the memory."""
    error.__context__ = None
    return error.with_traceback(None)


@contextmanager
def noted(problems: Problems) -> Iterator[None]:
    """What is wrong inside is noted where problems are collected (the rest of the block is left out), else raised.

    A wrong setting is no problem of the data: it is always raised.
    """
    try:
        yield
    except BadConfig:
        raise
    except WfmError as error:
        if problems is None:
            raise
        problems.append(bare(error))


def sound(items: Sequence[Any], read: Callable[[Any], np.ndarray], problems: Problems) -> list[Any]:
    """What a schema can be made from: where problems are collected, the items whose actions can be read, are finite and as wide as most.

    The others are told when each episode is looked at; where none is sound, here, as no schema is there to look at them with.
    """
    if problems is None:
        return list(items)
    widths, finite, errors = {}, {}, []
    for i, item in enumerate(items):
        try:
            array = np.asarray(read(item))
            widths[i], finite[i] = array.shape[1], np.isfinite(array).all()
        except WfmError as error:
            errors.append(bare(error))
    if not widths:
        problems += errors
        return []
    width = Counter(widths.values()).most_common(1)[0][0]
    return [items[i] for i in widths if widths[i] == width and finite[i]]
