# SPDX-License-Identifier: Apache-2.0
"""The storage manager's own locks, held while we change the files of an SR.

A scan or the garbage collector that runs between two of our renames could take half a
chain for garbage. Both hold the SR's lock: a POSIX record lock on
``/var/lock/sm/<SR uuid>/sr`` (``<VDI uuid>/vdi`` for one disk), which ends with its
process.
"""
import contextlib
import errno
import fcntl
import os
import time

from xenapi_dom0 import failures, paths

FOLDER = "/var/lock/sm"
WAIT = 120.0  # seconds; a scan of a big SR takes its time
IMPATIENT = 10.0  # seconds, where the caller can as well come back
_POLL = 0.1  # seconds


@contextlib.contextmanager
def held(sr_path):
    """Hold the lock of the SR at ``sr_path`` for the length of a ``with``.

    :raises Failure: BUSY
    """
    uuid = sr_uuid(sr_path)
    with _locked(uuid, "sr", WAIT):
        yield


@contextlib.contextmanager
def alone(sr_path):
    """Hold the SR's lock and the garbage collector's, or refuse at once.

    :raises Failure: BUSY, also while the collector runs
    """
    uuid = sr_uuid(sr_path)
    with _locked(uuid, "gc_active", 0), _locked(uuid, "sr", IMPATIENT):
        yield


def disk_is_locked(uuid):
    """Say whether the storage manager is at work on the disk ``uuid`` now."""
    path = os.path.join(paths.host_path(FOLDER), uuid, "vdi")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _taken(descriptor)
    finally:
        os.close(descriptor)


def sr_uuid(sr_path):
    """Return the UUID under which the SR at the real path ``sr_path`` is mounted."""
    name = os.path.basename(sr_path)
    if paths.UUID.match(name):
        return name
    # The SR's own path may be a link to a folder of a mount beside it.
    mounts = paths.host_path(paths.SR_MOUNTS)
    for name in os.listdir(mounts):
        real = os.path.realpath(os.path.join(mounts, name))
        if paths.UUID.match(name) and real == sr_path:
            return name
    raise failures.Failure(failures.NOT_FOUND, "the SR's UUID")


@contextlib.contextmanager
def _locked(space, name, wait):
    folder = os.path.join(paths.host_path(FOLDER), space)
    try:
        # As the storage manager makes them itself, on demand.
        os.makedirs(folder, 0o755, exist_ok=True)
        descriptor = os.open(
            os.path.join(folder, name),
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644,
        )
    except OSError as exc:
        raise failures.from_os_error(exc, "take the SR's lock", folder) from exc
    deadline = time.monotonic() + wait
    try:
        while not _taken(descriptor):
            if time.monotonic() >= deadline:
                raise failures.Failure(
                    failures.BUSY,
                    "the SR's lock %s, which the storage manager holds" % name,
                )
            time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor):
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True
