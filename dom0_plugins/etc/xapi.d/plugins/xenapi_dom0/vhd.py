# SPDX-License-Identifier: Apache-2.0
"""Check a VHD file and point it at a renamed parent, without the host's tools.

Only the dynamic and differencing forms with 2 MiB blocks, which is what the host's
storage drivers make and read. Layout: Microsoft's "Virtual Hard Disk Image Format
Specification" 1.0; the hidden flag and the block allocation bitmap's own header are
additions of the host's disk tool, seen in files that it made. All numbers are
big-endian; offsets are bytes unless said to be sectors of 512 bytes.

What that tool's own check refuses, this one refuses: an SR with such a disk can no
longer coalesce it.
"""
import collections
import contextlib
import errno
import os
import stat
import struct
import time
import urllib.parse
import uuid

from xenapi_dom0 import failures

SECTOR = 512
BLOCK = 2 * 1024 * 1024
BITMAP = SECTOR  # one bit a sector of a block
EPOCH = 946684800  # VHD times count seconds from 2000-01-01 00:00 UTC
MAX_VIRTUAL_SIZE = 2040 * 1024 ** 3  # the format's limit for 2 MiB blocks
CLOCK_SLACK = 300  # seconds that another host's clock may be ahead of ours
MAX_DEPTH = 30  # disks of one chain; the host opens no longer one
UNUSED = 0xFFFFFFFF
COOKIE = b"conectix"

DYNAMIC = 3
DIFFERENCING = 4
_KINDS = {0: "none", 2: "fixed", DYNAMIC: "dynamic", DIFFERENCING: "differencing"}

# What is no VHD at all, by how it begins.
_OTHERS = {
    b"QFI\xfb": "qcow2", b"KDMV": "vmdk", b"vhdxfile": "vhdx", b"\x1f\x8b": "gzip",
    b"# Disk DescriptorFile": "vmdk", b"\xfd7zXZ": "xz", b"<<< ": "vdi",
}
_CONVERT = "convert it with qemu-img convert -O vpc -o subformat=dynamic"

# cookie, features, version, data offset, time, creator, its version, its OS, original
# size, current size, geometry, type, checksum, uuid, saved state, hidden
_FOOTER = struct.Struct(">8sIIQI4sI4sQQIII16sBB426x")
_FOOTER_GEOMETRY = 56
_FOOTER_CHECKSUM = 64
_FOOTER_HIDDEN = 85
# cookie, data offset, table offset, version, table entries, block size, checksum,
# parent uuid, parent time, reserved, parent name; then locators, then reserved
_HEADER = struct.Struct(">8sQQIIII16sII512s")
_HEADER_SIZE = 1024
_HEADER_CHECKSUM = 36
_PARENT_UUID = 40
_PARENT_NAME = 64
_PARENT_NAME_SIZE = 512
_LOCATORS = 576
_RESERVED = _LOCATORS + 8 * 24
# platform code, data space, data length, reserved, data offset
_LOCATOR = struct.Struct(">4sIIIQ")
_LOCATOR_TEXT = {b"MacX": "utf-8", b"W2ku": "utf-16-le", b"W2ru": "utf-16-le"}
# cookie, offset, size in sectors, version, checksum
_BATMAP = struct.Struct(">8sQIII")
assert _FOOTER.size == SECTOR
assert _RESERVED == _LOCATORS + 8 * _LOCATOR.size == _HEADER_SIZE - 256

Vhd = collections.namedtuple(
    "Vhd", "path kind uuid parent_uuid virtual_size hidden size header_offset geometry"
)


class _Bad(Exception):
    """A rule of the format that the file breaks, in words."""


def check(path, label):
    """Return what the file is, as a Vhd, after checking all its metadata.

    :param label: the name by which a message calls it, such as ``0.vhd``
    :raises Failure: IMAGE_CORRUPT
    """
    try:
        with _opened(path) as disk:
            return _checked(disk, path)
    except _Bad as exc:
        raise failures.Failure(
            failures.IMAGE_CORRUPT, "%s: %s" % (label, exc)
        ) from exc


def peek(path):
    """Return what the file is by its start alone, which stays while a server writes.

    :raises Failure: IMAGE_CORRUPT; OSError
    """
    try:
        with _opened(path) as disk:
            footer_bytes = _read(disk, 0, SECTOR)
            footer = _FOOTER.unpack(footer_bytes)
            if footer[0] != COOKIE:
                raise _Bad("has no VHD footer at its start")
            _check_footer(footer_bytes, footer)
            header_bytes = _read(disk, footer[3], _HEADER_SIZE)
            header = _HEADER.unpack(header_bytes[:_HEADER.size])
            _check_header(header_bytes, header, footer[9])
            return _described(path, footer, header, disk.seek(0, os.SEEK_END))
    except _Bad as exc:
        raise failures.Failure(failures.IMAGE_CORRUPT, str(exc)) from exc


