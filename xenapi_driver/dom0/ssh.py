# SPDX-License-Identifier: Apache-2.0
"""Run one module of the plugins' library on a host, over ssh, without installing it.

The remote command is the same for every host and every request. It reads the library
from standard input into a file without a name, and the module reads what follows. The
operator's own ssh does the rest: his keys, his configuration, his known hosts.
"""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import zipfile
from collections.abc import Sequence

from xenapi_driver.dom0.tree import LIBRARY, PLUGINS, Entry

OLDEST_PYTHON = "3.6"

_NO_PYTHON = 97
_OLD_PYTHON = 96
_SSH_FAILED = 255

# No single quote may be in it: the host's shell gets it between two.
_PROGRAM = """\
import sys
if sys.version_info < (3, 6):
    sys.stdout.write("%d.%d" % sys.version_info[:2])
    sys.exit(96)
import runpy, tempfile
size, module = sys.stdin.buffer.readline().decode().split()
library = tempfile.TemporaryFile()
library.write(sys.stdin.buffer.read(int(size)))
library.flush()
sys.dont_write_bytecode = True
sys.path.insert(0, "/proc/self/fd/%d" % library.fileno())
runpy.run_module(module, run_name="__main__")
"""
COMMAND = (
    "if ! test -x /usr/bin/python3; then exit 97; fi; "
    f"exec /usr/bin/python3 -I -c '{_PROGRAM}'"
)

# What the operator gives comes first and wins.
_OPTIONS = ("ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=4")
_TIMEOUT = 900  # seconds; a passphrase has to be typed within

_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\Z")
# Names, aliases of the operator's configuration, addresses (with [] or without).
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.:%-]{0,252})\Z")


class BadTarget(ValueError):
    """What was given is no USER@HOST."""


class SshFailed(Exception):
    """The host was not reached, or cannot do what is asked.

    :ivar seen: what happened, without a full stop
    :ivar remedy: what to do, likewise
    """

    def __init__(self, seen: str, remedy: str) -> None:
        super().__init__(f"{seen}: {remedy}")
        self.seen = seen
        self.remedy = remedy


class NoPython(SshFailed):
    """dom0 has no Python that the plugins run under.

    :ivar found: its version; "" for none at all
    """

    def __init__(self, host: str, found: str) -> None:
        has = f"has Python {found} only" if found else "has no /usr/bin/python3"
        super().__init__(
            f"dom0 of {host} {has}, and the plugins need Python {OLDEST_PYTHON} "
            "or later",
            "bring the host to XCP-ng 8.3 or XenServer 8",
        )
        self.found = found


@dataclasses.dataclass(frozen=True)
class Target:
    """Whom to ask, and how.

    :ivar user: mostly root
    :ivar options: for ``ssh``, such as ``("-p", "2222")``
    """

    user: str
    host: str
    options: tuple[str, ...] = ()

    def argv(self) -> list[str]:
        """Return the command that runs ``COMMAND`` there."""
        ours = [word for option in _OPTIONS for word in ("-o", option)]
        # Nothing that a host's name or a remote user could say is an option, and
        # nothing of it comes into the remote command.
        words = ["ssh", "-T", "-a", "-x", *self.options, *ours]
        return [*words, "-l", self.user, "--", self.host.strip("[]"), COMMAND]


def target(given: str, options: Sequence[str] = ()) -> Target:
    """Read ``USER@HOST`` or ``HOST`` (as root).

    :raises BadTarget: it is neither
    """
    user, at, name = given.rpartition("@")
    user = user if at else "root"
    if _USER.match(user) is None or _HOST.match(name) is None:
        raise BadTarget(f"{given!r} is no USER@HOST")
    return Target(user, name, tuple(options))


def run(where: Target, laid: Sequence[Entry], module: str, request: bytes) -> bytes:
    """Run a module of the library on the host; return what it printed.

    :param laid: the files of the release, of which the library is sent
    :param request: what the module reads from standard input
    :raises NoPython: dom0's is missing or too old
    :raises SshFailed: no connection, or the module broke
    """
    library = carried(laid)
    head = f"{len(library)} {module}\n".encode()
    try:
        done = subprocess.run(
            where.argv(),
            input=head + library + request,
            capture_output=True,
            timeout=_TIMEOUT,
        )
    except FileNotFoundError as exc:
        raise SshFailed("ssh is not installed here", "install openssh-client") from exc
    except subprocess.TimeoutExpired as exc:
        raise SshFailed(
            f"{where.host} did not answer within {_TIMEOUT} s", "try again"
        ) from exc
    if done.returncode == 0:
        return done.stdout
    said = " ".join(done.stderr.decode(errors="replace").split()[-60:])
    if done.returncode == _SSH_FAILED:
        raise SshFailed(
            f"ssh does not reach {where.user}@{where.host} ({said or 'no reason'})",
            f"see that `ssh {where.user}@{where.host} true` works from here: its key "
            "among the known hosts, yours among its authorized ones",
        )
    if done.returncode == _NO_PYTHON:
        raise NoPython(where.host, "")
    if done.returncode == _OLD_PYTHON:
        raise NoPython(where.host, done.stdout.decode(errors="replace"))
    raise SshFailed(
        f"{where.host} gave up with status {done.returncode} "
        f"({said or 'without a word'})",
        "see that root there has a plain shell and /tmp can be written to",
    )


def carried(laid: Sequence[Entry]) -> bytes:
    """Return the library as a zip archive that Python imports from."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for entry in laid:
            if entry.path.startswith(f"{LIBRARY}/"):
                name = zipfile.ZipInfo(entry.path.removeprefix(f"{PLUGINS}/"))
                archive.writestr(name, entry.content)
    return buffer.getvalue()
