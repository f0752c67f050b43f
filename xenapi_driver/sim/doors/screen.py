# SPDX-License-Identifier: Apache-2.0
"""What the screen of a simulated guest shows: text, painted dot by dot."""

import threading
from collections.abc import Sequence

from xenapi_driver.sim.doors import font

WIDTH, HEIGHT = 640, 400
# Each dot of the font is a square of this many pixels.
_DOT = 2
CELL_WIDTH = (font.WIDTH + 1) * _DOT
CELL_HEIGHT = (font.HEIGHT + 2) * _DOT
COLUMNS, ROWS = WIDTH // CELL_WIDTH, HEIGHT // CELL_HEIGHT

# Colours, each red, green and blue from 0 to 255; a pixel is an index of these.
PALETTE = ((16, 24, 48), (224, 224, 224))
_BACKGROUND, _INK = 0, 1

_BACKSPACE, _RETURN, _KEYPAD_RETURN = 0xFF08, 0xFF0D, 0xFF8D


class Terminal:
    """What was typed on a guest's console; all viewers share it.

    :ivar changed: notified at every key
    """

    def __init__(self, prompt: str) -> None:
        self.changed = threading.Condition()
        self._prompt = prompt
        self._lines = [prompt]

    def press(self, keysym: int) -> None:
        """Echo a key, given as X11 knows it; keys that write nothing are ignored."""
        with self.changed:
            if keysym in (_RETURN, _KEYPAD_RETURN):
                self._lines = [*self._lines[-ROWS:], self._prompt]
            elif keysym == _BACKSPACE:
                if len(self._lines[-1]) > len(self._prompt):
                    self._lines[-1] = self._lines[-1][:-1]
            elif 0x20 <= keysym <= 0xFF:
                self._lines[-1] += chr(keysym)
            else:
                return
            self.changed.notify_all()

    def type(self, text: str) -> None:
        """Press the keys of a text."""
        for character in text:
            self.press(_RETURN if character in "\r\n" else ord(character))

    def lines(self) -> list[str]:
        """Return what is to be seen."""
        with self.changed:
            return list(self._lines)


def compose(heading: Sequence[str], typed: Sequence[str]) -> tuple[str, ...]:
    """Return the lines of a screen: a heading, and the end of what was typed."""
    room = ROWS - len(heading) - 1
    wrapped = []
    for line in typed:
        wrapped += [line[at : at + COLUMNS] for at in range(0, len(line) or 1, COLUMNS)]
    lines = [*heading, "", *wrapped[-room:]]
    return tuple(line[:COLUMNS] for line in lines)


def paint(lines: Sequence[str]) -> list[bytes]:
    """Return the rows of pixels of a screen with these lines, one byte a pixel."""
    empty = bytes([_BACKGROUND]) * WIDTH
    rows: list[bytes] = []
    for line in lines[:ROWS]:
        glyphs = [font.glyph(character) for character in line[:COLUMNS]]
        for row in range(font.HEIGHT):
            dots = b"".join(_SPREAD[glyph[row]] for glyph in glyphs)
            rows += [dots + empty[len(dots) :]] * _DOT
        rows += [empty] * (CELL_HEIGHT - font.HEIGHT * _DOT)
    return rows + [empty] * (HEIGHT - len(rows))


def _spread(bits: int) -> bytes:
    """Return a row of a glyph as pixels, with the gap to the next one."""
    dots = [bits >> (font.WIDTH - 1 - at) & 1 for at in range(font.WIDTH)] + [0]
    colours = (_BACKGROUND, _INK)
    return b"".join(bytes([colours[dot]]) * _DOT for dot in dots)


_SPREAD = tuple(_spread(bits) for bits in range(1 << font.WIDTH))
