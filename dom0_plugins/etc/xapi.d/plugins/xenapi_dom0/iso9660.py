# SPDX-License-Identifier: Apache-2.0
"""Read the files of a CD image without mounting it.

The image is a user's: a kernel that mounts it runs its file system code on it, as
root, and not every dom0 has a program that unpacks one. This reads what an ISO 9660
file system (ECMA-119) with or without Rock Ridge names (IEEE P1282) is made of, and
refuses what a boot CD does not need: links, devices, interleaved and split files.
"""
import collections
import os
import struct

from xenapi_dom0 import failures

BLOCK = 2048
CHUNK = 1024 * 1024
MAX_ENTRIES = 10000
MAX_DEPTH = 16
MAX_FOLDER = CHUNK  # bytes of one folder's records
MAX_CONTINUED = 32  # areas of one record
_FIRST_DESCRIPTOR = 16  # block
_MAX_DESCRIPTORS = 64
_MAGIC = b"CD001"
_PRIMARY, _LAST = 1, 255
_FOLDER, _ASSOCIATED, _SPLIT = 0x02, 0x04, 0x80  # flags of a record
_FORMAT_MASK, _REGULAR, _DIRECTORY = 0o170000, 0o100000, 0o040000

# path: tuple of names; size and start: bytes
Entry = collections.namedtuple("Entry", "path is_folder start size")


def _corrupt(reason):
    return failures.Failure(failures.IMAGE_CORRUPT, "no good CD image: " + reason)


