# SPDX-License-Identifier: Apache-2.0
"""The folder from which the host boots kernels and ramdisks of guests.

Every file is written under another name, forced to disk and renamed: what lies there
under a UUID is whole. Files with the same content (a kernel and the image that it is
cached for) are links to one, so that a server costs dom0's small root disk nothing.
"""
import collections
import contextlib
import errno
import os
import platform
import re
import stat
import time

from xenapi_dom0 import failures, locks, paths
from xenapi_dom0.serve import LOG

NEW = "/var/lib/xcp/guest"
OLD = "/boot/guest"
CHUNK = 1024 * 1024
RESERVE = 128 * 1024 * 1024  # bytes that stay free: the folder is on dom0's root disk
# The toolstack took kernels from the new folder as well, then from there alone, and
# since then it follows links before it looks where a file is.
_BOTH, _ONLY_NEW = (24, 19), (24, 20)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

# name: as the host and VM records call it; path: where it is for this process
Folder = collections.namedtuple("Folder", "name path")


def folder(version):
    """Return the Folder whose files this host accepts; it is made where it may be.

    :param version: of the toolstack, a tuple of numbers; None: not known
    :raises Failure: NOT_SUPPORTED, with what an operator can do
    """
    names = [NEW, OLD]
    if version is not None and version < _BOTH:
        names = [OLD]
    elif version is not None and version >= _ONLY_NEW:
        names = [NEW]
    reasons = []
    for name in names:
        path, reason = _existing(name)
        if path is not None:
            return Folder(name, path)
        reasons.append("%s %s" % (name, reason))
    name, path = names[0], paths.host_path(names[0])
    # Which one a host of unknown version accepts only its operator knows.
    if version is not None and not os.path.lexists(path):
        try:
            os.mkdir(path, 0o755)
            return Folder(name, os.path.realpath(path))
        except OSError as exc:
            reasons = ["%s cannot be made: %s" % (name, exc.strerror)]
    raise failures.Failure(
        failures.NOT_SUPPORTED, "keep kernels of guests",
        "this host boots them from %s, but %s: make it a folder%s"
        % (" or ".join(names), ", ".join(reasons), _advice(names[0])),
    )


def _advice(name):
    if name == NEW:
        return " (to keep it on an SR, mount a folder of that there with --bind)"
    return " or a link to a folder of an SR"


def _existing(name):
    """Return (path, None) of a folder that can be used, or (None, why not)."""
    path = paths.host_path(name)
    real = os.path.realpath(path)
    plain = os.path.realpath(paths.host_path("/")).rstrip("/") + name
    if not os.path.isdir(real):
        return None, "is no folder" if os.path.lexists(path) else "is not there"
    if name == NEW and real != plain:
        return None, "is a link, which this host does not accept"
    return real, None


def folders():
    """Return every Folder that is there: an upgraded host has files in both."""
    found = {}
    for name in (NEW, OLD):
        path = os.path.realpath(paths.host_path(name))
        if os.path.isdir(path):
            found.setdefault(path, Folder(name, path))
    return list(found.values())


def _prefix():
    # Hosts may share a folder of an SR: what another one writes is not ours to sweep.
    host = re.sub("[^A-Za-z0-9-]", "_", platform.node())
    return ".xenapi-%s." % host


def write(where, uuid, source, size, told):
    """Put the first ``size`` bytes of an open device into the folder, as ``uuid``.

    :param told: called with the fraction that is done
    """
    with _placing(where, uuid) as (directory, temporary):
        space = os.statvfs(where.path)
        if size + RESERVE > space.f_bavail * space.f_frsize:
            raise failures.Failure(failures.NO_SPACE, where.name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o644, dir_fd=directory)
        try:
            _copy(source, descriptor, size, told)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return where.name + "/" + uuid


def _copy(source, target, size, told):
    done = 0
    while done < size:
        data = os.read(source, min(CHUNK, size - done))
        if not data:
            raise failures.Failure(
                failures.COMMAND_FAILED, "read the disk",
                "it ends after %d bytes" % done
            )
        view = memoryview(data)
        while view:
            view = view[os.write(target, view):]
        done += len(data)
        told(done / size)


