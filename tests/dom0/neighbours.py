# SPDX-License-Identifier: Apache-2.0
"""Two dom0s that reach each other: namespaces joined by a cable, a real sshd.

The second host's sshd serves root with its scratch root's ``/images`` in the place of
``/images``; all else, rsync on both sides included, is what a host runs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.dom0 import switches
from tests.dom0.scratch_host import ScratchHost

SOURCE, TARGET = "10.99.0.1", "10.99.0.2"
SOURCE_6, TARGET_6 = "fd99::1", "fd99::2"
PROGRAMS = ("ssh", "sshd", "ssh-keygen", "rsync", "ip", "ss")


class Neighbour:
    """The other host's ssh server, in a namespace that the first one reaches.

    :ivar host: the ScratchHost whose plugins send
    :ivar images: the other host's ``/images``
    """

    def __init__(self, host: ScratchHost, folder: Path) -> None:
        switches.require(*PROGRAMS)
        self.host = host
        self.folder = folder
        self.images = folder / "root/images"
        self.images.mkdir(parents=True)
        self.cable = switches.Network()
        self.space = self.cable.guest("cable", "02:00:00:00:00:02")
        self.space.address(TARGET + "/24", TARGET_6 + "/64")
        for address in (SOURCE + "/24", SOURCE_6 + "/64"):
            nodad = ["nodad"] if ":" in address else []
            self.cable.run("ip", "addr", "add", address, "dev", "cable", *nodad)
        for name in ("ssh", "ip"):
            self._wrap(name)
        self.ssh = host.root / "root/.ssh"
        self.ssh.mkdir(parents=True)
        make_key(self.ssh / "id_ed25519")
        make_key(folder / "host_key")
        self.accept(self.ssh / "id_ed25519")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def _wrap(self, name: str) -> None:
        path = shutil.which(name, path=switches.PATH)
        # Root's own configuration on this machine has no say in a test.
        options = "-F /dev/null" if name == "ssh" else ""
        self.host.wrap(
            name,
            f"#!/bin/sh\nexec {switches.IP} netns exec {self.cable.name} "
            f'{path} {options} "$@"\n',
        )

    def accept(self, key: Path, command: str = "") -> None:
        """Let root in with ``key``; the sender's folder becomes one of the scratch."""
        script = self.folder / "serve"
        script.write_text(
            "#!/bin/sh\n" + (command or "exec sh -c \"$(printf %s "
            '"$SSH_ORIGINAL_COMMAND" | '
            f"sed 's# /images/# {self.images}/#g')\"\n")
        )
        script.chmod(0o755)
        public = key.with_suffix(".pub").read_text()
        (self.folder / "authorized_keys").write_text(f'command="{script}" {public}')

    def start(self) -> None:
        """Start sshd on port 22 of the other host."""
        Path("/run/sshd").mkdir(exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(
            f"ListenAddress 0.0.0.0\nListenAddress ::\n"
            f"HostKey {self.folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            "KbdInteractiveAuthentication no\nUseDNS no\n"
        )
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = self.space.start(
                "/usr/sbin/sshd", "-D", "-e", "-f", str(config),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: ":22 " in self.space.run("ss", "-Hltn"))

    def stop(self) -> None:
        """End sshd and every connection of it."""
        if self.process is not None:
            for pid in pids_in(self.space.name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.stop()
        self.cable.close()


def pids_in(name: str) -> list[int]:
    """Return the processes of a namespace of ours."""
    said = subprocess.check_output([switches.IP, "netns", "pids", name], text=True)
    return [int(pid) for pid in said.split()]


def make_key(path: Path) -> None:
    for old in (path, path.with_suffix(".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)],
        check=True,
    )


def wait_for(true, seconds: float = 20.0) -> None:
    """Wait until ``true()``; a state of another process."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)
