# SPDX-License-Identifier: Apache-2.0
"""A server of the Remote Framebuffer Protocol 3.8 (RFC 6143), for one viewer.

Security type None, encoding Raw; a viewer may choose any pixel format. It is sent a
picture when it asks for all, and when it asks for changes and something changed.
"""

import contextlib
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from xenapi_driver.sim.doors import screen
from xenapi_driver.sim.doors.site import Stream

_VERSION = b"RFB 003.008\n"
_SECURITY_NONE = 1
# RFC 6143, section 7.5: messages of the viewer, with the bytes after their type.
_SET_PIXEL_FORMAT, _SET_ENCODINGS, _UPDATE_REQUEST = 0, 2, 3
_KEY, _POINTER, _CUT_TEXT = 4, 5, 6
_SIZES = {
    _SET_PIXEL_FORMAT: 19,
    _SET_ENCODINGS: 3,
    _UPDATE_REQUEST: 9,
    _KEY: 7,
    _POINTER: 5,
    _CUT_TEXT: 7,
}
# The longest text that a viewer may paste.
_MAX_CUT = 1 << 20


class Ended(Exception):
    """The viewer hung up, or does not speak the protocol."""


@dataclass(frozen=True)
class PixelFormat:
    """RFC 6143, section 7.4."""

    bits: int
    depth: int
    big_endian: bool
    true_colour: bool
    maxima: tuple[int, int, int]
    shifts: tuple[int, int, int]

    @classmethod
    def read(cls, data: bytes) -> "PixelFormat":
        """Return the format of 16 bytes.

        :raises Ended: no such pixels
        """
        bits, depth, big, true, *numbers = struct.unpack(">BBBBHHHBBB3x", data)
        if bits not in (8, 16, 32):
            raise Ended(f"pixels of {bits} bits")
        maxima, shifts = tuple(numbers[:3]), tuple(numbers[3:])
        return cls(bits, depth, bool(big), bool(true), maxima, shifts)

    def write(self) -> bytes:
        """Return the 16 bytes."""
        flags = (self.bits, self.depth, self.big_endian, self.true_colour)
        return struct.pack(">BBBBHHHBBB3x", *flags, *self.maxima, *self.shifts)

    def pixel(self, index: int) -> bytes:
        """Return a colour of the palette as a pixel."""
        value = index
        if self.true_colour:
            value = 0
            colour = screen.PALETTE[index]
            for part, most, shift in zip(colour, self.maxima, self.shifts, strict=True):
                value |= (part * most // 255) << shift
        order = "big" if self.big_endian else "little"
        size = self.bits // 8
        return (value & ((1 << self.bits) - 1)).to_bytes(size, order)  # type: ignore[arg-type]


_OURS = PixelFormat(32, 24, False, True, (255, 255, 255), (16, 8, 0))


class Viewer:
    """One viewer of a screen.

    :param show: returns the lines of the screen now, None when it is gone
    """

    def __init__(
        self,
        stream: Stream,
        name: str,
        terminal: screen.Terminal,
        show: Callable[[], tuple[str, ...] | None],
    ) -> None:
        self._stream = stream
        self._name = name
        self._terminal = terminal
        self._show = show
        self._format = _OURS
        self._wanted: tuple[int, int, int, int] | None = None
        self._everything = False
        self._over = False

    def serve(self, patience: float | None = None) -> None:
        """Talk until the viewer leaves or the screen is gone.

        :param patience: seconds without a word from the viewer before it is left
        """
        self._stream.set_timeout(patience)
        with contextlib.suppress(Ended, OSError):
            self._greet()
            reader = threading.Thread(target=self._listen, name="sim-rfb", daemon=True)
            reader.start()
            try:
                self._paint_until_over()
            finally:
                self._stream.hang_up()
                reader.join()

    # the beginning: RFC 6143, section 7.1 to 7.3

    def _greet(self) -> None:
        self._stream.write(_VERSION)
        version = self._exactly(12)
        if not version.startswith(b"RFB 003."):
            raise Ended("no viewer")
        if version < b"RFB 003.007\n":
            # Protocol 3.3: the server decides.
            self._stream.write(struct.pack(">I", _SECURITY_NONE))
        else:
            self._stream.write(bytes([1, _SECURITY_NONE]))
            if self._exactly(1)[0] != _SECURITY_NONE:
                reason = b"There is no such security type."
                head = struct.pack(">II", 1, len(reason))
                self._stream.write(head + reason)
                raise Ended("no such security type")
            if version >= _VERSION:
                self._stream.write(struct.pack(">I", 0))
        self._exactly(1)  # whether it wants to be alone: all viewers share the screen
        name = self._name.encode()
        size = struct.pack(">HH", screen.WIDTH, screen.HEIGHT)
        about = struct.pack(">I", len(name)) + name
        self._stream.write(size + _OURS.write() + about)

    # what the viewer says

    def _listen(self) -> None:
        try:
            with contextlib.suppress(Ended, OSError):
                while True:
                    self._take_message()
        finally:
            with self._terminal.changed:
                self._over = True
                self._terminal.changed.notify_all()

    def _take_message(self) -> None:
        kind = self._exactly(1)[0]
        if kind not in _SIZES:
            raise Ended(f"unknown message {kind}")
        data = self._exactly(_SIZES[kind])
        if kind == _KEY:
            down, keysym = struct.unpack(">B2xI", data)
            if down:
                self._terminal.press(keysym)
        elif kind == _UPDATE_REQUEST:
            self._want(*struct.unpack(">BHHHH", data))
        elif kind == _SET_PIXEL_FORMAT:
            self._set_format(PixelFormat.read(data[3:]))
        elif kind == _SET_ENCODINGS:
            # Every viewer can Raw; what else it can does not matter.
            self._exactly(4 * struct.unpack(">xH", data)[0])
        elif kind == _CUT_TEXT:
            self._paste(struct.unpack(">3xI", data)[0])

    def _want(self, incremental: int, x: int, y: int, width: int, height: int) -> None:
        width = min(width, screen.WIDTH - x)
        height = min(height, screen.HEIGHT - y)
        with self._terminal.changed:
            if width > 0 and height > 0:
                self._wanted = (x, y, width, height)
                self._everything = self._everything or not incremental
            self._terminal.changed.notify_all()

    def _set_format(self, wanted: PixelFormat) -> None:
        with self._terminal.changed:
            self._format = wanted
            self._everything = True
        if not wanted.true_colour:
            colours = b"".join(
                struct.pack(">HHH", *(part * 257 for part in colour))
                for colour in screen.PALETTE
            )
            self._stream.write(
                struct.pack(">BxHH", 1, 0, len(screen.PALETTE)) + colours
            )

    def _paste(self, size: int) -> None:
        if size > _MAX_CUT:
            raise Ended("a text too long")
        self._terminal.type(self._exactly(size).decode("latin-1"))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._stream.read(size - len(data))
            if not more:
                raise Ended("hung up")
            data += more
        return data

    # what the viewer is sent

    def _paint_until_over(self) -> None:
        shown: tuple[str, ...] | None = None
        while (lines := self._show()) is not None and not self._over:
            with self._terminal.changed:
                wanted = self._wanted
                due = wanted is not None and (self._everything or lines != shown)
                if not due:
                    # The guest's state has no bell of its own.
                    self._terminal.changed.wait(0.2)
                    continue
                self._wanted, self._everything = None, False
                pixels = self._format
            if wanted is not None:
                self._send(lines, wanted, pixels)
                shown = lines

    def _send(
        self,
        lines: tuple[str, ...],
        area: tuple[int, int, int, int],
        pixels: PixelFormat,
    ) -> None:
        x, y, width, height = area
        table = [pixels.pixel(index) for index in range(len(screen.PALETTE))]
        rows = [row[x : x + width] for row in screen.paint(lines)[y : y + height]]
        head = struct.pack(">BxHHHHHi", 0, 1, x, y, width, height, 0)
        body = b"".join(b"".join(map(table.__getitem__, row)) for row in rows)
        self._stream.write(head + body)