class Image:
    """A CD image in a file.

    :ivar volume: its name, of letters, digits and _
    """

    def __init__(self, descriptor):
        """:param descriptor: of the open file"""
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        primary = self._primary()
        name = primary[40:72].decode("ascii", "replace").strip()
        self.volume = "".join(
            char if char.isalnum() and ord(char) < 128 else "_" for char in name
        )
        self._root = primary[156:190]
        self._skip = self._skipped_bytes()

    def read(self, start, size):
        """Return ``size`` bytes; an image that ends before is damaged."""
        data = os.pread(self._descriptor, size, start)
        if len(data) != size:
            raise _corrupt("it is cut off")
        return data

    def entries(self):
        """Yield the Entry of every folder and file, a folder before what is in it.

        :raises Failure: IMAGE_CORRUPT
        """
        start, size = struct.unpack_from("<I4xI", self._root, 2)
        waiting = [Entry((), True, start * BLOCK, size)]
        seen, count = set(), 0
        while waiting:
            folder = waiting.pop()
            if folder.start in seen:
                raise _corrupt("a folder in itself")
            seen.add(folder.start)
            names = set()
            for entry in self._in_folder(folder):
                count += 1
                if count > MAX_ENTRIES:
                    raise _corrupt("more than %d files" % MAX_ENTRIES)
                if entry.path[-1] in names:
                    raise _corrupt("two files of one name")
                names.add(entry.path[-1])
                if entry.is_folder:
                    waiting.append(entry)
                yield entry

    def _primary(self):
        for number in range(_MAX_DESCRIPTORS):
            block = self.read((_FIRST_DESCRIPTOR + number) * BLOCK, BLOCK)
            if block[1:6] != _MAGIC:
                break
            if block[0] == _LAST:
                break
            if block[0] == _PRIMARY:
                if struct.unpack_from("<H", block, 128) != (BLOCK,):
                    raise _corrupt("blocks of another size")
                return block
        raise _corrupt("there is no ISO 9660 file system")

    def _skipped_bytes(self):
        """Return how far into each record's end Rock Ridge begins, None without it."""
        start, size = struct.unpack_from("<I4xI", self._root, 2)
        if not size:
            return None
        first = self._record(self.read(start * BLOCK, BLOCK), 0)
        area = _system_use(first) if first else b""
        # System Use Sharing Protocol, 5.3: SP is the root folder's first field.
        if area[:2] == b"SP" and len(area) >= 7 and area[4:6] == b"\xbe\xef":
            return area[6]
        return None

    def _record(self, data, offset):
        """Return the record at ``offset``, b"" where a block has no more of them."""
        length = data[offset]
        record = data[offset:offset + length]
        if not length:
            return b""
        if length < 34 or len(record) != length or 33 + record[32] > length:
            raise _corrupt("a damaged record of a folder")
        return record

    def _in_folder(self, folder):
        if folder.size > MAX_FOLDER or len(folder.path) > MAX_DEPTH:
            raise _corrupt("a folder that is too large or too deep")
        data = self.read(folder.start, folder.size)
        offset = 0
        while offset < len(data):
            record = self._record(data, offset)
            if not record:
                # Records do not cross blocks: the rest of this one is empty.
                offset = (offset // BLOCK + 1) * BLOCK
                continue
            offset += len(record)
            if record[33:33 + record[32]] in (b"\0", b"\1"):
                continue  # the folder itself and its parent
            entry = self._entry(folder, record)
            if entry is not None:
                yield entry

    def _entry(self, folder, record):
        start, size = struct.unpack_from("<I4xI", record, 2)
        flags = record[25]
        fields = self._fields(record)
        if flags & _ASSOCIATED or b"RE" in fields:
            return None
        if flags & _SPLIT or record[26] or record[27] or record[1]:
            raise _corrupt("a file in pieces")
        is_folder = bool(flags & _FOLDER)
        mode = _REGULAR if not is_folder else _DIRECTORY
        if b"PX" in fields and len(fields[b"PX"][0]) >= 4:
            mode = struct.unpack_from("<I", fields[b"PX"][0])[0]
        wanted = _DIRECTORY if is_folder else _REGULAR
        if mode & _FORMAT_MASK != wanted or b"SL" in fields or b"CL" in fields:
            raise _corrupt("a link, a device or a folder that was moved")
        name = _name(record, fields)
        if start * BLOCK + size > self.size:
            raise _corrupt("it is cut off")
        return Entry(folder.path + (name,), is_folder, start * BLOCK, size)

    def _fields(self, record):
        """Return Rock Ridge's fields, signature to list of contents."""
        found = {}
        if self._skip is None:
            return found
        area = _system_use(record)[self._skip:]
        for _count in range(MAX_CONTINUED):
            more = None
            while len(area) >= 4 and area[2] >= 4:
                signature, content = area[:2], area[4:area[2]]
                area = area[area[2]:]
                if signature == b"ST":
                    break
                if signature == b"CE" and len(content) >= 24:
                    more = struct.unpack_from("<I4xI4xI", content)
                found.setdefault(signature, []).append(content)
            if more is None:
                return found
            if more[2] > BLOCK:
                raise _corrupt("a continuation that is too long")
            area = self.read(more[0] * BLOCK + more[1], more[2])
        raise _corrupt("a record without an end")


def _system_use(record):
    name_end = 33 + record[32]
    return record[name_end + (name_end & 1):]


def _name(record, fields):
    """Return a file's name: Rock Ridge's, or the plain one as Linux shows it."""
    if b"NM" in fields:
        # Each field begins with a byte of flags; 6: for . and ..
        if any(not content or content[0] & 6 for content in fields[b"NM"]):
            raise _corrupt("a file without a name")
        raw = b"".join(content[1:] for content in fields[b"NM"])
    else:
        raw = record[33:33 + record[32]].split(b";")[0].rstrip(b".").lower()
    name = os.fsdecode(raw)
    if not 0 < len(raw) <= 255 or name in (".", "..") or "/" in name or "\0" in name:
        raise _corrupt("a file whose name leads elsewhere")
    return name


def unpack(image, folder, most):
    """Write the files of an image into an empty folder.

    :param most: bytes that they may have together
    :returns: set of the paths, tuples of names
    """
    found, total = set(), 0
    for entry in image.entries():
        path = os.path.join(folder, *entry.path)
        found.add(entry.path)
        if entry.is_folder:
            os.mkdir(path, 0o700)
            continue
        total += entry.size
        if total > most:
            raise failures.Failure(failures.IMAGE_TOO_LARGE, most, total)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as out:
            done = 0
            while done < entry.size:
                data = image.read(entry.start + done, min(CHUNK, entry.size - done))
                out.write(data)
                done += len(data)
    return found