def same(where, source, uuid):
    """Make ``uuid`` of the folder the same as ``source``; return its path, or None.

    :returns: None where there is no file ``source``
    """
    with _placing(where, uuid) as (directory, temporary):
        try:
            # Its age says how long a cached one was of no use.
            descriptor = os.open(
                source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=directory
            )
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ELOOP):
                return None
            raise
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                return None
            os.utime(descriptor)
            _link(directory, source, temporary, descriptor, found.st_size)
        finally:
            os.close(descriptor)
    return where.name + "/" + uuid


def _link(directory, source, temporary, descriptor, size):
    try:
        os.link(
            source, temporary, src_dir_fd=directory, dst_dir_fd=directory,
            follow_symlinks=False
        )
        return
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    target = os.open(temporary, flags, 0o644, dir_fd=directory)
    try:
        _copy(descriptor, target, size, lambda fraction: None)
        os.fsync(target)
    finally:
        os.close(target)


@contextlib.contextmanager
def _placing(where, uuid):
    """Give (descriptor of the folder, temporary name); then that becomes ``uuid``."""
    temporary = _prefix() + uuid
    with locks.held("guest-kernel", uuid):
        try:
            directory = os.open(where.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as exc:
            raise failures.from_os_error(exc, "open the folder", where.name) from exc
        try:
            sweep(where)
            _unlink(directory, temporary)  # sweep leaves the one whose lock is ours
            yield directory, temporary
            if _exists(directory, temporary):
                os.rename(temporary, uuid, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
        except OSError as exc:
            raise failures.from_os_error(exc, "write a kernel", where.name) from exc
        finally:
            # Also where both names are links to the same: then rename does nothing.
            _unlink(directory, temporary)
            os.close(directory)


def _exists(directory, name):
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink(directory, name):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def sweep(where):
    """Remove what killed calls of this host left half written."""
    prefix = _prefix()
    for name in os.listdir(where.path):
        uuid = name[len(prefix):]
        if not name.startswith(prefix) or paths.UUID.match(uuid) is None:
            continue
        try:
            with locks.held("guest-kernel", uuid, wait=0):
                os.unlink(os.path.join(where.path, name))
            LOG.warning("Removed half a kernel, which a killed call left.")
        except (failures.Failure, FileNotFoundError):
            continue  # its process lives, or has just ended


def find(argument, path):
    """Return (Folder, name) of a file directly in one of the folders, or None.

    :returns: None where there is no such file
    :raises Failure: BAD_ARGUMENT naming ``argument``
    """
    parent, name = os.path.split(path)
    if parent not in (NEW, OLD) or name.startswith("."):
        raise failures.Failure(
            failures.BAD_ARGUMENT, argument,
            "is no file directly in %s or %s" % (NEW, OLD)
        )
    where = Folder(parent, os.path.realpath(paths.host_path(parent)))
    try:
        found = os.lstat(paths.inside(where.path, name))
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(found.st_mode):
        raise failures.Failure(
            failures.BAD_ARGUMENT, argument, "is a link, a folder or a device"
        )
    return where, name


def remove(where, name):
    """Remove a file of the folder; one that is gone already is fine."""
    try:
        os.unlink(os.path.join(where.path, name))
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise failures.from_os_error(exc, "remove a kernel", where.name) from exc
    return True


def files():
    """Return a list of (Folder, name, bytes, age in seconds) of the files of ours.

    Ours have a UUID for a name; what an operator put there has another.
    """
    found = []
    for where in folders():
        sweep(where)
        for name in sorted(os.listdir(where.path)):
            if paths.UUID.match(name) is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                about = os.lstat(os.path.join(where.path, name))
                if stat.S_ISREG(about.st_mode):
                    age = max(0, int(time.time() - about.st_mtime))
                    found.append((where, name, about.st_size, age))
    return found
