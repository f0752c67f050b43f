# SPDX-License-Identifier: Apache-2.0
"""A xenstore that another process keeps, such as a real xenstored."""

import queue
import socket
import threading
from pathlib import Path

from xenapi_driver.sim.doors import xenstore_socket as wire
from xenapi_driver.sim.xenstore import MAX_PAYLOAD, Refusal, Watcher

_SECONDS = 10.0
_TOKEN = "simulator"  # noqa: S105 (names our watch, guards nothing)


class RemoteXenstore:
    """Speaks to a xenstore daemon; offers what :class:`xenstore.Xenstore` does.

    :raises OSError: nobody listens on the socket
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            why = error.strerror or str(error)
            # What the kernel says does not name the file.
            raise OSError(error.errno, why, str(path)) from error
        self._lock = threading.Lock()
        self._answers: queue.Queue[tuple[int, bytes]] = queue.Queue()
        self._watchers: list[Watcher] = []
        threading.Thread(target=self._listen, name="sim-xenstore", daemon=True).start()

    def read(self, path: str) -> bytes:
        """Return a value."""
        return self._ask(wire.READ, path.encode() + b"\0")

    def list(self, path: str) -> list[str]:
        """Return the names directly below a path."""
        answer = self._ask(wire.DIRECTORY, path.encode() + b"\0")
        return [name.decode() for name in answer.split(b"\0") if name]

    def write(self, path: str, value: bytes) -> None:
        """Set a value."""
        self._ask(wire.WRITE, path.encode() + b"\0" + value)

    def write_many(self, values: dict[str, bytes]) -> None:
        """Set values one after the other; a refusal stops in between."""
        for path, value in values.items():
            self.write(path, value)

    def mkdir(self, path: str) -> None:
        """Make a path."""
        self._ask(wire.MKDIR, path.encode() + b"\0")

    def remove(self, path: str) -> None:
        """Remove a path with all below."""
        self._ask(wire.RM, path.encode() + b"\0")

    def exists(self, path: str) -> bool:
        """Return whether there is such a path."""
        try:
            self.read(path)
        except Refusal as refusal:
            if refusal.errno == "ENOENT":
                return False
            raise
        return True

    def watch(self, watcher: Watcher) -> None:
        """Have a function called with every path of a domain that changes."""
        self._watchers.append(watcher)
        if len(self._watchers) == 1:
            self._ask(wire.WATCH, f"/local/domain\0{_TOKEN}\0".encode())

    def unwatch(self, watcher: Watcher) -> None:
        """Call it no more."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def close(self) -> None:
        """Part with the daemon."""
        self._socket.close()

    def _ask(self, kind: int, payload: bytes) -> bytes:
        if len(payload) > MAX_PAYLOAD:
            # A daemon would cut us off.
            raise Refusal("E2BIG")
        with self._lock:
            header = wire.HEADER.pack(kind, 0, 0, len(payload))
            self._socket.sendall(header + payload)
            answered, data = self._answers.get(timeout=_SECONDS)
        if answered == wire.ERROR:
            raise Refusal(data.rstrip(b"\0").decode())
        return data

    def _listen(self) -> None:
        stream = self._socket.makefile("rb")
        while len(header := _read(stream, wire.HEADER.size)) == wire.HEADER.size:
            kind, _, _, length = wire.HEADER.unpack(header)
            data = _read(stream, length)
            if kind != wire.WATCH_EVENT:
                self._answers.put((kind, data))
                continue
            path = data.split(b"\0")[0].decode()
            for watcher in list(self._watchers):
                watcher(path)
        # Whoever waits learns that nobody answers any more.
        self._answers.put((wire.ERROR, b"EIO\0"))


def _read(stream: object, length: int) -> bytes:
    try:
        return bytes(stream.read(length))  # type: ignore[attr-defined]
    except (OSError, ValueError):
        # Closed from our side.
        return b""
