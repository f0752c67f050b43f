# SPDX-License-Identifier: Apache-2.0
"""An embedded host in a process of its own, as measurements need it."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

START_SECONDS = 60


class Refused(Exception):
    """The host's error answer."""


class Client:
    """A logged-in client on one kept-alive connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=600)
        login = ("root", "secret", "1.0", "bench")
        self.session = self._value("session.login_with_password", *login)

    def body(self, method: str, *params: Any) -> bytes:
        """Return the request of a call."""
        return xmlrpc.client.dumps((self.session, *params), method).encode()

    def send(self, body: bytes) -> bytes:
        """POST a request and return the answer, unread."""
        self._connection.request("POST", "/", body)
        return self._connection.getresponse().read()

    def call(self, method: str, *params: Any) -> Any:
        """Carry out a call.

        :raises Refused: the host refused it
        """
        return self._value(method, self.session, *params)

    def _value(self, method: str, *params: Any) -> Any:
        body = xmlrpc.client.dumps(params, method).encode()
        (answer,), _ = xmlrpc.client.loads(self.send(body))
        if answer["Status"] == "Failure":
            raise Refused(answer["ErrorDescription"])
        return answer["Value"]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Host:
    """A running host.

    :ivar urls: where it listens, one for each host that has a door of its own
    """

    def __init__(self, process: subprocess.Popen[str], urls: list[str]) -> None:
        self._process = process
        self.urls = urls

    def cpu_seconds(self) -> float:
        """Return the processor time that the host has used so far."""
        with open(f"/proc/{self._process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(*options: str, doors: int = 1) -> Iterator[Host]:
    """Start an embedded host and stop it in the end.

    :param doors: how many lines that name a URL to wait for
    """
    command = [sys.executable, "-m", "xenapi_driver.sim", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--dom0-python", sys.executable, *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        urls: list[str] = []
        while len(urls) < doors:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the embedded host did not start")
            if line.startswith("listening on "):
                urls.append(line.split()[2])
        yield Host(process, urls)
    finally:
        process.terminate()
        try:
            process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
