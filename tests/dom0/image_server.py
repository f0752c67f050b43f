# SPDX-License-Identifier: Apache-2.0
"""A small image service on loopback, plain or with real TLS."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import ssl
import threading
import time
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Answer:
    """What the server says to a GET of one path."""

    body: bytes = b""
    status: int = 200
    reason: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    announce: int | None = None  # Content-Length, None: the true one
    stop_after: int | None = None  # bytes after which the connection is closed
    length_known: bool = True  # False: neither Content-Length nor chunks
    chunked: bool = False
    stall_at: int | None = None  # bytes after which nothing comes for a while
    ranges: bool = False  # honours Range and If-Range
    careless: bool = False  # and looks at Range only
    range_of: str | None = None  # Content-Range instead of the true one
    pace: tuple[int, float] | None = None  # bytes at a time, seconds between


class ImageServer:
    """Serves ``answers`` by path; keeps the headers of what was asked.

    Of a list of answers each request takes one, and the last stays.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stalled = threading.Event()
        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), self._handler()
        )
        self._server.handle_error = lambda *args: None  # refused handshakes
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
        self.stalled.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers)))
                answer = outer._next(self.path)
                begin = _begin(answer, self.headers)
                self.close_connection = True
                self.send_response(206 if begin else answer.status, answer.reason)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if begin:
                    last, whole = len(answer.body) - 1, len(answer.body)
                    told = answer.range_of or f"bytes {begin}-{last}/{whole}"
                    self.send_header("Content-Range", told)
                if answer.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                elif answer.length_known:
                    length = answer.announce
                    if length is None:
                        length = len(answer.body)
                    self.send_header("Content-Length", str(length - begin))
                self.end_headers()
                outer._send(self.wfile, answer, begin)

        return Handler

    def _next(self, path: str) -> Answer:
        found = self.answers.get(path, Answer(status=404))
        if isinstance(found, Answer):
            return found
        return found.pop(0) if len(found) > 1 else found[0]

    def _send(self, out, answer: Answer, begin: int) -> None:
        body = answer.body[begin:answer.stop_after]
        try:
            if answer.pace is not None:
                for at in range(0, len(body), answer.pace[0]):
                    out.write(body[at:at + answer.pace[0]])
                    time.sleep(answer.pace[1])
                return
            if answer.stall_at is not None:
                out.write(body[: answer.stall_at])
                out.flush()
                self.stalled.wait(30)
                return
            if answer.chunked:
                for at in range(0, len(body), 65536):
                    part = body[at:at + 65536]
                    out.write(b"%x\r\n%s\r\n" % (len(part), part))
                if answer.stop_after is None:
                    out.write(b"0\r\n\r\n")
            else:
                out.write(body)
        except OSError:
            return  # the plugin has refused the image and hung up


def _begin(answer: Answer, headers: Message) -> int:
    """Return the first byte to send: what was asked for, where that is honoured."""
    wanted = headers.get("Range")
    if not answer.ranges or wanted is None:
        return 0
    ours = answer.headers.get("ETag")
    if headers.get("If-Range", ours) != ours and not answer.careless:
        return 0
    return int(wanted.removeprefix("bytes=").removesuffix("-"))


def certificate(folder: Path, name: str, host: str) -> tuple[Path, Path]:
    """Write a self-signed certificate for ``host`` and its key; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


def server_context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """Return a server's TLS context with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context
