"""Graceful stop: after SIGINT or SIGTERM the step is finished and a checkpoint written."""

import signal
from types import FrameType
from typing import Any

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Remembers a request to stop; a second one stops at once.

    Example:
        >>> with StopSignals() as signals:
        ...     signals.requested is None
        True
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        try:
            for number in _STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._remember)
        except ValueError:  # only the main thread may handle signals
            self._previous.clear()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number)

    def leave(self) -> None:
        """End the program as the signal asked.

        KeyboardInterrupt for SIGINT; exit code 143 for SIGTERM, and where only another process of
        the run was told to stop.
        """
        if self.requested == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)
