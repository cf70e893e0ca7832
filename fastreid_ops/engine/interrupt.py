# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM as a wish that the loop grants at the next safe place; a second signal ends the process
at once.
"""

import signal


class Interrupted(KeyboardInterrupt):
    """Raised at a safe place after a signal. `number` is the signal's; the exit status is 128 + number."""

    def __init__(self, number: int):
        super().__init__(f"{signal.Signals(number).name} received")
        self.number = number


class Interrupt:
    """Context manager: `check()` raises Interrupted once SIGINT or SIGTERM has come. Main thread only, as
    Python demands.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.number: int | None = None
        self._before = {}

    def __enter__(self):
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.number = number
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)
