# SPDX-License-Identifier: Apache-2.0
"""A small VNC viewer for tests: it connects, reads the screen's text, and types."""

import socket
import struct

from tests.sim.clients import received
from xenapi_driver.sim.doors import font, screen


def tunnel(door, target, headers=()):
    """CONNECT through a plain door; return socket, status and what came after it."""
    sock = socket.create_connection(door.address, timeout=10)
    lines = [f"CONNECT {target} HTTP/1.0", *headers, "", ""]
    sock.sendall("\r\n".join(lines).encode())
    head = received(sock, b"\r\n\r\n")
    return sock, int(head.split()[1])


class Hungup(Exception):
    """The server is gone."""


class Viewer:
    """RFB over anything with ``recv`` and ``sendall``."""

    def __init__(self, sock, version=b"RFB 003.008\n", pixel_format=None):
        self.sock = sock
        self.server_version = self.exactly(12)
        sock.sendall(version)
        if version < b"RFB 003.007\n":
            assert struct.unpack(">I", self.exactly(4)) == (1,)
        else:
            self.types = self.exactly(self.exactly(1)[0])
            sock.sendall(b"\x01")
            if version == b"RFB 003.008\n":
                assert struct.unpack(">I", self.exactly(4)) == (0,)
        sock.sendall(b"\x01")
        self.width, self.height = struct.unpack(">HH", self.exactly(4))
        self.format = self.exactly(16)
        self.name = self.exactly(struct.unpack(">I", self.exactly(4))[0]).decode()
        self.colours = None
        if pixel_format is not None:
            self.format = pixel_format
            sock.sendall(b"\0\0\0\0" + pixel_format)
        sock.sendall(struct.pack(">BxHii", 2, 2, 0, -223))

    def exactly(self, size):
        data = b""
        while len(data) < size:
            more = self.sock.recv(size - len(data))
            if not more:
                raise Hungup
            data += more
        return data

    def ask(self, incremental=False, area=None):
        area = area or (0, 0, self.width, self.height)
        self.sock.sendall(struct.pack(">BBHHHH", 3, incremental, *area))

    def picture(self):
        """Wait for an update; return its rows of pixels, each an int."""
        kind = self.exactly(1)[0]
        if kind == 1:
            count = struct.unpack(">xHH", self.exactly(5))[1]
            self.colours = struct.iter_unpack(">HHH", self.exactly(6 * count))
            self.colours = list(self.colours)
            return self.picture()
        assert kind == 0
        (count,) = struct.unpack(">xH", self.exactly(3))
        assert count == 1
        x, y, width, height, encoding = struct.unpack(">HHHHi", self.exactly(12))
        assert encoding == 0
        size = self.format[0] // 8
        order = "big" if self.format[2] else "little"
        data = self.exactly(width * height * size)
        pixels = [
            int.from_bytes(data[at : at + size], order)
            for at in range(0, len(data), size)
        ]
        return [pixels[at : at + width] for at in range(0, len(pixels), width)]

    def read(self, incremental=False):
        """Return the text of the whole screen, lines without what is blank."""
        self.ask(incremental)
        return text_of(self.picture())

    def read_until(self, wanted):
        """Follow the changes until a text is to be seen."""
        text = self.read()
        while wanted not in text:
            text = self.read(incremental=True)
        return text

    def type(self, text):
        for character in text:
            keysym = 0xFF0D if character == "\n" else ord(character)
            self.press(keysym)

    def press(self, keysym):
        for down in (1, 0):
            self.sock.sendall(struct.pack(">BBxxI", 4, down, keysym))

    def paste(self, text):
        data = text.encode("latin-1")
        self.sock.sendall(struct.pack(">BxxxI", 6, len(data)) + data)

    def is_over(self):
        """Return whether the server hangs up."""
        try:
            while True:
                self.exactly(1)
        except (Hungup, ConnectionError):
            return True


_CHARACTERS = {font.glyph(chr(code)): chr(code) for code in range(0x7F, 0x1F, -1)}


def text_of(rows):
    """Return what is written in a picture, by comparing it with the font."""
    lines = []
    for top in range(0, len(rows) - screen.CELL_HEIGHT + 1, screen.CELL_HEIGHT):
        line = "".join(
            _character(rows, top, left)
            for left in range(0, screen.COLUMNS * screen.CELL_WIDTH, screen.CELL_WIDTH)
        )
        lines.append(line.rstrip())
    return "\n".join(lines).strip()


def _character(rows, top, left):
    background = rows[-1][-1]
    found = []
    for row in range(font.HEIGHT):
        dots = rows[top + 2 * row][left : left + 2 * font.WIDTH : 2]
        bits = "".join("0" if dot == background else "1" for dot in dots)
        found.append(int(bits, 2))
    return _CHARACTERS.get(tuple(found), "\N{REPLACEMENT CHARACTER}")
