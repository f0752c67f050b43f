# SPDX-License-Identifier: Apache-2.0
"""VHDs made and read as streams; qemu-img and libvhdi judge what we made."""

import gzip
import hashlib
import io
import itertools
import pathlib
import random
import struct
import time

import pytest

from tests.sim import vhd_judges
from xenapi_driver.formats import layers, vhd
from xenapi_driver.sim.storage import vhd_stream

MIB = 1 << 20
DATA = pathlib.Path(__file__).parents[2] / "data/vhd"


def recorded(name):
    """Return a disk that a real dom0's tool made."""
    return gzip.decompress((DATA / f"{name}.vhd.gz").read_bytes())


def holes(path, size, *places):
    """Write a file of holes with 4 KiB of data at some places."""
    content = random.Random(str(places)).randbytes(4096)
    with open(path, "wb") as file:
        file.truncate(size)
        for place in places:
            file.seek(place)
            file.write(content)
    return path.read_bytes()


def made(path, virtual_size):
    with open(path, "rb") as file:
        length, pieces = vhd.sparse(file, virtual_size)
        data = b"".join(pieces)
    assert len(data) == length
    return data


@pytest.mark.parametrize(
    ("size", "places"),
    [
        (16 * MIB, [0, 5 * MIB, 16 * MIB - 4096]),
        (3 * MIB + 512, [3 * MIB - 4096]),  # ends within a block
        (64 * MIB, []),
        (200 * 1024 * MIB, [150 * 1024 * MIB + 4096]),
    ],
    ids=str,
)
def test_a_sparse_file_becomes_a_disk_of_its_data_alone(tmp_path, size, places):
    raw, disk = tmp_path / "raw", tmp_path / "disk.vhd"
    small = size <= 64 * MIB
    content = holes(raw, size, *places) if small else None
    if not small:
        with open(raw, "wb") as file:
            file.truncate(size)
            file.seek(places[0])
            file.write(b"far away")
    disk.write_bytes(made(raw, size))
    assert disk.stat().st_size < (len(places) + 1) * 2.1 * MIB
    assert vhd_judges.qemu_size(disk) == size
    if small:
        assert vhd_judges.qemu_content(disk, tmp_path / "seen") == content
        assert vhd_judges.libvhdi_digest(disk) == hashlib.sha256(content).hexdigest()


def test_a_disk_longer_than_its_file_ends_in_zeros(tmp_path):
    content = holes(tmp_path / "raw", 3 * MIB, 0, 2 * MIB)
    disk = tmp_path / "disk.vhd"
    disk.write_bytes(made(tmp_path / "raw", 9 * MIB))
    seen = vhd_judges.qemu_content(disk, tmp_path / "seen")
    assert seen == content.ljust(9 * MIB, b"\0")


@pytest.mark.parametrize("size", [MIB, 3 * MIB + 1, 2041 << 30])
def test_a_size_that_does_not_fit_is_refused(tmp_path, size):
    holes(tmp_path / "raw", 3 * MIB)
    with pytest.raises(ValueError, match="bytes"):
        made(tmp_path / "raw", size)


def test_a_footer_says_what_is_in_the_disk(tmp_path):
    footer = vhd.read_footer(recorded("leaf")[:512])
    assert (footer.virtual_size, footer.kind) == (64 * MIB, vhd.DIFFERENCING)
    assert str(footer.uuid) in vhd_judges.libvhdi_info(unpacked(tmp_path, "leaf"))


def unpacked(folder, name):
    path = folder / f"{name}.vhd"
    path.write_bytes(recorded(name))
    return path


def expand(streams):
    """Write VHD streams onto one disk, as a host does that reads them."""
    disk = bytearray(64 * MIB)
    for stream in streams:
        reader = vhd_stream.Reader(io.BytesIO(stream).read)
        for offset, data in reader.parts():
            disk[offset : offset + len(data)] = data
    return bytes(disk)


