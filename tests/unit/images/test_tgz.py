# SPDX-License-Identifier: Apache-2.0
"""Gzipped tars with one disk: GNU tar writes what we read, and reads what we write."""

import gzip
import os
import subprocess
import tarfile
import time
import tracemalloc
import zlib

import pytest

from xenapi_driver import exceptions
from xenapi_driver.formats import tarball
from xenapi_driver.images import tgz

MIB = 2**20
# A file system writes data of its own size, so that a sparse file stays one.
DATA = bytes(range(1, 256)) * 771


@pytest.fixture
def folder(tmp_path):
    """A folder with a sparse disk of 40 MiB and a byte, data at four places."""
    with open(tmp_path / "disk.raw", "wb") as disk:
        for place in (0, 5 * MIB, 5 * MIB + 4 * len(DATA), 39 * MIB):
            disk.seek(place)
            disk.write(DATA)
        disk.truncate(40 * MIB + 1)
    return tmp_path


def tar(folder, *words):
    """Return what GNU tar writes."""
    done = subprocess.run(
        ["tar", "-C", str(folder), "-c", *words], check=True, capture_output=True
    )
    return done.stdout


def pieces_of(data, size=65521):
    """Give data in pieces that end in the middle of everything."""
    for at in range(0, len(data), size):
        yield data[at : at + size]


def unpacked(archive, size=65521):
    disk = tgz.disk("an-id", pieces_of(archive, size))
    content = b"".join(disk.pieces)
    assert len(content) == disk.size
    return content


def refusal(archive):
    with pytest.raises(exceptions.ImageUnusable) as refused:
        unpacked(archive)
    assert refused.value.image_id == "an-id"
    assert "an-id is no gzipped tar with one raw disk: " in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ("-z", "disk.raw"),
        ("-z", "."),
        ("-z", "--format=ustar", "./disk.raw"),
        ("-z", "--format=pax", "disk.raw"),
        ("-z", "--format=v7", "disk.raw"),
        ("-z", "--sparse", "--format=gnu", "disk.raw"),
        ("-z", "--format=gnu", f"--transform=s,^,{'long/' * 60},", "disk.raw"),
        ("-z", "--format=pax", f"--transform=s,^,{'long/' * 60},", "disk.raw"),
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_what_gnu_tar_writes_is_read(folder, words):
    assert unpacked(tar(folder, *words)) == (folder / "disk.raw").read_bytes()


def test_a_sparse_file_with_a_long_map_is_read(tmp_path):
    disk = tmp_path / "disk.raw"
    with open(disk, "wb") as file:
        for place in range(0, 8 * MIB, 128 * 1024):
            file.seek(place)
            file.write(DATA[:4096])
        file.truncate(8 * MIB)
    archive = tar(tmp_path, "-z", "--sparse", "--format=gnu", "disk.raw")
    header = gzip.decompress(archive)[:512]
    assert header[156:157] == b"S" and header[482], "the map has to go on"
    assert unpacked(archive) == disk.read_bytes()