def _opened(path):
    """Open what lies under a name in an SR, into which other hosts write as well."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            raise _Bad("is no regular file") from exc
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _Bad("is no regular file")
    return os.fdopen(descriptor, "rb")


def checksum(data, at):
    """Return the checksum of a footer or header whose own field is at ``at``."""
    return ~(sum(data) - sum(data[at:at + 4])) & 0xFFFFFFFF


def _checked(disk, path):
    size = disk.seek(0, os.SEEK_END)
    if size < SECTOR:
        raise _Bad("too short for a VHD")
    footer_bytes = _read(disk, size - SECTOR, SECTOR)
    footer = _FOOTER.unpack(footer_bytes)
    if footer[0] != COOKIE:
        raise _Bad(_what_else(disk))
    _check_footer(footer_bytes, footer)
    if size < 2 * SECTOR + _HEADER_SIZE:
        raise _Bad("too short for a dynamic VHD")
    if _read(disk, 0, SECTOR) != footer_bytes:
        raise _Bad("the footer and its copy differ")
    header, _end = _check_inside(disk, footer, size - SECTOR)
    return _described(path, footer, header, size)


def _described(path, footer, header, size):
    return Vhd(
        path=path, kind=footer[11], uuid=uuid.UUID(bytes=footer[13]),
        parent_uuid=uuid.UUID(bytes=header[7]), virtual_size=footer[9],
        hidden=bool(footer[15]), size=size, header_offset=footer[3],
        geometry=footer[10],
    )


def _check_inside(disk, footer, limit):
    """Check all between the two footers, which must end at ``limit``.

    :returns: the header's fields, and the byte at which the last block ends
    """
    header_bytes = _read(disk, footer[3], _HEADER_SIZE)
    header = _HEADER.unpack(header_bytes[:_HEADER.size])
    _check_header(header_bytes, header, footer[9])
    names_parent = any(header[7]) or any(header_bytes[_PARENT_NAME:_RESERVED])
    if footer[11] == DYNAMIC and names_parent:
        # Readers differ in whether they believe the type or the name.
        raise _Bad("names a parent, but is of type dynamic")
    table_end, end = _check_table(disk, header, limit)
    if footer[5] == b"tap\0" and footer[6] > 1:
        end = max(end, _check_batmap(disk, table_end, limit))
    return header, end


def _read(disk, offset, length):
    # Asked before: the system does not take every offset.
    if offset + length > os.fstat(disk.fileno()).st_size:
        raise _Bad("is cut off: there are no %d bytes at %d" % (length, offset))
    disk.seek(offset)
    data = disk.read(length)
    if len(data) != length:
        raise _Bad("the file became shorter while it was read")
    return data


def _what_else(disk):
    """Say what a file without a footer is, and what to do with it."""
    start = _read(disk, 0, SECTOR)
    if start.startswith(COOKIE):
        return "has no VHD footer at its end: it is cut off, or its host crashed"
    for magic, name in _OTHERS.items():
        if start.startswith(magic):
            return "is no VHD but %s; %s" % (name, _CONVERT)
    return "has no VHD footer at its end; if it is a raw disk, " + _CONVERT


def _check_footer(data, footer):
    if footer[12] != checksum(data, _FOOTER_CHECKSUM):
        raise _Bad("the footer's checksum is wrong")
    if footer[2] != 0x00010000:
        raise _Bad("unknown format version %#x" % footer[2])
    if footer[11] not in (DYNAMIC, DIFFERENCING):
        kind = _KINDS.get(footer[11], "unknown")
        raise _Bad("is of type %s, not dynamic or differencing; %s" % (kind, _CONVERT))
    if not 0 < footer[9] <= MAX_VIRTUAL_SIZE or footer[9] % SECTOR:
        raise _Bad("impossible virtual size %d" % footer[9])
    if footer[3] < SECTOR or footer[3] % SECTOR:
        raise _Bad("impossible header offset %d" % footer[3])
    # Bit 1 is always set, bit 0 means temporary.
    if footer[1] & ~1 != 2:
        raise _Bad("unknown features %#x" % footer[1])
    if not any(footer[13]):
        raise _Bad("has no identity: its UUID is zero")
    if footer[14] > 1 or footer[15] > 1:
        raise _Bad("is neither hidden nor visible, or neither saved nor not")
    if any(data[_FOOTER_HIDDEN + 1:]):
        raise _Bad("the reserved part of the footer is used")
    # The SR's own maintenance refuses a disk from the future.
    if footer[4] + EPOCH > time.time() + CLOCK_SLACK:
        raise _Bad(
            "its timestamp is in the future; synchronise the clocks of this host "
            "and of the one that made the image"
        )


def geometry(size):
    """Return the footer's geometry field for a disk of ``size`` bytes.

    Cylinders (16 bits), heads and sectors (8 bits each), by the rule of the
    specification's appendix "CHS Calculation".
    """
    sectors = min(size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16 << 16 | 16 << 8 | 255
    tracks = sectors // 17
    per_track = 17
    heads = max(4, (tracks + 1023) // 1024)
    if tracks >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
        tracks = sectors // per_track
    if tracks >= heads * 1024:
        per_track, heads = 63, 16
        tracks = sectors // per_track
    return tracks // heads << 16 | heads << 8 | per_track


def _check_header(data, header, virtual_size):
    if header[0] != b"cxsparse":
        raise _Bad("has no dynamic disk header")
    if header[6] != checksum(data, _HEADER_CHECKSUM):
        raise _Bad("the header's checksum is wrong")
    if header[3] != 0x00010000:
        raise _Bad("unknown header version %#x" % header[3])
    if header[5] != BLOCK:
        raise _Bad("blocks of %d bytes, not of 2 MiB" % header[5])
    if header[4] * BLOCK < virtual_size:
        raise _Bad("the block table is too small for the virtual size")
    if header[4] > MAX_VIRTUAL_SIZE // BLOCK + 1:
        raise _Bad("the block table is larger than the format allows")
    if header[2] < SECTOR or header[2] % SECTOR:
        raise _Bad("impossible block table offset %d" % header[2])
    if header[1] != 0xFFFFFFFFFFFFFFFF:
        raise _Bad("the header names a place for data that is not there")
    if any(data[_RESERVED:]):
        raise _Bad("the reserved part of the header is used")


def _check_table(disk, header, limit):
    """Check that all blocks are in the file and apart.

    :returns: the byte at which the table ends, and the last block
    """
    entries = header[4]
    table_end = header[2] + -(-entries * 4 // SECTOR) * SECTOR
    table = struct.unpack(">%dI" % entries, _read(disk, header[2], entries * 4))
    end = table_end
    for sector in sorted(entry for entry in table if entry != UNUSED):
        if sector * SECTOR < end:
            raise _Bad("block at sector %d overlaps metadata or a block" % sector)
        end = sector * SECTOR + BITMAP + BLOCK
    if end > limit:
        raise _Bad("a block lies beyond the end of the file")
    return table_end, end


def _check_batmap(disk, offset, limit):
    """Check the host tool's bitmap of full blocks after the table; return its end."""
    data = _read(disk, offset, SECTOR)
    cookie, start, sectors, version, stored = _BATMAP.unpack(data[:_BATMAP.size])
    if cookie != b"tdbatmap":
        raise _Bad("the block bitmap's header is damaged")
    if start % SECTOR or start + sectors * SECTOR > limit:
        raise _Bad("the block bitmap lies beyond the end of the file")
    # Before 1.2 the tool wrote no usable checksum.
    if version > 0x00010001:
        found = ~sum(_read(disk, start, sectors * SECTOR)) & 0xFFFFFFFF
        if found != stored:
            raise _Bad("the block bitmap's checksum is wrong")
    return start + sectors * SECTOR


