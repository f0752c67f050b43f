# SPDX-License-Identifier: Apache-2.0
"""Speak to the host's xenstored as dom0, over its socket.

The ``xenstore-*`` commands could do less and show more: a value would be in the
process list, and they have no transactions. Messages are those of Xen's
public/io/xs_wire.h: four 32-bit numbers (type, request, transaction, length) and the
payload, of which answers carry the type and the request's number back.
"""
import contextlib
import os
import random
import select
import socket
import struct
import time

from xenapi_dom0 import failures, paths

SOCKET = "/run/xenstored/socket"
MAX_PAYLOAD = 4096  # XENSTORE_PAYLOAD_MAX, bytes: path, NUL and value together
MAX_LISTING = 1024 * 1024  # bytes; the OCaml daemon sends more in one message
SECONDS = 10  # for one answer, and for a transaction that others keep spoiling
_HEADER = struct.Struct("=IIII")
_DIRECTORY, _READ, _WATCH, _UNWATCH = 1, 2, 4, 5
_TRANSACTION_START, _TRANSACTION_END, _WRITE, _RM = 6, 7, 11, 13
_WATCH_EVENT, _ERROR, _DIRECTORY_PART = 15, 16, 22


class Refused(failures.Failure):
    """The daemon said no; ``errno`` is a name such as ``EACCES``."""

    def __init__(self, doing, errno):
        super().__init__(failures.COMMAND_FAILED, doing, "xenstored: " + errno)
        self.errno = errno


@contextlib.contextmanager
def connected():
    """Give a Store for the length of a ``with``."""
    store = Store()
    try:
        yield store
    finally:
        store.close()


class Store:
    """One connection to the daemon. Paths are absolute, values are bytes."""

    def __init__(self):
        # The variable is that of Xen's own tools; xapi sets none for a plugin.
        path = os.environ.get("XENSTORED_PATH") or paths.host_path(SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(SECONDS)
        try:
            self._socket.connect(path)
        except OSError as exc:
            self._socket.close()
            raise _broken(exc) from exc
        self._number = 0
        self._transaction = 0
        self._fired = False

    def close(self):
        """Part with the daemon, which then forgets our watches and transactions."""
        self._socket.close()

    def read(self, path):
        """Return a value, or None where there is no such path."""
        return self._unless_absent("read", _READ, _text(path))

    def names(self, path):
        """Return the names directly below a path; None where there is no such path."""
        try:
            listed = self._unless_absent("list", _DIRECTORY, _text(path))
        except Refused as exc:
            if exc.errno != "E2BIG":
                raise
            listed = self._in_parts(path)
        if listed is None:
            return None
        return [name.decode("ascii") for name in listed.split(b"\0") if name]

    def write(self, path, value):
        """Set a value; what lies above it is made."""
        self._ask("write", _WRITE, _text(path) + value)

    def remove(self, path):
        """Remove a path with all below it; one that is not there is fine."""
        self._unless_absent("remove", _RM, _text(path))

    def transact(self, work):
        """Return what ``work()`` returns, all of it done in one transaction or nothing.

        It may be called several times, when others change what it has looked at.
        """
        deadline = time.monotonic() + SECONDS
        while True:
            begun = self._ask("begin a transaction", _TRANSACTION_START, b"\0")
            self._transaction = int(begun.rstrip(b"\0"))
            try:
                value = work()
            except failures.Failure:
                with contextlib.suppress(failures.Failure):
                    self._end(b"F\0")
                raise
            try:
                self._end(b"T\0")
                return value
            except Refused as exc:
                if exc.errno != "EAGAIN":
                    raise
            if time.monotonic() > deadline:
                raise failures.Failure(failures.BUSY, "xenstore")
            time.sleep(random.uniform(0, 0.02))

    @contextlib.contextmanager
    def watching(self, *watched):
        """Have :meth:`wait` end with every change of these paths, or below them."""
        for path in watched:
            self._ask("watch", _WATCH, _text(path) + _text(path))
        try:
            yield
        except failures.Failure:
            with contextlib.suppress(failures.Failure):
                self._unwatch(watched)
            raise
        # After any other end the connection is closed, and the watches with it.
        self._unwatch(watched)

    def _unwatch(self, watched):
        for path in watched:
            self._ask("unwatch", _UNWATCH, _text(path) + _text(path))

    def wait(self, seconds):
        """Wait until something that is watched may have changed, or for so long."""
        deadline = time.monotonic() + seconds
        while not self._fired:
            left = max(0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], left)[0]:
                return
            self._receive()
        self._fired = False

    def _end(self, how):
        try:
            self._ask("end a transaction", _TRANSACTION_END, how)
        finally:
            self._transaction = 0

    def _in_parts(self, path):
        """Return a listing that is too long for one message."""
        deadline = time.monotonic() + SECONDS
        listed, generation = b"", None
        # An empty name ends it.
        while not listed.endswith(b"\0\0"):
            payload = _text(path) + _text(str(len(listed)))
            part = self._unless_absent("list", _DIRECTORY_PART, payload)
            if part is None:
                return None
            now, _nul, piece = part.partition(b"\0")
            if generation not in (None, now):
                # It changed meanwhile, so once more from the start.
                listed, generation = b"", None
                if time.monotonic() > deadline:
                    raise failures.Failure(failures.BUSY, "xenstore")
                continue
            generation = now
            listed += piece
            if not piece:
                break
        return listed

    def _unless_absent(self, doing, kind, payload):
        try:
            return self._ask(doing, kind, payload)
        except Refused as exc:
            if exc.errno != "ENOENT":
                raise
            return None

    def _ask(self, doing, kind, payload):
        """Return the answer's payload."""
        self._number += 1
        header = _HEADER.pack(kind, self._number, self._transaction, len(payload))
        try:
            self._socket.sendall(header + payload)
        except OSError as exc:
            raise _broken(exc) from exc
        while True:
            said, number, answer = self._receive()
            if said != _WATCH_EVENT and number == self._number:
                break
        if said == _ERROR:
            errno = answer.rstrip(b"\0").decode("ascii", "replace")
            raise Refused("%s in xenstore" % doing, errno)
        return answer

    def _receive(self):
        """Return type, request's number and payload of one message."""
        kind, number, _transaction, length = _HEADER.unpack(self._exactly(_HEADER.size))
        if length > MAX_LISTING:
            raise failures.Failure(
                failures.COMMAND_FAILED, "talk to xenstored", "it sent no message"
            )
        payload = self._exactly(length)
        if kind == _WATCH_EVENT:
            self._fired = True
        return kind, number, payload

    def _exactly(self, length):
        data = b""
        while len(data) < length:
            try:
                piece = self._socket.recv(length - len(data))
            except OSError as exc:
                raise _broken(exc) from exc
            if not piece:
                raise failures.Failure(
                    failures.COMMAND_FAILED, "talk to xenstored", "it hung up"
                )
            data += piece
        return data


def _text(text):
    return text.encode("ascii") + b"\0"


def _broken(exc):
    if isinstance(exc, socket.timeout):
        return failures.Failure(failures.TIMED_OUT, "xenstored", SECONDS)
    return failures.from_os_error(exc, "talk to xenstored", SOCKET)
