# SPDX-License-Identifier: Apache-2.0
"""Any bytes at all as an image: it is taken, or refused in words, and nothing else.

Inside this process, so that many thousand images can be tried: members and headers
that are changed at random places, in plain archives, packed ones, and in pieces of
any size.
"""

import gzip
import os
import random
import tarfile
import tempfile
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from xenapi_dom0 import archive, chain, failures, vhd

from tests.dom0 import archives
from tests.dom0.vhd_files import BLOCK, VhdFile
from tests.dom0.vhd_files import chain as disks_of

MIB = 1024 * 1024
LIMITS = archive.Limits(4, 64 * MIB)
# Without blocks, so that nearly all of an image is what a reader has to understand.
DISKS = [bytes(disk) for disk in disks_of(None, None, None)]
PLAIN = archives.image(DISKS, compress=False)
PACKED = archives.image(DISKS)
PAX = archives.tar(
    [archives.regular("./" + "long/" * 30 + "0.vhd", DISKS[2])], tarfile.PAX_FORMAT
)
GNU = archives.tar([archives.regular("x" * 150 + ".vhd", DISKS[2])])
GOOD = {"plain": PLAIN, "packed": PACKED, "pax": PAX, "gnu": GNU}


def pieces(data, size):
    return (data[at:at + size] for at in range(0, len(data), size))


def attempt(data, size=128 * 1024):
    """Unpack and assemble; return the failure's code, None where it was taken."""
    with tempfile.TemporaryDirectory() as outside:
        folder = os.path.join(outside, "folder")
        os.mkdir(folder)
        code = None
        stack = [str(uuid.uuid4()) for _ in range(LIMITS.max_files)]
        try:
            members = archive.unpack(pieces(data, size), folder, LIMITS)
        except failures.Failure as exc:
            code = exc.code
            assert os.listdir(folder) == []
        else:
            try:
                placed = chain.assemble(members, folder, stack)
            except failures.Failure as exc:
                code = exc.code
            else:
                for name, _disk in placed:
                    vhd.check(os.path.join(folder, name + ".vhd"), name)
        assert os.listdir(outside) == ["folder"]
        for name in os.listdir(folder):
            assert os.path.isfile(os.path.join(folder, name))
            assert name.startswith("member-") or name[:-4] in stack
        return code


def test_the_images_are_good_as_they_are():
    assert {attempt(PLAIN), attempt(PACKED), attempt(GNU)} == {None}
    assert attempt(PAX) == failures.IMAGE_CORRUPT  # for its folders


@settings(deadline=None)
@given(st.binary(max_size=3000), st.integers(1, 600))
def test_any_bytes(data, size):
    assert attempt(data, size) == failures.IMAGE_CORRUPT


CHANGES = st.lists(
    st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=8)),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOOD)), CHANGES, st.integers(1, 5000))
@example("plain", [(124, b"\xff" * 8)], 512)
def test_changed_bytes(name, changes, size):
    changed = bytearray(GOOD[name])
    for at, new in changes:
        at %= len(changed)
        changed[at:at + len(new)] = new
    assert attempt(bytes(changed), size) in (
        None, failures.IMAGE_CORRUPT, failures.IMAGE_TOO_LARGE, failures.NO_SPACE
    )


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2), st.sampled_from(["headers", "footer"]),
    st.integers(0, 4000), st.binary(min_size=1, max_size=8), st.booleans(),
)  # fmt: skip
def test_changed_disks(number, part, at, new, sums_are_right):
    """A disk whose checksums were made to fit is as hostile as one can be."""
    disk = bytearray(DISKS[number])
    if part == "footer":
        at = len(disk) - 512 + at % (512 - len(new))
    else:
        at %= 1536
    disk[at:at + len(new)] = new
    if sums_are_right:
        if part == "footer":
            disk[:512] = disk[-512:]
        else:
            disk[-512:] = disk[:512]
        for begin, length, field in ((0, 512, 64), (512, 1024, 36),
                                     (len(disk) - 512, 512, 64)):
            header = disk[begin:begin + length]
            header[field:field + 4] = bytes(4)
            total = (~sum(header) & 0xFFFFFFFF).to_bytes(4, "big")
            disk[begin + field:begin + field + 4] = total
    image = [*DISKS[:number], disk, *DISKS[number + 1:]]
    code = attempt(archives.image(image, compress=False))
    assert code in (None, failures.IMAGE_CORRUPT)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(0, 9))
def test_several_gzip_streams_are_one(cuts, level):
    ends = [len(PLAIN) * sum(cuts[:n]) // sum(cuts) for n in range(len(cuts) + 1)]
    parts = [
        gzip.compress(PLAIN[begin:end], level)
        for begin, end in zip(ends, ends[1:], strict=False)
    ]
    assert attempt(b"".join(parts) + bytes(777), 1000) is None
    assert attempt(b"".join(parts)[:-1], 1000) == failures.IMAGE_CORRUPT
    assert attempt(b"".join(parts) + b"no gzip", 1000) == failures.IMAGE_CORRUPT


@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 262144])
def test_the_size_of_the_pieces_does_not_matter(size):
    disk = bytearray(bytes(VhdFile(fill=1)))
    disk[4096:4096 + BLOCK // 2] = random.Random(1).randbytes(BLOCK // 2)
    image = archives.image([disk])
    assert attempt(image, size if size > 2 else 100) is None
    assert attempt(PACKED, size) is None


@pytest.mark.parametrize(
    "after", [bytes(9 * MIB), gzip.compress(b"") * 100000], ids=["zeros", "streams"]
)
def test_much_of_nothing_ends(after):
    assert attempt(PACKED + after) == failures.IMAGE_CORRUPT
