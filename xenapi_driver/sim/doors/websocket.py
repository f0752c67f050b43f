# SPDX-License-Identifier: Apache-2.0
"""A WebSocket (RFC 6455) as a stream, for consoles in browsers."""

import base64
import binascii
import hashlib
import threading
from collections.abc import Mapping

from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.doors.rpc import Peer
from xenapi_driver.sim.doors.site import Stream

# RFC 6455, section 1.3.
_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_MAX_FRAME = 1 << 20
_PROTOCOLS = ("binary", "base64")


class WebSocket:
    """A stream of bytes in frames; with the protocol base64 they are text."""

    def __init__(self, stream: Stream, protocol: str) -> None:
        self._stream = stream
        self._is_text = protocol == "base64"
        self._buffer = b""
        self._lock = threading.Lock()

    @property
    def peer(self) -> Peer:
        """Return who is on the other side."""
        return self._stream.peer

    @property
    def encrypted(self) -> bool:
        """Return whether nobody else can read it."""
        return self._stream.encrypted

    def set_timeout(self, seconds: float | None) -> None:
        """Let reading and writing raise TimeoutError after so long."""
        self._stream.set_timeout(seconds)

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; b"" at the end."""
        while not self._buffer:
            frame = self._frame()
            if frame is None:
                return b""
            self._buffer = frame
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _frame(self) -> bytes | None:
        """Return what the next frame brings, b"" for none; None at the end."""
        head = self._exactly(2)
        if len(head) < 2:
            return None
        kind, size = head[0] & 0x0F, head[1] & 0x7F
        if size >= 126:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
        if not head[1] & 0x80 or size > _MAX_FRAME:
            return None
        mask = self._exactly(4)
        data = self._exactly(size)
        if len(mask) < 4 or len(data) < size:
            return None
        data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        if kind == _CLOSE:
            self._send(_CLOSE, data)
            return None
        if kind == _PING:
            self._send(_PONG, data)
        if kind in (_PING, _PONG):
            return b""
        if not self._is_text:
            return data
        try:
            return base64.b64decode(data)
        except binascii.Error:
            return None

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._stream.read(size - len(data))
            if not more:
                break
            data += more
        return data

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        if self._is_text:
            self._send(_TEXT, base64.b64encode(data))
        else:
            self._send(_BINARY, data)

    def _send(self, kind: int, data: bytes) -> None:
        size = len(data)
        if size < 126:
            head = bytes([0x80 | kind, size])
        elif size < 1 << 16:
            head = bytes([0x80 | kind, 126]) + size.to_bytes(2, "big")
        else:
            head = bytes([0x80 | kind, 127]) + size.to_bytes(8, "big")
        with self._lock:
            self._stream.write(head + data)

    def hang_up(self) -> None:
        """Say goodbye and end the connection."""
        try:
            self._send(_CLOSE, b"\x03\xe8")
        finally:
            self._stream.hang_up()


def is_asked_for(headers: Mapping[str, str]) -> bool:
    """Return whether a request's headers ask for a WebSocket."""
    return headers.get("upgrade", "").lower() == "websocket"


def accept(stream: Stream, headers: Mapping[str, str]) -> WebSocket:
    """Answer the request for a WebSocket and return it.

    :raises Refusal: 500, a header is missing
    """
    key = headers.get("sec-websocket-key")
    if key is None:
        raise Refusal(500, 'Ws_helpers.MissingHeader("sec-websocket-key")')
    digest = hashlib.sha1((key + _KEY).encode(), usedforsecurity=False).digest()
    offered = headers.get("sec-websocket-protocol", "").replace(" ", "").split(",")
    protocol = next((name for name in _PROTOCOLS if name in offered), "")
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
    ]
    if protocol:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    stream.write("\r\n".join([*lines, "", ""]).encode())
    return WebSocket(stream, protocol)
