# SPDX-License-Identifier: Apache-2.0
"""Kill a call at each of its steps in turn, and fill or split its file systems."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.dom0.scratch_host import PLUGINS

# What Python is about to ask the system for, as its audit hooks name it.
STEPS = frozenset(
    ["open", "os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate",
     "os.chmod", "fcntl.flock", "fcntl.lockf", "shutil.rmtree", "tempfile.mkdtemp"]
)


def plugin(name: str) -> types.ModuleType:
    """Return a plugin as a module, to be called without a process."""
    loader = importlib.machinery.SourceFileLoader(f"plugin_{name}", str(PLUGINS / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def killed_at(number: int, call: Callable[[], object]) -> bool:
    """Run ``call`` in a child that dies by SIGKILL before its step ``number``.

    Returns whether it died; without, it had no such step and went through.
    """
    pid = os.fork()
    if pid == 0:
        left = [number]

        def count(event: str, _args: object) -> None:
            if event in STEPS:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 3
        try:
            sys.addaudithook(count)
            call()
            status = 0
        finally:
            os._exit(status)
    _pid, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the call failed instead"
    return False


@contextlib.contextmanager
def own_file_system(folder: Path, size: str = "64m") -> Iterator[None]:
    """Mount a file system of ``size`` on a folder for the length of a ``with``."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "test", str(folder)], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
