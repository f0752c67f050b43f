# SPDX-License-Identifier: Apache-2.0
"""An image service that costs next to nothing: what is measured is who talks to it.

``python -m bench.image_service FILE`` sends the file for every GET of data, takes every
upload apart and throws it away, and prints its URL.
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import sys
from pathlib import Path

_PIECE = 256 * 1024


class _Connection(socketserver.StreamRequestHandler):
    """Requests of one client, one after the other."""

    rbufsize = _PIECE
    server: Service

    def handle(self) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        while line := self.rfile.readline():
            method, path, _version = line.decode().split()
            headers = {}
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                name, _colon, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("expect") == "100-continue":
                self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._answer(method, path, headers)
            if headers.get("connection") == "close":
                return

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> None:
        if method == "PUT":
            self._throw_away()
            self.server.stored.add(path)
            self._say("204 No Content")
        elif method == "GET" and path.endswith("/file"):
            self._send_file()
        else:
            self.rfile.read(int(headers.get("content-length", 0)))
            known = path + "/file" in self.server.stored
            document = {"status": "active" if known else "queued"}
            self._say("200 OK", json.dumps(document).encode())

    def _say(self, status: str, body: bytes = b"") -> None:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.wfile.write(f"HTTP/1.1 {status}\r\n{length}\r\n".encode() + body)

    def _send_file(self) -> None:
        with self.server.file.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"
            self.wfile.write(head.encode())
            sent = 0
            while sent < size:
                sent += os.sendfile(
                    self.connection.fileno(), file.fileno(), sent, size - sent
                )

    def _throw_away(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        while left := int(self.rfile.readline(), 16):
            while left:
                left -= self.rfile.readinto1(buffer[: min(left, _PIECE)])  # type: ignore[attr-defined]
            self.rfile.readline()
        self.rfile.readline()


class Service(socketserver.ThreadingTCPServer):
    """:ivar stored: paths to which data was put"""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, file: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.file = file
        self.stored: set[str] = set()


if __name__ == "__main__":
    with Service(Path(sys.argv[1])) as service:
        print(f"http://127.0.0.1:{service.server_address[1]}", flush=True)
        service.serve_forever()
