# SPDX-License-Identifier: Apache-2.0
"""Gzip on several cores: one stream that every gunzip reads.

Each piece is deflated by itself, by whichever thread is free, primed with the end of
the piece before it and ended at a byte's border (Z_SYNC_FLUSH), so that the results
follow each other as the blocks of one stream (RFC 1951, section 2; RFC 1952). zlib lets
other threads run while it works.
"""
import collections
import concurrent.futures
import os
import struct
import zlib

MAX_THREADS = 8  # dom0 has other work: its disks and networks
DEFAULT_LEVEL = 6  # gzip's own
SMALLEST = 9  # at this level time does not count
# RFC 1952: magic, deflate, no flags, no time, level not told, Unix.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
_LAST = b"\x03\x00"  # an empty block with fixed codes, marked as the last
_WINDOW = 32 * 1024
_RAW = -zlib.MAX_WBITS
_MEMORY = 8  # zlib.h: the default memLevel
_SAMPLES, _SAMPLE = 16, 512  # out of each piece; bytes
_NOISE = 0.98  # of its size, which a sample of what is packed already comes to


def threads():
    """Return the number of threads that this host has cores for."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))


def gzipped(pieces, level, count):
    """Yield the gzip stream of ``pieces``, each of them 32 KiB or more but the last.

    :param pieces: iterator of bytes-like objects that nobody changes any more
    :param level: 0 (none) to 9 (small)
    :param count: threads
    """
    crc = size = 0
    window = b""
    yield _HEADER
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        under_way = collections.deque()
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
            size += len(piece)
            under_way.append(pool.submit(_deflated, piece, window, level))
            window = bytes(piece[-_WINDOW:])
            # More than the threads work on, so that none of them waits for us.
            if len(under_way) > 2 * count:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    yield _LAST + struct.pack("<II", crc, size & 0xFFFFFFFF)


def _deflated(piece, window, level):
    if 0 < level < SMALLEST and _is_noise(piece):
        level = 0
    if window:
        deflate = zlib.compressobj(
            level, zlib.DEFLATED, _RAW, _MEMORY, zlib.Z_DEFAULT_STRATEGY, window
        )
    else:
        deflate = zlib.compressobj(level, zlib.DEFLATED, _RAW)
    return deflate.compress(piece) + deflate.flush(zlib.Z_SYNC_FLUSH)


def _is_noise(piece):
    """Say whether deflating is no use, as for what is compressed or encrypted.

    That costs as much time as text does, and disks are full of it.
    """
    step = len(piece) // _SAMPLES
    if step < 2 * _SAMPLE:
        return False
    sample = b"".join(
        piece[number * step:number * step + _SAMPLE] for number in range(_SAMPLES)
    )
    return len(zlib.compress(sample, 1)) > _NOISE * len(sample)
