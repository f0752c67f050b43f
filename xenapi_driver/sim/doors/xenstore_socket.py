# SPDX-License-Identifier: Apache-2.0
"""The xenstore's own protocol on a unix socket, for dom0's tools and plugins.

Messages are those of xen/include/public/io/xs_wire.h: four 32-bit numbers (type,
request, transaction, length) and the payload. ``xenstore-read`` and its kin find the
socket by the environment variable ``XENSTORED_PATH``.
"""

import errno
import os
import shutil
import socket
import socketserver
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from xenapi_driver.sim.xenstore import MAX_PAYLOAD, Refusal, Xenstore, checked

HEADER = struct.Struct("<IIII")
DIRECTORY, READ, GET_PERMS, WATCH, UNWATCH = 1, 2, 3, 4, 5
TRANSACTION_START, TRANSACTION_END = 6, 7
GET_DOMAIN_PATH, WRITE, MKDIR, RM, SET_PERMS = 10, 11, 12, 13, 14
WATCH_EVENT, ERROR, IS_DOMAIN_INTRODUCED, RESET_WATCHES = 15, 16, 17, 21
_OK = b"OK\0"
_OWNER_ONLY = b"n0\0"


class _Connection(socketserver.BaseRequestHandler):
    """One client: its transactions and its watches."""

    server: "_Server"

    def setup(self) -> None:
        self._sending = threading.Lock()
        self._transactions: dict[int, tuple[Xenstore, int]] = {}
        self._next = 1
        self._watches: list[tuple[str, str]] = []
        self.server.store.watch(self._changed)
        self.server.enter(self.request)

    def finish(self) -> None:
        self.server.store.unwatch(self._changed)
        self.server.leave(self.request)

    def handle(self) -> None:
        while (header := self._receive(HEADER.size)) is not None:
            kind, request, transaction, length = HEADER.unpack(header)
            if length > MAX_PAYLOAD:
                return
            payload = self._receive(length)
            if payload is None:
                return
            try:
                answer = self._answer(kind, transaction, payload)
            except Refusal as refusal:
                kind, answer = ERROR, refusal.errno.encode() + b"\0"
            self._send(kind, request, transaction, answer)
            if kind == WATCH:
                # A fresh watch fires at once: the client need not look first.
                self._fire(*self._watches[-1])

    def _receive(self, length: int) -> bytes | None:
        data = b""
        while len(data) < length:
            try:
                piece = self.request.recv(length - len(data))
            except OSError:
                return None
            if not piece:
                return None
            data += piece
        return data

    def _send(self, kind: int, request: int, transaction: int, data: bytes) -> None:
        message = HEADER.pack(kind, request, transaction, len(data)) + data
        with self._sending:
            try:
                self.request.sendall(message)
            except OSError:
                # The client is gone, which the next read finds as well.
                return

    def _answer(self, kind: int, transaction: int, payload: bytes) -> bytes:
        # Number 0 stands for no transaction, which cannot be ended either.
        is_named = transaction or kind == TRANSACTION_END
        if is_named and transaction not in self._transactions:
            raise Refusal("ENOENT")
        store = self.server.store
        if transaction and kind != TRANSACTION_END:
            store = self._transactions[transaction][0]
        act = _ACTS.get(kind)
        if act is not None:
            return act(store, payload)
        if kind == TRANSACTION_START:
            return self._begin()
        if kind == TRANSACTION_END:
            return self._end(transaction, payload)
        if kind in (WATCH, UNWATCH):
            return self._set_watch(kind, payload)
        if kind == RESET_WATCHES:
            self._watches.clear()
            return _OK
        raise Refusal("ENOSYS")

    def _begin(self) -> bytes:
        number, self._next = self._next, self._next + 1
        twin = self.server.store.copy()
        self._transactions[number] = (twin, twin.generation)
        return f"{number}\0".encode()

    def _end(self, number: int, payload: bytes) -> bytes:
        twin, since = self._transactions.pop(number)
        if payload[:1] == b"T":
            self.server.store.take(twin, since)
        return _OK

    def _set_watch(self, kind: int, payload: bytes) -> bytes:
        path, token = _texts(payload, 2)
        entry = (path, token)
        if not path.startswith("@"):
            checked(path)
        if kind == WATCH:
            if entry in self._watches:
                raise Refusal("EEXIST")
            self._watches.append(entry)
        elif entry in self._watches:
            self._watches.remove(entry)
        else:
            raise Refusal("ENOENT")
        return _OK

    def _changed(self, path: str) -> None:
        for watched, token in list(self._watches):
            if watched.startswith("@"):
                continue
            above = checked(watched).rstrip("/")
            if path == above or path.startswith(f"{above}/"):
                self._fire(path, token)
            elif above.startswith(f"{path}/"):
                # What lies above went, and it with it.
                self._fire(watched, token)

    def _fire(self, path: str, token: str) -> None:
        self._send(WATCH_EVENT, 0, 0, f"{path}\0{token}\0".encode())