def set_parent(child, parent):
    """Point a differencing VHD at the file of its parent, in the same directory.

    Writes name, uuid and time of the parent and every locator that has room for
    the name; locators of other platforms would keep the old name and are cleared.

    :param child: Vhd of the file to change
    :param parent: Vhd of the parent under its final name
    :raises Failure: IMAGE_CORRUPT, where no locator can take the name
    """
    name = os.path.basename(parent.path)
    with open(child.path, "r+b") as disk:
        disk.seek(child.header_offset)
        header = bytearray(disk.read(_HEADER_SIZE))
        written = 0
        for at in range(_LOCATORS, _LOCATORS + 8 * _LOCATOR.size, _LOCATOR.size):
            written += _write_locator(disk, header, at, child.size, name)
        if not written:
            raise failures.Failure(
                failures.IMAGE_CORRUPT,
                "a differencing VHD has no room for the name of its parent",
            )
        seconds = max(0, int(os.stat(parent.path).st_mtime) - EPOCH)
        struct.pack_into(
            ">16sI", header, _PARENT_UUID, parent.uuid.bytes, seconds & 0xFFFFFFFF
        )
        encoded = name.encode("utf-16-be").ljust(_PARENT_NAME_SIZE, b"\0")
        header[_PARENT_NAME:_PARENT_NAME + _PARENT_NAME_SIZE] = encoded
        struct.pack_into(
            ">I", header, _HEADER_CHECKSUM, checksum(header, _HEADER_CHECKSUM)
        )
        disk.seek(child.header_offset)
        disk.write(header)
        _sync(disk)


