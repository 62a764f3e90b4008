"""Batches that nobody wants any more: their making ends between two samples."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_here = threading.local()


class Dropped(BaseException):
    """Raised where a batch is made, which is not wanted any more."""


@contextlib.contextmanager
def unless(is_dropped: Callable[[], bool]) -> Iterator[None]:
    """What this thread makes inside is dropped when ``is_dropped()``."""
    _here.is_dropped = is_dropped
    try:
        yield
    finally:
        _here.is_dropped = None


def check() -> None:
    """Asked before each sample.

    Raises:
        Dropped: The batch that this thread is making is not wanted any more.
    """
    is_dropped: Callable[[], bool] | None = getattr(_here, "is_dropped", None)
    if is_dropped is not None and is_dropped():
        raise Dropped
