# SPDX-License-Identifier: Apache-2.0
"""A host behind a real sshd: its dom0 is a folder.

What makes it a folder is in the daemon's own configuration, out of the reach of whoever
logs in: a forced command, which sets the scratch root and puts another Python into the
place of /usr/bin/python3 (and the root into that of tar's -C /), and runs what was
asked for otherwise word by word.
"""

from __future__ import annotations

import pathlib
import shutil
import socket
import subprocess
import time

_FORCED = """\
#!/bin/sh
printf '%s\\n' "$SSH_ORIGINAL_COMMAND" >> {folder}/commands
export XENAPI_DOM0_ROOT={root}
exec /bin/sh -c "$(printf '%s' "$SSH_ORIGINAL_COMMAND" |
    sed 's,/usr/bin/python3,{python},g; s, -C /, -C {root}/,')"
"""
_CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
UseDNS no
PrintLastLog no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
ForceCommand {folder}/forced
"""
UUID = "3b1e2c4d-5f60-4718-92a3-b4c5d6e7f809"


class SshdHost:
    """One daemon on the loopback interface, and the folder that it serves.

    :ivar root: what its dom0 sees as ``/``
    :ivar key: a private key that it lets in; ``stranger``: one that it does not
    """

    def __init__(self, folder: pathlib.Path, python: str, root: pathlib.Path) -> None:
        self.folder = folder
        self.root = root
        folder.mkdir(parents=True)
        self.key, self.stranger = folder / "key", folder / "stranger"
        for key in (self.key, self.stranger, folder / "host_key"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
            subprocess.run(argv, check=True)
        shutil.copy(folder / "key.pub", folder / "authorized_keys")
        self.run_under(python)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.known = folder / "known_hosts"
        public = (folder / "host_key.pub").read_text()
        self.known.write_text(f"[127.0.0.1]:{self.port} {public}")
        file = folder / "sshd_config"
        file.write_text(_CONFIGURATION.format(port=self.port, folder=folder))
        # sshd wants its own folder, which a machine without the service lacks.
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)
        self._daemon = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-f", str(file), "-E", str(folder / "log")]
        )
        self._wait()

    def run_under(self, python: str) -> None:
        """Choose what stands for /usr/bin/python3."""
        forced = self.folder / "forced"
        forced.write_text(
            _FORCED.format(folder=self.folder, root=self.root, python=python)
        )
        forced.chmod(0o755)

    def options(self, key: pathlib.Path | None = None) -> list[str]:
        """Return the command's options that lead here."""
        return [
            *("-i", str(key or self.key), "-p", str(self.port)),
            *("-o", f"UserKnownHostsFile={self.known}"),
            *("--ssh-option", "GlobalKnownHostsFile=/dev/null"),
            *("--ssh-option", "IdentitiesOnly=yes"),
            *("--ssh-option", "BatchMode=yes"),
            *("--ssh-option", "StrictHostKeyChecking=yes"),
        ]

    def commands(self) -> list[str]:
        """Return what was asked to be run, one text each login."""
        file = self.folder / "commands"
        text = file.read_text() if file.exists() else ""
        return [part for part in text.split("if ! test") if part]

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                return
            except OSError:
                time.sleep(0.02)
        log = (self.folder / "log").read_text()
        raise AssertionError(f"sshd does not listen: {log}")

    def close(self) -> None:
        self._daemon.kill()
        self._daemon.wait()


def make_root(folder: pathlib.Path) -> pathlib.Path:
    """Make the folder look like a dom0 that never saw our plugins."""
    plugins = folder / "etc/xapi.d/plugins"
    plugins.mkdir(parents=True)
    for name in ("echo", "updater.py"):
        (plugins / name).write_text("#!/bin/sh\n# of somebody else\n")
        (plugins / name).chmod(0o755)
    (plugins / "alias").symlink_to("echo")
    (folder / "etc/xensource-inventory").write_text(f"INSTALLATION_UUID='{UUID}'\n")
    return folder


def files(root: pathlib.Path) -> set[str]:
    """Return the paths of all files below a root."""
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
