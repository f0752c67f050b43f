# SPDX-License-Identifier: Apache-2.0
"""Which Pythons the plugins are run under: a dom0's 3.6, a newer one, the current."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REQUIRED = os.environ.get("REQUIRE_DOM0_PYTHON") == "1"
CURRENT = sys.executable


def find(version: str) -> str | None:
    """Return the path of a Python such as 3.6, None where this machine has none."""
    candidates = []
    on_path = shutil.which(f"python{version}")
    if on_path:
        candidates.append(on_path)
    pyenv = os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
    found = Path(pyenv).glob(f"versions/{version}.*/bin/python{version}")
    candidates.extend(str(path) for path in sorted(found, reverse=True))
    for candidate in candidates:
        # A pyenv shim is there but does not start unless its version is selected.
        said = subprocess.run([candidate, "-c", "import ssl"], capture_output=True)
        if said.returncode == 0:
            return candidate
    return None


FOUND = {"3.6": find("3.6"), "3.12": find("3.12"), "current": CURRENT}


def wanted(version: str) -> str:
    """Return the interpreter of a test's host; skip or fail where it is missing."""
    python = FOUND[version]
    if python is None:
        message = f"NO PYTHON {version} HERE: the dom0 plugins run under others only"
        if REQUIRED:
            pytest.fail(message)
        pytest.skip(message)
    return python
