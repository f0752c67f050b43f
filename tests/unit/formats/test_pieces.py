# SPDX-License-Identifier: Apache-2.0
"""A disk in pieces, put together again, and its partition table as sfdisk reads it."""

from __future__ import annotations

import json
import random
import struct
import subprocess

import pytest

from xenapi_driver.formats import mbr, pieces

MIB = 1 << 20
RANDOM = random.Random(9)


def together(stream: bytes, size: int) -> bytes:
    """Return the disk that the framing describes, by the reference's words."""
    disk, at, end = bytearray(size), 0, 0
    while True:
        offset, length = struct.unpack_from("<QI", stream, at)
        at += 12
        if not length:
            assert at == len(stream)
            return bytes(disk)
        assert offset >= end, "pieces come in the disk's order and do not overlap"
        end = offset + length
        disk[offset:end] = stream[at : at + length]
        at += length


@pytest.mark.parametrize(
    ("size", "data"),
    [
        (4 * MIB, {}),
        (4 * MIB, {0: b"at the start", 4 * MIB - 5: b"ends."}),
        (9 * MIB, {3 * MIB - 7: RANDOM.randbytes(4 * MIB), 8 * MIB: bytes(MIB)}),
        (MIB + 512, {MIB: b"x" * 512}),
    ],
    ids=["empty", "both ends", "over borders", "odd"],
)
def test_what_is_sent_is_the_disk(tmp_path, size, data):
    path = tmp_path / "disk"
    with open(path, "wb") as file:
        file.truncate(size)
        for at, some in data.items():
            file.seek(at)
            file.write(some)
    content = pieces.Pieces(path, MIB, b"head")
    stream = b"".join(content())
    assert len(stream) == content.length
    assert together(stream, MIB + size) == b"head".ljust(MIB, b"\0") + path.read_bytes()
    # It can be sent anew.
    assert b"".join(content()) == stream


def test_zeros_are_not_sent(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(8 * MIB) + b"x")
    assert pieces.Pieces(path).length < 8 * 1024


def test_no_piece_is_large(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(RANDOM.randbytes(5 * MIB))
    assert max(map(len, pieces.Pieces(path)())) <= pieces.MAX_PIECE + 12


def test_a_file_that_shrinks_is_noticed(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * MIB)
    content = pieces.Pieces(path)
    path.write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="became shorter"):
        list(content())


def test_a_head_ends_before_the_file_begins(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match="does not end before"):
        pieces.Pieces(path, 3, b"head")


@pytest.mark.parametrize("size", [2 * MIB, 2000 << 30])
@pytest.mark.parametrize("kind", [mbr.LINUX, mbr.LINUX_SWAP, mbr.FAT32, mbr.NTFS])
def test_sfdisk_reads_the_table(tmp_path, size, kind):
    path = tmp_path / "disk"
    path.write_bytes(mbr.table(size, kind, b"\x01\x02\x03\x04"))
    with open(path, "r+b") as file:
        file.truncate(size)
    words = ["/usr/sbin/sfdisk", "-J", str(path)]
    told = subprocess.run(words, check=True, capture_output=True).stdout
    table = json.loads(told)["partitiontable"]
    (one,) = table["partitions"]
    assert (table["label"], table["id"]) == ("dos", "0x04030201")
    assert (one["start"], one["size"]) == (2048, size // 512 - 2048)
    assert int(one["type"], 16) == kind


@pytest.mark.parametrize("size", [MIB, 3 << 40])
def test_what_no_table_can_say(size):
    with pytest.raises(ValueError, match="cannot have such a partition"):
        mbr.table(size, mbr.LINUX, bytes(4))
