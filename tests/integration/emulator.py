# SPDX-License-Identifier: Apache-2.0
"""Boot a server's disks under plain emulation, and listen to its console."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.failure import DemoFailure

PATIENCE = 90


@dataclass(frozen=True)
class Card:
    """A network card: the port's addresses, and a way in.

    :ivar door: loopback port of ours that leads to the guest's port 80
    """

    mac: str
    address: str
    network: str
    door: int


class Guest:
    """A machine that runs."""

    def __init__(self, process: subprocess.Popen[bytes], console: Path) -> None:
        self._process = process
        self._console = console

    def console(self) -> str:
        return self._console.read_text(errors="replace")

    def wait_for(self, word: str) -> str:
        """Wait until the console has a word; all of it.

        :raises DemoFailure: the machine ended, or the time is over
        """
        deadline = time.monotonic() + PATIENCE
        while word not in self.console():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                last = self.console()[-1000:]
                raise DemoFailure(f"{word!r} on the console", last, self._console)
            time.sleep(0.2)
        return self.console()


@contextlib.contextmanager
def booted(drives: Sequence[Path], card: Card, folder: Path) -> Iterator[Guest]:
    """Boot a machine from raw drives, the first of which has the boot loader."""
    console = folder / "console.log"
    console.write_bytes(b"")
    # The user-mode network needs no rights; it stands in for the port's network.
    net = f"user,id=n0,net={card.network},restrict=on"
    door = f"hostfwd=tcp:127.0.0.1:{card.door}-{card.address}:80"
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "192", "-nodefaults"]
    argv += ["-display", "none", "-no-reboot", "-serial", f"file:{console}"]
    argv += ["-netdev", f"{net},{door}", "-device"]
    argv += [f"virtio-net-pci,netdev=n0,mac={card.mac},romfile="]
    for drive in drives:
        argv += ["-drive", f"file={drive},format=raw,if=virtio"]
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield Guest(process, console)
    finally:
        process.kill()
        process.wait()
