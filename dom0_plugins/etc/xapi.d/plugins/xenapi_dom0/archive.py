# SPDX-License-Identifier: Apache-2.0
"""Unpack an image: a tar archive of VHD files, plain or gzipped, from a stream.

Members are written one by one as they come, under names of our own. Nothing but
regular files and directories is accepted. ``tarfile`` only parses the header blocks:
its reader takes extended headers of any size into memory and, in the 3.6.8 of
current hosts, never ends on a crafted one (CVE-2019-20907).
"""
import collections
import concurrent.futures
import contextlib
import io
import itertools
import os
import re
import tarfile
import zlib

from xenapi_dom0 import failures

BLOCK = tarfile.BLOCKSIZE
CHUNK = 256 * 1024  # larger ones would each come fresh from the kernel and go back
FLUSH = 16 * 1024 * 1024
QUEUED = 8  # chunks unpacked, but not written yet
MAX_MEMBERS = 64  # of any kind
MAX_EXTENSION = 64 * 1024  # bytes of a long name or a pax header
MAX_IGNORED = 4 * 1024 ** 3  # bytes of members not kept: an old swap.vhd
MAX_TRAILER = 1024 * 1024  # bytes after the last member; tar pads with 10 KiB
IGNORED = "swap.vhd"
GZIP = b"\x1f\x8b"

_GZIP_WINDOW = 16 + zlib.MAX_WBITS  # zlib.h, inflateInit2: gzip decoding only

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_PAX_RECORD = re.compile(rb"(\d{1,8}) ([^=]+)=")

# max_files: VHD files; max_bytes: their sum, or None
Limits = collections.namedtuple("Limits", "max_files max_bytes")


class _Truncated(Exception):
    """The stream ended inside of the archive."""


def unpack(pieces, directory, limits):
    """Write the VHD files of the archive into ``directory``.

    :param pieces: iterator of bytes-like objects, none of them empty
    :returns: dict of member name, such as ``0.vhd``, to path of the file; after an
        exception, whichever, there is none of them left
    :raises Failure: IMAGE_CORRUPT, IMAGE_TOO_LARGE, NO_SPACE
    """
    unpacking = _Unpacking(_Stream(_plain(pieces)), directory, limits)
    try:
        return _carry_out(unpacking, directory)
    except BaseException:
        unpacking.remove()
        raise


def _carry_out(unpacking, directory):
    try:
        return unpacking.run()
    except _Truncated as exc:
        raise _corrupt("the archive ends in the middle") from exc
    except zlib.error as exc:
        raise _corrupt("damaged gzip stream: %s" % exc) from exc
    except OSError as exc:
        raise failures.from_os_error(exc, "unpack", directory) from exc


def _corrupt(reason):
    return failures.Failure(failures.IMAGE_CORRUPT, reason)


def _plain(pieces):
    """Yield the data of a stream that may be gzipped, at most CHUNK at a time."""
    pieces = iter(pieces)
    first = b""
    while len(first) < 2:
        piece = next(pieces, None)
        if piece is None:
            break
        first += bytes(piece)
    pieces = itertools.chain([first] if first else [], pieces)
    return _gunzipped(pieces) if first[:2] == GZIP else pieces


def _gunzipped(pieces):
    """Yield what gzipped data unpacks to; its members follow each other."""
    inflate, begun = zlib.decompressobj(_GZIP_WINDOW), True
    idle = 0  # bytes that unpacked to nothing
    for piece in pieces:
        while piece:
            if inflate.eof:
                inflate, begun = zlib.decompressobj(_GZIP_WINDOW), False
            taken = len(piece)
            if begun:
                data = inflate.decompress(piece, CHUNK)
                piece = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            else:
                # gzip fills up with zeros where it writes to a tape.
                data, piece = b"", bytes(piece).lstrip(b"\0")
                begun = bool(piece)
            if data:
                idle = 0
                yield data
            else:
                idle += taken - len(piece)
                if idle > MAX_TRAILER:
                    raise _corrupt("more than %d bytes that are nothing" % MAX_TRAILER)
    if begun and not inflate.eof:
        raise _Truncated


class _Stream:
    """Takes exact amounts out of an iterator of pieces."""

    def __init__(self, pieces):
        self._pieces = pieces
        self._piece = memoryview(b"")

    def some(self, most):
        """Return up to ``most`` bytes as a memoryview, empty only at the end."""
        if not self._piece:
            self._piece = memoryview(next(self._pieces, b""))
        taken, self._piece = self._piece[:most], self._piece[most:]
        return taken

    def up_to(self, length):
        """Return ``length`` bytes, fewer only at the end."""
        data = bytearray()
        while len(data) < length:
            taken = self.some(length - len(data))
            if not taken:
                break
            data += taken
        return bytes(data)

    def exactly(self, length):
        data = self.up_to(length)
        if len(data) != length:
            raise _Truncated
        return data

    def each(self, length):
        """Yield ``length`` bytes in pieces."""
        left = length
        while left:
            taken = self.some(min(CHUNK, left))
            if not taken:
                raise _Truncated
            left -= len(taken)
            yield taken

    def end(self, limit, what):
        """Read to the end, so that gzip checks its checksum."""
        left = limit
        while True:
            taken = self.some(CHUNK)
            if not taken:
                return
            left -= len(taken)
            if left < 0:
                raise _corrupt("more than %d %s" % (limit, what))


