# SPDX-License-Identifier: Apache-2.0
"""A small image service on loopback: what dom0 asks for, over real HTTP."""

from __future__ import annotations

import http.server
import threading


class ImageService:
    """Serves ``GET /v2/images/<id>/file`` from memory.

    :ivar images: image id to bytes
    :ivar cut_after: bytes after which the next answers break off, or None
    :ivar served: number of answers given
    """

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.served = 0
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.answer(self)

            def log_message(self, *args: object) -> None:
                """Stay quiet: the tests look at the driver's log."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer one request for an image."""
        self.served += 1
        data = self.images.get(request.path.split("/")[3])
        if data is None or request.headers["X-Auth-Token"] != "a-token":
            request.send_error(404 if data is None else 401)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: self.cut_after])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
