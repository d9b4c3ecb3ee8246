"""The command `attnedit`, outside the library: importing that takes a second, in which Ctrl-C should end it, too."""

import os
import signal

SIGNALS = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]


def main() -> None:
    """attnedit.cli.main, with exit status 130 from the first moment on."""
    for each in SIGNALS:
        signal.signal(each, _stop)
    from attnedit.cli import main as run

    run()


def _stop(*_: object) -> None:
    """At once: nothing has begun, and an exception would be lost where an import catches all of them."""
    os.write(2, b"attnedit: stopped; the same command continues\n")
    os._exit(130)