def _padded(size):
    return -(-size // BLOCK) * BLOCK


class _Unpacking:
    """One pass over an archive: counters, and what was kept so far."""

    def __init__(self, stream, directory, limits):
        self._stream = stream
        self._directory = directory
        self._limits = limits
        self._kept = {}
        self._kept_bytes = 0
        self._ignored_bytes = 0

    def run(self):
        self._members()
        self._stream.end(MAX_TRAILER, "bytes after the end of the archive")
        return self._kept

    def remove(self):
        """Remove what was kept so far."""
        for number in range(len(self._kept) + 1):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(number))

    def _path(self, number):
        return os.path.join(self._directory, "member-%d" % number)

    def _members(self):
        extension = {}
        for _count in range(MAX_MEMBERS):
            member = self._next()
            if member is None:
                return
            if member.size < 0:
                raise _corrupt("a member of negative size")
            if member.type in (
                tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE,
                tarfile.SOLARIS_XHDTYPE,
            ):
                extension.update(self._extension(member))
                continue
            name = extension.get("path", member.name)
            size = extension.get("size", member.size)
            extension = {}
            self._member(name, size, member)
        raise _corrupt("more than %d members" % MAX_MEMBERS)

    def _next(self):
        """Return the next header as a TarInfo, None at the end of the archive."""
        block = self._stream.up_to(BLOCK)
        if not block or not block.strip(b"\0"):
            # Some writers leave the closing blocks of zeros out.
            return None
        if len(block) != BLOCK:
            raise _Truncated
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as exc:
            raise _corrupt("no tar archive, or a damaged header: %s" % exc) from exc

    def _extension(self, member):
        """Return what a long name or a pax header says about the next member."""
        if member.size > MAX_EXTENSION:
            raise _corrupt("an extended header of %d bytes" % member.size)
        data = self._stream.exactly(_padded(member.size))[:member.size]
        if member.type == tarfile.GNUTYPE_LONGNAME:
            return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        said = _pax(data)
        if member.type == tarfile.XGLTYPE and said:
            raise _corrupt("a global header that renames or resizes members")
        return said

    def _member(self, name, size, member):
        if member.type == tarfile.DIRTYPE and size == 0:
            _single_name(name, is_directory=True)
            return
        if member.type not in _REGULAR:
            raise _corrupt("a member that is neither a file nor a directory")
        name = _single_name(name, is_directory=False)
        if name == IGNORED or not re.match(r".+\.vhd\Z", name, re.DOTALL):
            self._ignore(size)
        else:
            self._keep(name, size)
        self._stream.exactly(_padded(size) - size)

    def _ignore(self, size):
        self._ignored_bytes += size
        if self._ignored_bytes > MAX_IGNORED:
            raise _corrupt("more than %d bytes that are no disk" % MAX_IGNORED)
        for _data in self._stream.each(size):
            continue

    def _keep(self, name, size):
        if name in self._kept:
            raise _corrupt("two members called %s" % ascii(name))
        if len(self._kept) == self._limits.max_files:
            raise _corrupt("more than %d VHD files" % self._limits.max_files)
        self._kept_bytes += size
        limit = self._limits.max_bytes
        if limit is not None and self._kept_bytes > limit:
            raise failures.Failure(
                failures.IMAGE_TOO_LARGE, limit, self._kept_bytes
            )
        space = os.statvfs(self._directory)
        if size > space.f_bavail * space.f_frsize:
            # Found out before the running servers of this SR find out.
            raise failures.Failure(
                failures.NO_SPACE, os.path.dirname(self._directory)
            )
        path = self._path(len(self._kept))
        self._write(path, size)
        self._kept[name] = path

    def _write(self, path, size):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with io.FileIO(descriptor, "wb") as out, \
                concurrent.futures.ThreadPoolExecutor(1) as pool:
            under_way = collections.deque()
            written = flushed = 0
            for data in self._stream.each(size):
                under_way.append(pool.submit(_write_all, out, data))
                written += len(data)
                if written - flushed >= FLUSH:
                    under_way.append(pool.submit(_flush, descriptor, flushed, written))
                    flushed = written
                while len(under_way) > QUEUED:
                    under_way.popleft().result()
            under_way.append(pool.submit(os.fsync, descriptor))
            while under_way:
                under_way.popleft().result()


def _write_all(out, data):
    while data:
        data = data[out.write(data):]


def _flush(descriptor, begin, end):
    """Have the disk begin with what fsync would wait for in the end.

    dom0, which has little memory, need not keep it.
    """
    os.posix_fadvise(descriptor, begin, end - begin, os.POSIX_FADV_DONTNEED)


def _pax(data):
    """Return path and size of a pax header, as far as they are there."""
    said = {}
    while data:
        match = _PAX_RECORD.match(data)
        length = int(match.group(1)) if match else 0
        if not match or not match.end() < length <= len(data):
            raise _corrupt("a damaged pax header")
        value = data[match.end():length - 1]
        key = match.group(2)
        if key.startswith(b"GNU.sparse"):
            raise _corrupt("a sparse member; pack it without that option of tar")
        if key == b"path":
            said["path"] = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise _corrupt("a damaged pax header")
            said["size"] = int(value)
        data = data[length:]
    return said


def _single_name(name, is_directory):
    """Return the member's name without ``./``; refuse one that has more than that.

    tar run on a directory writes it as ``./`` and its files as ``./0.vhd``.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise _corrupt("a member whose name leads elsewhere: %s" % ascii(name[:100]))
    if is_directory:
        return ""
    if len(parts) != 1:
        raise _corrupt("a member in a folder: %s" % ascii(name[:100]))
    return parts[0]