def _write_locator(disk, header, at, size, name):
    """Rewrite the locator at ``at`` of the header; return 1 if it names the parent."""
    code, space, _length, _reserved, offset = _LOCATOR.unpack_from(header, at)
    encoded = {
        b"MacX": ("file://./" + name).encode("utf-8"),
        b"W2ku": (".\\" + name).encode("utf-16-le"),
        b"W2ru": (".\\" + name).encode("utf-16-le"),
    }.get(code)
    # The specification counts this field in sectors, the host's tool in bytes.
    room = space if space >= SECTOR else space * SECTOR
    fits = (
        encoded is not None
        and len(encoded) <= room <= 64 * 1024
        and SECTOR + _HEADER_SIZE <= offset <= size - SECTOR - room
    )
    if not fits:
        header[at:at + _LOCATOR.size] = bytes(_LOCATOR.size)
        return 0
    _LOCATOR.pack_into(header, at, code, space, len(encoded), 0, offset)
    disk.seek(offset)
    disk.write(encoded.ljust(room, b"\0"))
    return 1


def hide(disk_file):
    """Mark a VHD as the inner node of a chain, in the footer and its copy.

    The SR's garbage collector only ever removes hidden disks: a parent left visible
    would stay for ever once its last child is gone.
    """
    _change_footers(disk_file, _FOOTER_HIDDEN, b"\1")


def fit_geometry(disk_file):
    """Give a VHD the geometry of its size, where its own is larger.

    The SR could not coalesce it otherwise: the host's checker refuses it. qemu-img
    writes one that is too large with force_size=on, which keeps a disk's exact size.
    """
    right = geometry(disk_file.virtual_size)
    if disk_file.geometry > right:
        _change_footers(disk_file, _FOOTER_GEOMETRY, struct.pack(">I", right))


def _change_footers(disk_file, at, value):
    """Write ``value`` into the footer and its copy."""
    with open(disk_file.path, "r+b") as disk:
        footer = bytearray(disk.read(SECTOR))
        footer[at:at + len(value)] = value
        struct.pack_into(
            ">I", footer, _FOOTER_CHECKSUM, checksum(footer, _FOOTER_CHECKSUM)
        )
        # The one at the end counts, should we be killed between the two.
        for offset in (disk_file.size - SECTOR, 0):
            disk.seek(offset)
            disk.write(footer)
            disk.flush()
        _sync(disk)


def mend(path):
    """Write the missing one of the two footers, as a crash of a host leaves a disk.

    The host moves the footer at the end whenever the file grows, and keeps the copy
    at the start. A footer at the end that is good counts, as it does for the host;
    without any there, the copy goes behind the last block. A footer that is damaged,
    and all else that is wrong, is left for :func:`check` to refuse.

    :returns: whether something was written
    """
    with open(path, "r+b") as disk:
        size = disk.seek(0, os.SEEK_END)
        try:
            first, last = _read(disk, 0, SECTOR), _read(disk, size - SECTOR, SECTOR)
            if first == last:
                return False
            if last.startswith(COOKIE):
                source, limit = last, size - SECTOR
            else:
                source, limit = first, size
            footer = _FOOTER.unpack(source)
            if footer[0] != COOKIE:
                return False
            _check_footer(source, footer)
            _header, end = _check_inside(disk, footer, limit)
        except _Bad:
            return False
        if source is first:
            disk.seek(end)
            disk.write(source)
            disk.truncate(end + SECTOR)
        else:
            disk.seek(0)
            disk.write(source)
        _sync(disk)
    return True


def _sync(disk):
    disk.flush()
    os.fsync(disk.fileno())


def parent_names(disk):
    """Return by which file names a differencing VHD calls its parent.

    From its locators, relative to its own folder and without ``./``, and from its
    header where no locator can be read; in the order in which the host tries them.
    """
    names = []
    with open(disk.path, "rb") as file:
        file.seek(disk.header_offset)
        header = file.read(_HEADER_SIZE)
        for at in range(_LOCATORS, _RESERVED, _LOCATOR.size):
            code, _space, length, _reserved, offset = _LOCATOR.unpack_from(header, at)
            if code not in _LOCATOR_TEXT or not 0 < length <= 4096:
                continue
            with contextlib.suppress(_Bad):
                text = _read(file, offset, length)
                names.append(_path_of(text, _LOCATOR_TEXT[code]))
    named = header[_PARENT_NAME:_PARENT_NAME + _PARENT_NAME_SIZE]
    names.append(_path_of(named, "utf-16-be"))
    found = []
    for name in names:
        if name and name not in found:
            found.append(name)
    return found


def _path_of(data, encoding):
    """Return the path that a locator holds, None where it is no text."""
    try:
        text = data.decode(encoding).split("\0")[0]
    except UnicodeDecodeError:
        return None
    if text.startswith("file://"):
        text = urllib.parse.unquote(text[len("file://"):])
    path = text.replace("\\", "/")
    while path.startswith("./"):
        path = path[2:]
    return path
