# SPDX-License-Identifier: Apache-2.0
"""Copy the files of a VHD chain, holes as holes; see that nobody writes meanwhile."""
import contextlib
import errno
import fcntl
import os
import stat

from xenapi_dom0 import failures

CHUNK = 64 * 1024  # bytes: what is zeros as a whole is not written
_FICLONE = 0x40049409  # linux/fs.h: share the blocks, where the file system can


def copy_all(files, report):
    """Copy files; the whole of what they need must be free before the first byte.

    :param files: list of (source path, target path), targets new and in one SR
    :param report: callable(fraction)
    :raises Failure: NOT_FOUND, NOT_PERMITTED, NO_SPACE, COMMAND_FAILED
    """
    sources = []
    with contextlib.ExitStack() as opened:
        for source, target in files:
            sources.append((opened.enter_context(_opened(source)), target))
        total = sum(_used(disk) for disk, _target in sources)
        done = 0
        for disk, target in sources:
            _copy(disk, target, total - done)
            done += _used(disk)
            report(done / max(1.0, total))


def _opened(path):
    name = os.path.basename(path)
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except FileNotFoundError:
        raise failures.Failure(failures.NOT_FOUND, "the file " + name) from None
    except OSError as exc:
        raise failures.from_os_error(exc, "open " + name, path) from exc
    disk = os.fdopen(descriptor, "rb", 0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        disk.close()
        raise failures.Failure(
            failures.NOT_PERMITTED, "copy " + name, "it is no regular file"
        )
    return disk


def _used(disk):
    """Return the bytes that a file takes on its disk."""
    return os.fstat(disk.fileno()).st_blocks * 512


def _copy(disk, target, needed):
    """Copy the open file ``disk``; ``needed`` bytes are still to come in all."""
    folder = os.path.dirname(target)
    try:
        descriptor = os.open(
            target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "wb", 0) as out:
            if not _shared(disk, out):
                space = os.statvfs(folder)
                if needed > space.f_bavail * space.f_frsize:
                    raise failures.Failure(failures.NO_SPACE, os.path.dirname(folder))
                _copy_data(disk, out)
            os.fchmod(out.fileno(), stat.S_IMODE(os.fstat(disk.fileno()).st_mode))
            os.fsync(out.fileno())
    except OSError as exc:
        raise failures.from_os_error(
            exc, "copy a VHD", os.path.dirname(folder)
        ) from exc


def _shared(disk, out):
    try:
        fcntl.ioctl(out.fileno(), _FICLONE, disk.fileno())
    except OSError:
        return False  # most file systems cannot
    return True


def _copy_data(disk, out):
    """Copy what is no hole and no zeros; the rest of ``out`` becomes a hole."""
    size = os.fstat(disk.fileno()).st_size
    zeros = bytes(CHUNK)
    buffer = bytearray(CHUNK)
    at = 0
    while at < size:
        at, end = _extent(disk, at, size)
        while at < end:
            disk.seek(at)
            count = disk.readinto(memoryview(buffer)[:min(CHUNK, end - at)])
            if not count:
                raise OSError(errno.EIO, "a file ended while it was copied")
            if buffer[:count] != zeros[:count]:
                out.seek(at)
                view = memoryview(buffer)[:count]
                while view:
                    view = view[out.write(view):]
            at += count
    out.truncate(size)


def _extent(disk, at, size):
    """Return where the next data begins, from ``at`` on, and where it ends."""
    try:
        begin = os.lseek(disk.fileno(), at, os.SEEK_DATA)
        return begin, os.lseek(disk.fileno(), begin, os.SEEK_HOLE)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # no more data
            return size, size
        return at, size  # a file system that does not tell


@contextlib.contextmanager
def unchanged(files):
    """Fail when one of the files is written to during the ``with``.

    :param files: dict of what a message calls the file to its path
    """
    before = {name: _state(path) for name, path in files.items()}
    yield
    for name, path in files.items():
        if _state(path) != before[name]:
            raise failures.Failure(
                failures.BUSY, "%s, which was written to meanwhile" % name
            )


def _state(path):
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
