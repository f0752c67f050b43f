# SPDX-License-Identifier: Apache-2.0
"""Run a plugin that kills itself right after its n-th change of a file system.

``dying.py NUMBER PLUGIN ARGUMENT``, under a dom0's Python; what comes after the last
change is the plugin's own end.
"""
import functools
import os
import runpy
import signal
import sys

CHANGES = ("mkdir", "makedirs", "open", "fsync", "link", "rename", "unlink", "rmdir")


def counted(function, left):
    """Return the function, which counts down and kills the process at 0."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if __name__ == "__main__":
    remaining = [int(sys.argv.pop(1))]
    sys.argv.pop(0)
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    for change in CHANGES:
        setattr(os, change, counted(getattr(os, change), remaining))
    runpy.run_path(sys.argv[0], run_name="__main__")
