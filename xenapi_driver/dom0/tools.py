# SPDX-License-Identifier: Apache-2.0
"""Programs of this machine that make packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

_TIMEOUT = 300  # seconds; a build takes one or two


class ToolMissing(Exception):
    """A program is not installed; the message is a sentence that names it."""


class ToolFailed(Exception):
    """A program gave up; the message has what it said."""


def find(name: str, package: str) -> str:
    """Return the path of a program.

    :param package: what to install where it is missing
    :raises ToolMissing: it is not in PATH
    """
    path = shutil.which(name)
    if path is None:
        raise ToolMissing(f"{name} is not installed here: install {package}")
    return path


def run(argv: Sequence[str], epoch: int) -> str:
    """Run a program to its end and return what it printed.

    :param epoch: the time that it is to take for now
    :raises ToolFailed: another status than 0, or no end in time
    """
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(epoch),
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
    }
    name = os.path.basename(argv[0])
    try:
        done = subprocess.run(
            argv, capture_output=True, timeout=_TIMEOUT, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ToolFailed(f"{name} did not end well: {exc}") from exc
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise ToolFailed(f"{name} ended with status {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")
