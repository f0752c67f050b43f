# SPDX-License-Identifier: Apache-2.0
"""The VHD files of a snapshot's chain, to be read and packed while nobody writes.

They are linked into a folder of our own, so that a disk that is destroyed meanwhile
stays readable, and are only ever opened for reading.
"""
import collections
import io
import os
import re
import stat
import tarfile

from xenapi_dom0 import failures, paths, vhd

PIECE = 256 * 1024
_OPEN_FILE = re.compile(r"/([0-9a-f-]{36})\.vhd(?: \(deleted\))?\Z")

# path: of our link; file: open for reading; seen: what fstat said of it
Disk = collections.namedtuple("Disk", "uuid path file seen")


class Chain:
    """A snapshot's disks, leaf first; a context manager.

    :param folder: of ours, inside of the SR
    :raises Failure: NOT_FOUND; BUSY, where somebody writes to one; IMAGE_CORRUPT;
        BAD_ARGUMENT, where they are no whole chain
    """

    def __init__(self, sr_path, vdi_uuids, folder):
        self._disks = []
        try:
            for number, uuid in enumerate(vdi_uuids):
                self._disks.append(_linked(sr_path, uuid, folder, number))
            self.check_unchanged()
            _check_chain([
                vhd.check(disk.path, disk.uuid + ".vhd") for disk in self._disks
            ])
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def close(self):
        for disk in self._disks:
            disk.file.close()

    def check_unchanged(self):
        """Refuse disks that are being written, or were since they were opened.

        :raises Failure: BUSY
        """
        written = _open_for_writing(self._disks)
        for disk in self._disks:
            now = os.fstat(disk.file.fileno())
            # The time tells of a writer on another host of a shared SR.
            changed = (now.st_size, now.st_mtime_ns) != (
                disk.seen.st_size, disk.seen.st_mtime_ns
            )
            if changed or disk.uuid in written:
                raise failures.Failure(
                    failures.BUSY, "VHD %s, which is written to" % disk.uuid
                )

    def tar_size(self):
        """Return the number of bytes that :meth:`tar` yields."""
        return sum(length for _source, length in self._parts())

    def tar(self):
        """Yield a tar archive of the disks, as ``./``, ``./0.vhd``, ...

        Pieces are PIECE bytes long but the last, and the receiver's to keep.
        """
        buffer, filled = bytearray(PIECE), 0
        for source, length in self._parts():
            source.seek(0)
            left = length
            while left:
                most = min(left, PIECE - filled)
                with memoryview(buffer) as view:
                    count = source.readinto(view[filled:filled + most])
                if not count:
                    raise failures.Failure(failures.BUSY, "VHD that became shorter")
                filled += count
                left -= count
                if filled == PIECE:
                    yield buffer
                    buffer, filled = bytearray(PIECE), 0
        del buffer[filled:]
        if buffer:
            yield buffer

    def _parts(self):
        """Return pairs of binary file and length, which make up the archive."""
        root = tarfile.TarInfo("./")
        root.type, root.mode = tarfile.DIRTYPE, 0o755
        parts = [_header(root)]
        for number, disk in enumerate(self._disks):
            member = tarfile.TarInfo("./%d.vhd" % number)
            member.size, member.mode = disk.seen.st_size, 0o644
            member.mtime = int(disk.seen.st_mtime)
            padding = -member.size % tarfile.BLOCKSIZE
            parts += [_header(member), (disk.file, member.size), _zeros(padding)]
        size = sum(length for _source, length in parts) + 2 * tarfile.BLOCKSIZE
        end = 2 * tarfile.BLOCKSIZE + -size % tarfile.RECORDSIZE
        return parts + [_zeros(end)]


def _header(member):
    data = member.tobuf(tarfile.GNU_FORMAT)
    return io.BytesIO(data), len(data)


def _zeros(length):
    return io.BytesIO(bytes(length)), length


def _linked(sr_path, uuid, folder, number):
    path = os.path.join(folder, "%d.vhd" % number)
    try:
        os.link(paths.vhd_in_sr(sr_path, uuid), path, follow_symlinks=False)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise failures.Failure(
            failures.NOT_FOUND, "VHD file of VDI " + uuid
        ) from exc
    except OSError as exc:
        raise failures.from_os_error(exc, "link a VHD file", sr_path) from exc
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode):
        os.close(descriptor)
        raise failures.Failure(failures.NOT_FOUND, "VHD file of VDI " + uuid)
    return Disk(uuid, path, io.FileIO(descriptor), seen)


def _check_chain(disks):
    """Refuse what a download would refuse: the image could never be used."""
    whole = disks[-1].kind == vhd.DYNAMIC and not disks[0].hidden
    for child, parent in zip(disks, disks[1:]):
        if child.kind != vhd.DIFFERENCING or child.parent_uuid != parent.uuid:
            whole = False
    if not whole:
        raise failures.Failure(
            failures.BAD_ARGUMENT, "vdi_uuids", "are no whole chain, leaf first"
        )


def _open_for_writing(disks):
    """Return the UUIDs of the disks that a process of this host may write to."""
    wanted = {(disk.seen.st_dev, disk.seen.st_ino): disk.uuid for disk in disks}
    found = set()
    for process in os.listdir("/proc"):
        if process.isdigit():
            found.update(_written_by("/proc/" + process, wanted))
    return found


def _written_by(process, wanted):
    try:
        descriptors = os.listdir(process + "/fd")
    except OSError:
        return  # it ended
    for number in descriptors:
        try:
            # Other files may lie where a look at them hangs.
            name = os.readlink("%s/fd/%s" % (process, number))
            if _OPEN_FILE.search(name) is None:
                continue
            seen = os.stat("%s/fd/%s" % (process, number))
            uuid = wanted.get((seen.st_dev, seen.st_ino))
            if uuid and _writes("%s/fdinfo/%s" % (process, number)):
                yield uuid
        except OSError:
            continue  # it was closed


def _writes(info):
    with open(info) as lines:
        for line in lines:
            if line.startswith("flags:"):
                return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False