@pytest.mark.parametrize(
    "order", itertools.permutations(range(3)), ids=lambda order: f"order {order}"
)
def test_a_chain_is_one_disk_in_whatever_order_its_links_come(tmp_path, order):
    names = ["leaf", "mid", "base"]
    links, streams = layers.Layers(), []
    for place in order:
        reader = vhd.Reader(io.BytesIO(recorded(names[place])).read)
        length, pieces = links.stream(reader, place)
        streams.append(b"".join(pieces))
        assert len(streams[-1]) == length
    chain = [unpacked(tmp_path, name) for name in names]
    wanted = vhd_judges.libvhdi_digest(*chain)
    assert hashlib.sha256(expand(streams)).hexdigest() == wanted


def test_of_a_parent_only_what_its_child_lacks_is_kept():
    """By sector, in a block that both hold in part, and whole blocks otherwise."""
    child = with_bitmaps({0: b"\xf0" + bytes(511), 1: vhd.ALL, 3: bytes(512)})
    parent = with_bitmaps({0: b"\xff" + bytes(511), 1: vhd.ALL, 3: vhd.ALL})
    links = layers.Layers()
    for disk, place in ((child, 0), (parent, 1)):
        reader = vhd.Reader(io.BytesIO(disk).read)
        reader.needs_parent = place == 0
        length, pieces = links.stream(reader, place)
        stream = b"".join(pieces)
        assert len(stream) == length
    seen = vhd.Reader(io.BytesIO(stream).read)
    assert [(block, bitmap[:2]) for block, bitmap, _data in seen.parts()] == [
        (0, b"\x0f\0"),
        (3, b"\xff\xff"),
    ]


def with_bitmaps(bitmaps):
    parts = [(bitmap, bytes(vhd.BLOCK_SIZE)) for bitmap in bitmaps.values()]
    return b"".join(vhd.dynamic(8 * MIB, list(bitmaps), parts))


def damaged(disk, at, data):
    return disk[:at] + data + disk[at + len(data) :]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda disk: disk[512:], "no VHD footer"),
        (lambda disk: damaged(disk, 60, b"\0\0\0\7"), "checksum"),
        (lambda disk: damaged(disk, 512, b"x"), "no dynamic disk header"),
        (lambda disk: damaged(disk, 600, b"x"), "header's checksum"),
        (lambda disk: disk[: 3 * MIB], "too early"),
        (lambda disk: disk[:-512], "no VHD footer"),
        (lambda disk: damaged(disk, 1536, disk[1540:1544]), "overlap"),
        (lambda disk: damaged(disk, 1536, struct.pack(">I", 1)), "overlap"),
        (lambda disk: damaged(disk, 1536, struct.pack(">I", 1 << 30)), "too early"),
        (lambda disk: b"", "too early"),
    ],
)
def test_a_damaged_disk_is_refused(harm, said):
    whole = with_bitmaps({0: vhd.ALL, 1: vhd.ALL})
    with pytest.raises(vhd.BadVhd, match=said):
        list(vhd.Reader(io.BytesIO(harm(whole)).read).parts())


def test_a_footer_that_the_hosts_tool_refuses_is_refused():
    disk = io.BytesIO(recorded("bad-footer-checksum"))
    with pytest.raises(vhd.BadVhd):
        list(vhd.Reader(disk.read).parts())


def test_a_disk_that_grew_is_read(tmp_path):
    """Its table has moved, and its first blocks lie at its end."""
    disk = recorded("base-resized-128m")
    reader = vhd.Reader(io.BytesIO(disk).read)
    _length, pieces = layers.Layers().stream(reader, 0)
    again = tmp_path / "again.vhd"
    again.write_bytes(b"".join(pieces))
    path = unpacked(tmp_path, "base-resized-128m")
    # libvhdi takes the size that a disk was made with.
    wanted = vhd_judges.qemu_content(path, tmp_path / "wanted")
    assert len(wanted) == 128 * MIB
    assert vhd_judges.qemu_content(again, tmp_path / "seen") == wanted


def test_a_disk_that_comes_byte_by_byte_costs_no_more_than_another():
    """A tenant's gzip stream may give each of its bytes alone."""
    source = io.BytesIO(recorded("base"))
    began = time.process_time()
    reader = vhd.Reader(lambda size: source.read(min(size, 1)))
    assert len(next(reader.parts())[2]) == vhd.BLOCK_SIZE
    # It was three minutes, and less than a second now.
    assert time.process_time() - began < 10
