# SPDX-License-Identifier: Apache-2.0
"""Wait until something is seen, with a limit and a log to read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from demo.failure import DemoFailure


def until(
    seen: Callable[[], bool], what: str, log: Path | None, seconds: float = 180
) -> None:
    """Ask ``seen`` again and again.

    :raises DemoFailure: it was not true in time
    """
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            raise DemoFailure(what, f"not within {seconds:.0f} s", log)
        time.sleep(0.2)
