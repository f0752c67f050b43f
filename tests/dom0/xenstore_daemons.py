# SPDX-License-Identifier: Apache-2.0
"""Real xenstore daemons, Xen's C one and the OCaml one of XenServer and XCP-ng.

``make packages`` unpacks them from Debian's xen-utils; ``no_hypervisor.c`` is preloaded
for what they would ask of Xen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = "build/unpacked/xen-utils-*/usr/lib/xen-*/bin"
STAND_IN = Path(__file__).with_name("no_hypervisor.c")
# It raises its limit of open files to what the kernel allows at most, which is too
# much for it here, and has its socket at a fixed place.
OCAML_ROOM = """
mount --make-rprivate /
mount --bind {folder}/nr_open /proc/sys/fs/nr_open
mount -t tmpfs tmpfs /run
mkdir -p /run/xenstored /run/xen
mount --bind {folder}/run /run/xenstored
exec env LD_PRELOAD={preload} {program} --no-domain-init --no-fork \
    --config-file {folder}/conf
"""
OCAML_CONF = """
pid-file = /run/xen/xenstored.pid
xenstored-log-file = {folder}/log
access-log-file = {folder}/access
persistent = false
test-eagain = {eagain}
"""


def missing(ocaml: bool = False) -> str | None:
    """Return what keeps a daemon from running here, None if nothing does."""
    if not list(ROOT.glob(PROGRAMS)):
        return "unpacked xen-utils (make packages)"
    tools = ["gcc", "xenstore-ls"] + (["unshare"] if ocaml else [])
    absent = [tool for tool in tools if not shutil.which(tool)]
    if absent:
        return ", ".join(absent)
    return "root" if ocaml and os.geteuid() else None


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder whose name leaves room for that of a socket."""
    folder = Path(tempfile.mkdtemp(prefix="xs-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _preload(folder: Path) -> Path:
    library = folder / "no_hypervisor.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, STAND_IN, "-ldl"], check=True
    )
    return library


def _program(name: str) -> Path:
    return sorted(ROOT.glob(PROGRAMS))[-1] / name


@contextlib.contextmanager
def _running(
    argv: list[str], environment: dict[str, str], path: Path, folder: Path
) -> Iterator[Path]:
    """Run a daemon until the end of the ``with``; give its socket once it answers."""
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(argv, env=environment, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 60
        while not _answers(path):
            told = (folder / "said").read_text()
            assert process.poll() is None and time.monotonic() < deadline, told
            time.sleep(0.02)
        yield path
    finally:
        process.kill()
        process.wait()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def xenstored() -> Iterator[Path]:
    """Run Xen's C daemon; give its socket."""
    with short_folder() as folder:
        environment = {
            **os.environ,
            "LD_PRELOAD": str(_preload(folder)),
            "XENSTORED_RUNDIR": str(folder),
            "XENSTORED_PATH": str(folder / "socket"),
        }
        argv = [str(_program("xenstored")), "--no-fork"]
        argv += ["--pid-file", str(folder / "pid")]
        with _running(argv, environment, folder / "socket", folder) as path:
            yield path


@contextlib.contextmanager
def oxenstored(eagain: bool = False) -> Iterator[Path]:
    """Run the OCaml daemon, as XenServer and XCP-ng do; give its socket.

    :param eagain: at random it says that a transaction has to be done again
    """
    with short_folder() as folder:
        (folder / "run").mkdir()
        (folder / "nr_open").write_text("10000\n")
        conf = OCAML_CONF.format(folder=folder, eagain=str(eagain).lower())
        (folder / "conf").write_text(conf)
        room = OCAML_ROOM.format(
            folder=folder, preload=_preload(folder), program=_program("oxenstored")
        )
        argv = ["unshare", "--mount", "sh", "-ec", room]
        with _running(argv, dict(os.environ), folder / "run/socket", folder) as path:
            yield path


class Tools:
    """The xenstore commands of a dom0, for looking from outside."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [f"xenstore-{command}", *arguments],
            env={**os.environ, "XENSTORED_PATH": str(self.path)},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
        )

    def read(self, path: str) -> str | None:
        """Return a value, None where there is none."""
        found = self.run("read", "-R", path)
        return found.stdout.rstrip("\n") if found.returncode == 0 else None

    def write(self, *pairs: str) -> None:
        """Write paths and values, alternating."""
        assert self.run("write", *pairs).returncode == 0

    def remove(self, path: str) -> None:
        self.run("rm", path)

    def names(self, path: str) -> list[str]:
        """Return the names below a path, sorted; none where there is no such path."""
        return sorted(self.run("list", path).stdout.split())
