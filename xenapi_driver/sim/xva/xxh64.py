# SPDX-License-Identifier: Apache-2.0
"""XXH64, the checksum that VM archives bear (xxHash specification 0.1.1)."""

import struct

_P1 = 0x9E3779B185EBCA87
_P2 = 0xC2B2AE3D27D4EB4F
_P3 = 0x165667B19E3779F9
_P4 = 0x85EBCA77C2B2AE63
_P5 = 0x27D4EB2F165667C5
_MASK = 0xFFFFFFFFFFFFFFFF
_STRIPE = struct.Struct("<4Q")


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK


def _round(lane: int, word: int) -> int:
    return _rotated((lane + word * _P2) & _MASK, 31) * _P1 & _MASK


def digest(data: bytes) -> int:
    """Return the checksum with seed 0."""
    whole = len(data) // 32 * 32
    value = _stripes(data[:whole]) if whole else _P5
    value = (value + len(data)) & _MASK
    at = whole
    while at + 8 <= len(data):
        (word,) = struct.unpack_from("<Q", data, at)
        value = (_rotated(value ^ _round(0, word), 27) * _P1 + _P4) & _MASK
        at += 8
    if at + 4 <= len(data):
        (word,) = struct.unpack_from("<I", data, at)
        value = (_rotated(value ^ word * _P1 & _MASK, 23) * _P2 + _P3) & _MASK
        at += 4
    for byte in data[at:]:
        value = _rotated(value ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    value = (value ^ value >> 33) * _P2 & _MASK
    value = (value ^ value >> 29) * _P3 & _MASK
    return value ^ value >> 32


def _stripes(data: bytes) -> int:
    a, b, c, d = (_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK
    # Written out: a call a word would make this several times slower.
    for one, two, three, four in _STRIPE.iter_unpack(data):
        a = (a + one * _P2) & _MASK
        a = (a << 31 | a >> 33) * _P1 & _MASK
        b = (b + two * _P2) & _MASK
        b = (b << 31 | b >> 33) * _P1 & _MASK
        c = (c + three * _P2) & _MASK
        c = (c << 31 | c >> 33) * _P1 & _MASK
        d = (d + four * _P2) & _MASK
        d = (d << 31 | d >> 33) * _P1 & _MASK
    value = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
    for lane in (a, b, c, d):
        value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    return value


def hexdigest(data: bytes) -> str:
    """Return the checksum as archives have it."""
    return f"{digest(data):016x}"
