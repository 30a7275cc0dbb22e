"""Ctrl-C and SIGTERM as a wish to stop, which a run fulfils after its step."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

import ignite.distributed as idist

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
ASKED_EVERY: Final = 10
"""Iterations from one time that several processes ask each other to the next: each waits for all, and for its GPU."""


class Interruption:
    """A context in which signals to stop are kept in mind; a second Ctrl-C stops at once.

    A second SIGTERM does not: launchers send it to each process, and to the group of all, and kill in the end.

    Attributes:
        requested: Whether this process was asked to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Takes the signals over."""
        self._handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Gives the signals back."""
        self._restore()

    def agreed(self, iteration: int = 0) -> bool:
        """Whether any process was asked to stop; all of them must call this together.

        Args:
            iteration: That of the run; of several processes none stops where it is no multiple of ``ASKED_EVERY``.
        """
        if idist.get_world_size() == 1:
            return self.requested
        return iteration % ASKED_EVERY == 0 and bool(idist.all_reduce(int(self.requested), op="MAX"))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT and number in self._handlers:
            signal.signal(number, self._handlers.pop(signal.SIGINT))

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
