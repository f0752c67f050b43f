# SPDX-License-Identifier: Apache-2.0
"""An image service that takes uploads, by the rules of the Image API v2."""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Image:
    """One image as the service knows it."""

    identity: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "queued"
    data: bytes | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        known = {"id": self.identity, "status": self.status, **self.fields}
        if self.data is not None:
            known.update(
                size=len(self.data), os_hash_algo="sha512",
                os_hash_value=hashlib.sha512(self.data).hexdigest(),
            )
        return known


@dataclass
class Trouble:
    """What befalls the next uploads of one server, one after the other."""

    status: int = 204
    after: int | None = None  # bytes read before the answer; None: all
    hang_up: bool = False  # without an answer
    lose_answer: bool = False  # what came is kept, and nothing said
    damage: bool = False  # something else is stored


class GlanceServer:
    """One API server; several can share ``images``.

    :ivar asked: methods and paths, in order
    :ivar troubles: of the next PUTs
    :ivar refuses: method to status with which it is refused
    :ivar slow: seconds between two chunks that it reads
    :ivar token: who does not have it is refused; None: nobody is
    :ivar served: how often data was asked for
    :ivar cut_after: bytes after which data that is read breaks off, or None
    """

    def __init__(
        self,
        images: dict[str, Image] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.images = {} if images is None else images
        self.asked: list[tuple[str, str]] = []
        self.troubles: list[Trouble] = []
        self.refuses: dict[str, int] = {}
        self.slow = 0.0
        self.token: str | None = None
        self.served = 0
        self.cut_after: int | None = None
        self.tokens: set[str | None] = set()
        outer = self

        class Handler(_Handler):
            service = outer

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *args: None
        scheme = "http"
        if context is not None:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True
            )
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def image(self, **changes: Any) -> Image:
        """Add an image that waits for its data."""
        made = Image(**changes)
        self.images[made.identity] = made
        return made

    def puts(self) -> int:
        return sum(method == "PUT" for method, _path in self.asked)


class _Cut(Exception):
    """The body ended before its end."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: GlanceServer

    def log_message(self, *args: object) -> None:
        pass

    def _image(self) -> Image | None:
        """Return the image that the path names, None after having answered."""
        self.close_connection = True
        self.service.asked.append((self.command, self.path))
        self.service.tokens.add(self.headers["X-Auth-Token"])
        refused = self.service.refuses.get(self.command)
        if self.service.token not in (None, self.headers["X-Auth-Token"]):
            refused = 401
        if refused:
            self._say(refused)
            return None
        parts = self.path.split("/")
        image = self.service.images.get(parts[3]) if len(parts) > 3 else None
        if image is None:
            self._say(404)
        return image

    def _say(self, status: int, document: Any = None) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        image = self._image()
        if self.path.endswith("/file"):
            self.service.served += 1
        if image is None:
            return
        if self.path.endswith("/file"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(image.data or b"")))
            self.end_headers()
            self.wfile.write((image.data or b"")[: self.service.cut_after])
        else:
            self._say(200, image.shown())

    def do_PATCH(self) -> None:
        image = self._image()
        if image is None:
            return
        changes = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert "v2.1-json-patch" in self.headers["Content-Type"]
        for change in changes:
            assert change["op"] == "add"
            image.fields[change["path"].removeprefix("/")] = change["value"]
        self._say(200, image.shown())

    def do_PUT(self) -> None:
        image = self._image()
        if image is None:
            return
        assert self.headers["Transfer-Encoding"] == "chunked"
        assert self.headers["Content-Type"] == "application/octet-stream"
        if image.status != "queued":
            self._say(409)
            return
        troubles = self.service.troubles
        trouble = troubles.pop(0) if troubles else Trouble()
        image.status = "saving"
        try:
            data = self._body(trouble.after)
        except (_Cut, OSError, ValueError):
            image.status = "queued"  # as the service does: nothing was taken
            return
        if trouble.hang_up or trouble.status >= 300:
            image.status = "queued"
            if not trouble.hang_up:
                self._say(trouble.status)
            return
        image.data = b"something else" if trouble.damage else data
        image.status = "active"
        if not trouble.lose_answer:
            self._say(trouble.status)

    def _body(self, most: int | None) -> bytes:
        """Return the body by the letter of RFC 9112, section 7.1."""
        data = bytearray()
        while most is None or len(data) < most:
            line = self.rfile.readline(100)
            if not line.endswith(b"\r\n"):
                raise _Cut
            size = int(line, 16)
            piece = self.rfile.read(size)
            if len(piece) != size or self.rfile.read(2) != b"\r\n":
                raise _Cut
            if size == 0:
                return bytes(data)
            data += piece
            time.sleep(self.service.slow)
        return bytes(data)
