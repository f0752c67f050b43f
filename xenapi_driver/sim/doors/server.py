# SPDX-License-Identifier: Apache-2.0
"""The host's HTTP and HTTPS doors.

POST to /jsonrpc (or /json) is JSON-RPC, POST to any other path XML-RPC; with the test
door open, /_sim/... answers JSON. Connections are kept alive.
"""

import contextlib
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from xenapi_driver.sim.doors import certificate, exchange, handlers
from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.doors.wire import Malformed
from xenapi_driver.sim.failure import ConnectionCut, Failure

# Larger RPC bodies are refused ("XAPI today", section 1.1).
MAX_BODY = 300 * 1024
_TEST_DOOR = "/_sim"
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "X-Requested-With",
}
_FORBIDDEN = (
    "<html><body><h1>HTTP 403 forbidden</h1>"
    "Access to the requested resource is forbidden.</body></html>"
)


@dataclass(frozen=True)
class Doors:
    """Who answers: XML-RPC, JSON-RPC, and the test door if it is open."""

    xml: Callable[[bytes], bytes]
    json: Callable[[bytes], bytes]
    machine: exchange.Computer
    admin: Callable[[str, bytes | None], Any] | None = None


@dataclass(frozen=True)
class _Stream:
    """A connection's two buffers as one."""

    reader: Any
    writer: Any

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some."""
        data: bytes = self.reader.read1(size)
        return data

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        self.writer.write(data)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # An answer is several small writes: do not wait for more.
    disable_nagle_algorithm = True
    server: "_HttpServer"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: clients log what they need."""

    def do_GET(self) -> None:
        """Answer at a handler's path or the test door; elsewhere is the web page."""
        if not self._handled():
            self._admin_or_forbidden(None)

    def do_PUT(self) -> None:
        """Answer at a handler's path."""
        if not self._handled():
            self._body()
            self._html(403, _FORBIDDEN)

    do_CONNECT = do_PUT

    def _handled(self) -> bool:
        """Let the path's handler answer; return whether there is one."""
        found = exchange.find(self.command, self.path.partition("?")[0])
        if found is None:
            return False
        function, realm = found
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = exchange.Request(self.command, self.path, headers)
        stream = _Stream(self.rfile, self.wfile)
        self.close_connection = True
        try:
            talk = exchange.Exchange(request, stream, self.server.doors.machine, realm)
        except Refusal as refusal:
            self._html(refusal.status, refusal.page().decode())
            return True
        talk.run(function)
        self.close_connection = talk.must_close
        return True

    def do_OPTIONS(self) -> None:
        """Answer the browser's question before a call."""
        self._answer(200, "text/plain", b"")

    def do_POST(self) -> None:
        """Answer a call."""
        body = self._body()
        if body is None:
            return
        path = self.path.partition("?")[0]
        if self._is_test_door():
            self._admin_or_forbidden(body)
            return
        is_json = path in ("/jsonrpc", "/json")
        door = self.server.doors.json if is_json else self.server.doors.xml
        try:
            answer = door(body)
        except Malformed as error:
            self._server_error(str(error))
            return
        except ConnectionCut:
            self.close_connection = True
            return
        kind = "application/json" if is_json else "text/xml"
        self._answer(200, kind, answer)

    def _body(self) -> bytes | None:
        """Return the request's body, or None when it was refused."""
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit():
            self._html(400, "<html><body><h1>HTTP 400 bad request</h1></body></html>")
            return None
        if int(length) > MAX_BODY:
            self._server_error("Http_svr: request body too large")
            return None
        return self.rfile.read(int(length))

    def _is_test_door(self) -> bool:
        path = self.path.partition("?")[0]
        wanted = path == _TEST_DOOR or path.startswith(_TEST_DOOR + "/")
        return wanted and self.server.doors.admin is not None

    def _admin_or_forbidden(self, body: bytes | None) -> None:
        admin = self.server.doors.admin
        if admin is None or not self._is_test_door():
            self._html(403, _FORBIDDEN)
            return
        try:
            found = admin(self.path, body)
        except (TypeError, ValueError, LookupError, Failure) as error:
            self._answer(400, "text/plain", f"{error}\n".encode())
            return
        self._answer(200, "application/json", json.dumps(found).encode() + b"\n")

    def _server_error(self, text: str) -> None:
        self._html(
            500,
            "<html><body><h1>HTTP 500 internal server error</h1>An unexpected error"
            " occurred; please wait a while and try again. If the problem persists,"
            " please contact your support representative."
            f"<h1> Additional information </h1>{escape(text)}</body></html>",
        )

    def _html(self, status: int, text: str) -> None:
        self.close_connection = True
        self._answer(status, "text/html", text.encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        kept = "close" if self.close_connection else "keep-alive"
        self.send_header("connection", kept)
        self.send_header("cache-control", "no-cache, no-store")
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if status == 200:
            for name, value in _CORS.items():
                self.send_header(name, value)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="xapi"')
        self.end_headers()
        self.wfile.write(body)


class _HttpServer(http.server.ThreadingHTTPServer):
    """A listener that can cut the connections it accepted."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], doors: Doors) -> None:
        self.doors = doors
        self.context: ssl.SSLContext | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        handlers.load()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection and answer it in a thread."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the TLS handshake, in the connection's thread, then answer."""
        if self.context is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(10)
        with self.context.wrap_socket(request, server_side=True) as wrapped:
            wrapped.settimeout(None)
            with self._lock:
                self._open.add(wrapped)
            try:
                super().finish_request(wrapped, client_address)
            finally:
                with self._lock:
                    self._open.discard(wrapped)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that hang up or refuse the certificate."""

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Server:
    """A door on TCP, open until :meth:`close`.

    :ivar url: where it is, such as ``http://127.0.0.1:49152``
    :ivar fingerprint: SHA-256 of the certificate, "" without TLS
    :ivar cert_file: certificate (and key) as PEM, None without TLS
    """

    def __init__(
        self, doors: Doors, host: str, port: int, certificate_dir: Path | None
    ) -> None:
        self.fingerprint = ""
        self.cert_file: Path | None = None
        self._doors = doors
        self._context: ssl.SSLContext | None = None
        scheme = "http"
        if certificate_dir is not None:
            self.cert_file, self.fingerprint = certificate.make(certificate_dir, host)
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(self.cert_file)
            scheme = "https"
        self._lock = threading.Lock()
        self._http: _HttpServer | None = None
        self.address = (host, port)
        self.reopen()
        self.port = self.address[1]
        self.url = f"{scheme}://{host}:{self.port}"

    def reopen(self) -> None:
        """Listen, at the same address as before if it was open before."""
        with self._lock:
            if self._http is not None:
                return
            server = _HttpServer(self.address, self._doors)
            server.context = self._context
            self.address = (self.address[0], server.server_address[1])
            self._http = server
        threading.Thread(
            target=server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="sim-server",
            daemon=True,
        ).start()

    def cut(self) -> None:
        """Cut what is open; who comes again is let in."""
        with self._lock:
            if self._http is not None:
                self._http.cut()

    def shut(self) -> None:
        """Stop listening and cut what is open; can be called again."""
        with self._lock:
            server, self._http = self._http, None
        if server is not None:
            server.shutdown()
            server.cut()
            server.server_close()

    def close(self) -> None:
        """End for good."""
        self.shut()
