# SPDX-License-Identifier: Apache-2.0
"""Which Pythons the plugins are run under: a dom0's 3.6, and the current one."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

REQUIRED = os.environ.get("REQUIRE_DOM0_PYTHON") == "1"


def dom0_python() -> str | None:
    """Return the path of a Python 3.6, None where this machine has none."""
    candidates = []
    on_path = shutil.which("python3.6")
    if on_path:
        candidates.append(on_path)
    pyenv = os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
    installed = sorted(Path(pyenv).glob("versions/3.6.*/bin/python3.6"), reverse=True)
    candidates.extend(str(path) for path in installed)
    for candidate in candidates:
        # A pyenv shim is there but does not start unless its version is selected.
        said = subprocess.run([candidate, "-c", "import ssl"], capture_output=True)
        if said.returncode == 0:
            return candidate
    return None


DOM0_PYTHON = dom0_python()
CURRENT = sys.executable
