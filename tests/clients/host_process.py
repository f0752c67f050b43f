# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver sim`` as a process of its own, and a second look at its state."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue

from tests.clients.environments import ROOT
from tests.sim.clients import HttpSender, JsonClient

COMMAND = Path(sys.executable).parent / "xenapi-driver"
SECONDS_TO_START = 30
# Guests have their drivers as soon as they run.
AT_ONCE = ("--agent-delay", "0")


class HostProcess:
    """A started host.

    :ivar url: where it answers
    :ivar certificate: its certificate as PEM, None without TLS
    :ivar state: its folder
    """

    def __init__(self, url: str, state: Path) -> None:
        self.url = url
        self.state = state
        self.certificate: Path | None = None
        if url.startswith("https"):
            self.certificate = state / "xapi-ssl.pem"

    @contextlib.contextmanager
    def look(self) -> Iterator[JsonClient]:
        """Log in with a client of our own, to see what the tested one left."""
        context = None
        if self.certificate is not None:
            context = ssl.create_default_context(cafile=str(self.certificate))
        sender = HttpSender(self, "/jsonrpc", context)
        client = JsonClient(sender)
        try:
            yield client
        finally:
            client.call("session.logout")
            sender.connection.close()

    def records(self, cls: str, **wanted: object) -> list[dict]:
        """Return the records of a class whose fields have these values."""
        with self.look() as client:
            found = client.call(f"{cls}.get_all_records").items()
        records = [{"ref": ref, **record} for ref, record in found]
        return [
            record
            for record in records
            if all(record[name] == value for name, value in wanted.items())
        ]

    def record(self, cls: str, **wanted: object) -> dict:
        """Return the one record whose fields have these values."""
        found = self.records(cls, **wanted)
        assert len(found) == 1, f"{len(found)} {cls} with {wanted}"
        return found[0]


def _first_line(process: subprocess.Popen) -> str:
    """Return what the host says when it is ready, and drain the rest."""
    lines: Queue[str] = Queue()

    def drain() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=drain, daemon=True).start()
    try:
        return lines.get(timeout=SECONDS_TO_START).strip()
    except Empty:
        return ""


@contextlib.contextmanager
def started(state: Path, *options: str) -> Iterator[HostProcess]:
    """Run a host on a free port until the block ends.

    :raises AssertionError: it did not start, or did not end well
    """
    # The tests' own copy of the project, also where another one is installed.
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    errors = state.parent / f"{state.name}.stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [COMMAND, "sim", "--port", "0", "--state", state, *AT_ONCE, *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environ,
        )
    try:
        said = _first_line(process)
        prefix = "listening on "
        assert said.startswith(prefix), said or errors.read_text()
        yield HostProcess(said.removeprefix(prefix), state)
        assert process.poll() is None, f"the host ended: {errors.read_text()}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, errors.read_text()