def test_a_size_that_only_the_pax_header_has_counts():
    member = tarfile.TarInfo("disk.raw")
    member.size, member.pax_headers = len(DATA), {"size": str(len(DATA))}
    header = bytearray(member.tobuf(tarfile.PAX_FORMAT))
    # As for a file of more than 8 GiB, whose size the plain field cannot hold.
    plain = tarfile.TarInfo("disk.raw").tobuf(tarfile.USTAR_FORMAT)
    archive = bytes(header[:-512]) + plain + DATA.ljust(-(-len(DATA) // 512) * 512)
    assert unpacked(gzip.compress(archive + bytes(1024))) == DATA


def test_gzip_streams_that_follow_each_other_are_one(folder):
    plain = tar(folder, "disk.raw")
    middle = len(plain) // 2
    archive = gzip.compress(plain[:middle]) + gzip.compress(plain[middle:])
    assert unpacked(archive) == (folder / "disk.raw").read_bytes()


def test_what_comes_after_the_first_file_is_read_but_not_used(folder):
    (folder / "disk.raw.md5").write_bytes(DATA)
    archive = tar(folder, "-z", "disk.raw", "disk.raw.md5")
    source = pieces_of(archive)
    disk = tgz.disk("an-id", source)
    assert b"".join(disk.pieces) == (folder / "disk.raw").read_bytes()
    # Only what was read to its end is known to be what the image service has.
    assert next(source, None) is None


def test_what_is_no_such_archive_is_refused_in_words(folder):
    plain = tar(folder, "disk.raw")
    archive = gzip.compress(plain, 1)
    assert "not gzipped" in refusal(plain)
    assert "is no tar" in refusal(gzip.compress(DATA))
    assert "ends in the middle" in refusal(archive[: len(archive) // 2])
    assert "ends in the middle" in refusal(gzip.compress(plain[:1000]))
    assert "ends in the middle" in refusal(b"")
    assert "not gzipped, or damaged" in refusal(gzip.compress(plain[:1024]) + DATA)
    (folder / "disk.raw").unlink()
    assert "there is no file in it" in refusal(tar(folder, "-z", "."))
    (folder / "link").symlink_to("/etc/passwd")
    assert "a link" in refusal(tar(folder, "-z", "link"))


def test_a_sparse_file_of_another_format_is_refused_with_what_to_do(folder):
    archive = tar(folder, "-z", "--sparse", "--format=pax", "disk.raw")
    assert "--format=gnu" in refusal(archive)


def header(flag=b"0", **changes):
    """Return a header whose sum is right."""
    member = tarfile.TarInfo("disk.raw")
    member.type, member.size = flag, 512
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    for place, data in changes.items():
        at = int(place.removeprefix("at"))
        block[at : at + len(data)] = data
    total = sum(block[:148]) + 256 + sum(block[156:])
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


@pytest.mark.parametrize(
    "block",
    [
        header(at124=b"\xff" * 12),  # minus one
        header(at124=b"-0000000001\0"),
        header(at124=b"99999999999\0"),
        header(b"S", at386=b"%011o\0%011o\0" % (1024, 512), at483=b"%011o\0" % 1024),
        header(b"S", at386=b"%011o\0%011o\0" % (0, 256), at483=b"%011o\0" % 1024),
        header(
            b"S",
            at386=b"%011o\0%011o\0" % (512, 256) + b"%011o\0%011o\0" % (0, 256),
            at483=b"%011o\0" % 1024,
        ),
        header(b"x") + b"-5 size=9\n".ljust(512, b"\0"),
        header(b"x") + b"0 size=9\n".ljust(512, b"\0"),
        header(b"x") + b"900 size=9\n".ljust(512, b"\0"),
        header(b"x", at124=b"%011o\0" % 11) + b"11 size=-9\n".ljust(512, b"\0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(block):
    refusal(gzip.compress(block + header() + bytes(4096)))


def test_headers_without_end_are_refused_in_bounded_memory():
    many = zlib.compressobj(9, zlib.DEFLATED, 31)
    blocks = [many.compress(header(b"L", at124=b"%011o\0" % 2**30))]
    blocks += [many.compress(bytes(MIB)) for _ in range(64)]
    archive = b"".join(blocks) + many.flush()
    folders = gzip.compress(header(b"5", at124=b"%011o\0" % 0) * 20_000)
    tracemalloc.start()
    try:
        for one in (archive, folders):
            assert "no disk begins within" in refusal(one)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


def test_a_disk_is_read_in_bounded_memory():
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    size = 256 * MIB
    packed = deflate.compress(header(at124=b"%011o\0" % size))
    packed += b"".join(deflate.compress(bytes(MIB)) for _ in range(256))
    packed += deflate.flush()
    tracemalloc.start()
    try:
        disk = tgz.disk("an-id", iter([packed]))
        assert sum(len(piece) for piece in disk.pieces) == size
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("level", [None, 1, 9])
def test_what_is_written_is_what_gnu_tar_reads(tmp_path, level):
    content = DATA * 9 + bytes(3 * MIB) + b"end"
    pieces = tarball.packed(tgz.MEMBER, len(content), pieces_of(content), level)
    archive = b"".join(pieces)
    (tmp_path / "image.tgz").write_bytes(archive)
    listed = subprocess.run(
        ["tar", "-tvzf", "image.tgz"], cwd=tmp_path, capture_output=True, text=True
    )
    assert listed.returncode == 0 and listed.stderr == ""
    assert listed.stdout.split()[2::3] == [str(len(content)), "disk.raw"]
    subprocess.run(["tar", "-xzf", "image.tgz"], cwd=tmp_path, check=True)
    assert (tmp_path / "disk.raw").read_bytes() == content
    assert unpacked(archive) == content


def test_a_disk_of_more_than_8_gib_is_written_so_that_tar_reads_its_size(tmp_path):
    begin = bytearray()
    with pytest.raises(ValueError, match="has 1048576"):
        for piece in tarball.packed(tgz.MEMBER, 9 * 2**30, iter([os.urandom(MIB)]), 1):
            begin += piece
    plain = zlib.decompressobj(31).decompress(begin)
    listed = subprocess.run(["tar", "-tv"], input=plain, capture_output=True)
    assert listed.stdout.split()[2] == b"%d" % (9 * 2**30)


def test_pieces_that_are_too_many_or_few_make_no_archive():
    for given in (b"", b"12", b"1234"):
        with pytest.raises(ValueError):
            list(tarball.packed(tgz.MEMBER, 3, iter([given]), 1))
    assert unpacked(b"".join(tarball.packed(tgz.MEMBER, 0, iter([]), 1))) == b""


def test_a_header_of_short_records_costs_no_more_than_another():
    records = b"6 a=b\n" * (MIB // 6)
    about, member = tarfile.TarInfo("x"), tarfile.TarInfo("disk.raw")
    about.type, about.size = tarfile.XHDTYPE, len(records)
    member.size = len(DATA)
    made = about.tobuf(tarfile.USTAR_FORMAT) + records.ljust(MIB, b"\0")
    made += member.tobuf(tarfile.USTAR_FORMAT) + DATA.ljust(2 * MIB, b"\0")
    began = time.process_time()
    assert unpacked(gzip.compress(made, 1)) == DATA
    # It was half a minute, and less than a second now.
    assert time.process_time() - began < 5


@pytest.mark.parametrize("record", [b" a=b\n", b"6a=b\n", b"2 a=b\n", b"99 a=b\n"])
def test_a_header_of_damaged_records_is_refused(record):
    about = tarfile.TarInfo("x")
    about.type, about.size = tarfile.XHDTYPE, 6 + len(record)
    body = (b"6 a=b\n" + record).ljust(512, b"\0")
    said = refusal(gzip.compress(about.tobuf(tarfile.USTAR_FORMAT) + body))
    assert "header" in said
