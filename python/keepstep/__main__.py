"""The ``keepstep`` program: ``keepstep train``, ``list``, ``inspect``, ``verify``, ``report`` and the rest."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from . import _core

__all__ = ["main"]


def main() -> NoReturn:
    """Runs the program with the command line of this process.

    Raises:
        SystemExit: always, with the program's exit status.
    """
    if sys.argv[1:2] == ["prove"] and any(each.endswith(".py") for each in sys.argv[2:]):
        from ._prove import main as prove

        sys.exit(prove(sys.argv[2:]))
    # The program has handlers of its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_core.main(["keepstep", *sys.argv[1:]], [sys.executable, "-m", "keepstep"]))


if __name__ == "__main__":
    main()
