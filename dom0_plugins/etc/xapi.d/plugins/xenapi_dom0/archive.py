# SPDX-License-Identifier: Apache-2.0
"""Unpack an image: a tar archive of VHD files, plain or gzipped, from a stream.

Members are written one by one as they come, under names of our own. Nothing but
regular files and directories is accepted. ``tarfile`` only parses the header blocks:
its reader takes extended headers of any size into memory and, in the 3.6.8 of
current hosts, never ends on a crafted one (CVE-2019-20907).
"""
import collections
import gzip
import io
import os
import re
import tarfile
import zlib

from xenapi_dom0 import failures

BLOCK = tarfile.BLOCKSIZE
CHUNK = 1024 * 1024
MAX_MEMBERS = 64  # of any kind
MAX_EXTENSION = 64 * 1024  # bytes of a long name or a pax header
MAX_IGNORED = 4 * 1024 ** 3  # bytes of members not kept: an old swap.vhd
MAX_TRAILER = CHUNK  # bytes after the last member; tar pads with 10 KiB
IGNORED = "swap.vhd"

_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)
_PAX_RECORD = re.compile(rb"(\d{1,8}) ([^=]+)=")

# max_files: VHD files; max_bytes: their sum, or None
Limits = collections.namedtuple("Limits", "max_files max_bytes")


class _Truncated(Exception):
    """The stream ended inside of the archive."""


def unpack(stream, directory, limits):
    """Write the VHD files of the archive into ``directory``.

    :param stream: binary io.BufferedReader
    :returns: dict of member name, such as ``0.vhd``, to path of the file
    :raises Failure: IMAGE_CORRUPT, IMAGE_TOO_LARGE, NO_SPACE
    """
    if stream.peek(2)[:2] == b"\x1f\x8b":
        stream = gzip.GzipFile(fileobj=stream, mode="rb")
    try:
        found = _Unpacking(stream, directory, limits).run()
        _skip(stream, MAX_TRAILER, "bytes after the end of the archive")
    except (_Truncated, EOFError) as exc:
        raise _corrupt("the archive ends in the middle") from exc
    except (zlib.error, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise failures.from_os_error(exc, "unpack", directory) from exc
        raise _corrupt("damaged gzip stream: %s" % exc) from exc
    return found


def _corrupt(reason):
    return failures.Failure(failures.IMAGE_CORRUPT, reason)


def _skip(stream, limit, what):
    """Read up to the end of the stream, so that gzip checks its checksum."""
    left = limit
    while True:
        data = stream.read(min(CHUNK, left + 1))
        if not data:
            return
        left -= len(data)
        if left < 0:
            raise _corrupt("more than %d %s" % (limit, what))


def _take(stream, length):
    data = stream.read(length)
    if len(data) != length:
        raise _Truncated
    return data


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
        extension = {}
        for _count in range(MAX_MEMBERS):
            member = self._next()
            if member is None:
                return self._kept
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
        block = self._stream.read(BLOCK)
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
        data = _take(self._stream, _padded(member.size))[:member.size]
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
        _take(self._stream, _padded(size) - size)

    def _ignore(self, size):
        self._ignored_bytes += size
        if self._ignored_bytes > MAX_IGNORED:
            raise _corrupt("more than %d bytes that are no disk" % MAX_IGNORED)
        left = size
        while left:
            left -= len(_take(self._stream, min(CHUNK, left)))

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
        path = os.path.join(self._directory, "member-%d" % len(self._kept))
        self._write(path, size)
        self._kept[name] = path

    def _write(self, path, size):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with io.open(descriptor, "wb", buffering=0) as out:
            left = size
            while left:
                data = _take(self._stream, min(CHUNK, left))
                left -= len(data)
                view = memoryview(data)
                while view:
                    view = view[out.write(view):]
            os.fsync(descriptor)


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
