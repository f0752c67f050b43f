# SPDX-License-Identifier: Apache-2.0
"""What somebody writes, as something to be read.

Nova's image client verifies a signature only of what it writes into a file; what it
returns instead to be read, it has read to the end already.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

_PIECE = 1 << 20  # bytes; small ones would cost more to hand over than to make
_WAITING = 4  # pieces
_LOOK_SECONDS = 0.2
_JOIN_SECONDS = 5.0


class _Abandoned(Exception):
    """Nobody reads any more."""


class Sink:
    """A file that is only written to, for Nova's client."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(_WAITING)
        self._abandoned = threading.Event()

    def write(self, data: bytes) -> None:
        """Take bytes; waits for who reads."""
        self._buffer += data
        if len(self._buffer) >= _PIECE:
            self._flush()

    def truncate(self, size: int) -> None:
        """Be told that what was written is void; the error that follows says so."""

    def _flush(self) -> None:
        self._put(bytes(self._buffer))
        self._buffer.clear()

    def _put(self, piece: bytes | BaseException | None) -> None:
        while not self._abandoned.is_set():
            try:
                self._pieces.put(piece, timeout=_LOOK_SECONDS)
                return
            except queue.Full:
                continue
        raise _Abandoned

    def _fill(self, write: Callable[[Sink], object]) -> None:
        try:
            try:
                write(self)
                self._flush()
                self._put(None)
            except _Abandoned:
                raise
            except BaseException as exc:
                # Raised again where the pieces are taken.
                self._put(exc)
        except _Abandoned:
            return

    def read_from(self, write: Callable[[Sink], object]) -> Iterator[bytes]:
        """Give what ``write`` writes, and raise in the end what it raises."""
        thread = threading.Thread(target=self._fill, args=(write,), daemon=True)
        thread.start()
        try:
            while (piece := self._pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                if piece:
                    yield piece
        finally:
            self._abandoned.set()
            thread.join(_JOIN_SECONDS)