def _texts(payload: bytes, count: int) -> list[str]:
    """Return the NUL-ended texts of a payload.

    :raises Refusal: EINVAL
    """
    parts = payload.split(b"\0")
    if len(parts) < count + 1:
        raise Refusal("EINVAL")
    try:
        return [part.decode("ascii") for part in parts[:count]]
    except UnicodeDecodeError:
        raise Refusal("EINVAL") from None


def _directory(store: Xenstore, payload: bytes) -> bytes:
    (path,) = _texts(payload, 1)
    answer = "".join(f"{name}\0" for name in store.list(path)).encode()
    if len(answer) > MAX_PAYLOAD:
        raise Refusal("E2BIG")
    return answer


def _read(store: Xenstore, payload: bytes) -> bytes:
    return store.read(_texts(payload, 1)[0])


def _write(store: Xenstore, payload: bytes) -> bytes:
    path, _, value = payload.partition(b"\0")
    store.write(_texts(path + b"\0", 1)[0], value)
    return _OK


def _mkdir(store: Xenstore, payload: bytes) -> bytes:
    store.mkdir(_texts(payload, 1)[0])
    return _OK


def _remove(store: Xenstore, payload: bytes) -> bytes:
    store.remove(_texts(payload, 1)[0])
    return _OK


def _get_perms(store: Xenstore, payload: bytes) -> bytes:
    store.read(_texts(payload, 1)[0])
    return _OWNER_ONLY


def _set_perms(store: Xenstore, payload: bytes) -> bytes:
    """Look whether the path is there; all who can connect here are dom0 anyway."""
    store.read(_texts(payload, 1)[0])
    return _OK


def _domain_path(store: Xenstore, payload: bytes) -> bytes:
    return f"/local/domain/{_texts(payload, 1)[0]}\0".encode()


def _introduced(store: Xenstore, payload: bytes) -> bytes:
    there = store.exists(f"/local/domain/{_texts(payload, 1)[0]}")
    return b"T\0" if there else b"F\0"


_ACTS: dict[int, Callable[[Xenstore, bytes], bytes]] = {
    DIRECTORY: _directory,
    READ: _read,
    WRITE: _write,
    MKDIR: _mkdir,
    RM: _remove,
    GET_PERMS: _get_perms,
    SET_PERMS: _set_perms,
    GET_DOMAIN_PATH: _domain_path,
    IS_DOMAIN_INTRODUCED: _introduced,
}


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, store: Xenstore) -> None:
        self.store = store
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(path, _Connection)

    def enter(self, client: socket.socket) -> None:
        """Note a client, to part with it at the end."""
        with self._lock:
            self._clients.add(client)

    def leave(self, client: socket.socket) -> None:
        """Forget a client."""
        with self._lock:
            self._clients.discard(client)

    def serve(self) -> None:
        """Take clients in until the socket is closed; waits without polling."""
        while True:
            try:
                client, address = self.get_request()
            except OSError:
                return
            self.process_request(client, address)

    def part(self) -> None:
        """Cut all clients off."""
        with self._lock:
            for client in self._clients:
                try:
                    client.shutdown(socket.SHUT_RDWR)
                except OSError as error:
                    if error.errno != errno.ENOTCONN:
                        raise


class XenstoreSocket:
    """The socket of a store, open until it is closed.

    :ivar path: for ``XENSTORED_PATH``; short, as the kernel wants such names
    """

    def __init__(self, store: Xenstore) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="xs-"))
        self.path = self._folder / "socket"
        self._server = _Server(os.fspath(self.path), store)
        threading.Thread(
            target=self._server.serve, name="sim-xenstore", daemon=True
        ).start()

    def close(self) -> None:
        """Close it and cut its clients off."""
        self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.part()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)
