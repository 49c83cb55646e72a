"""Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) of a command that ends by itself: all of them interrupt it."""

from __future__ import annotations

import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def take_interrupts() -> None:
    """KeyboardInterrupt in the main thread for each; what is ignored stays so: nohup, a shell's background."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def ignore_interrupts() -> None:
    """The command is ending, and says what became of it: from here on it is not cut short."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
