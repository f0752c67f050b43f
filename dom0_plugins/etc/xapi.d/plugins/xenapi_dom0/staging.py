# SPDX-License-Identifier: Apache-2.0
"""A folder inside an SR in which an image grows until it is good.

Inside the SR, so that putting the files in place is a rename. It is removed when the
call ends, also by SIGTERM; what a killed call left is removed by the next one. The
folder's owner is told by a lock that ends with its process.
"""
import contextlib
import errno
import fcntl
import json
import os
import platform
import re
import signal
import stat
import tempfile

from xenapi_dom0 import failures, paths, sr_lock
from xenapi_dom0.serve import LOG

_ANY_HOST = ".xenapi-staging."
_LOCK = "lock"
_JOURNAL = "placing"
_MAX_JOURNAL = 64 * 1024  # bytes; a chain has 30 UUIDs at most


def _prefix():
    # Hosts share an SR: a folder of another one is that one's to sweep.
    host = re.sub(r"[^A-Za-z0-9.-]", "_", platform.node())
    return "%s%s." % (_ANY_HOST, host)


@contextlib.contextmanager
def folder(sr_path):
    """Make a folder in the SR for the length of a ``with``; give its path.

    What :func:`place` began and did not end is taken back.
    """
    sweep(sr_path)
    try:
        path, lock = _made(sr_path)
    except OSError as exc:
        raise failures.from_os_error(exc, "make a folder", sr_path) from exc
    try:
        yield path
    finally:
        # From here on a SIGTERM waits: the cleaning is short.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            _clear(sr_path, path, lock)
            os.close(lock)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def sweep(sr_path):
    """Remove the folders whose process is gone."""
    for path, lock in _dead(sr_path):
        LOG.warning("Removing %s, which a killed call left.", path)
        _clear(sr_path, path, lock)
        os.close(lock)


def left_behind(sr_path):
    """Return the names of the folders that killed calls left, and of other hosts'."""
    dead = []
    for path, lock in _dead(sr_path):
        dead.append(os.path.basename(path))
        os.close(lock)
    ours = _prefix()
    others = [
        name for name in os.listdir(sr_path)
        if name.startswith(_ANY_HOST) and not name.startswith(ours)
    ]
    return sorted(dead), sorted(others)


def _dead(sr_path):
    """Give path and descriptor of the lock, held, of each folder left behind."""
    prefix = _prefix()
    for name in os.listdir(sr_path):
        path = os.path.join(sr_path, name)
        if not name.startswith(prefix):
            continue
        try:
            lock = _locked(path)
        except BlockingIOError:
            continue  # its process lives
        except FileNotFoundError:
            continue  # another sweep was faster
        except OSError as exc:
            LOG.warning("Cannot look at %s: %s", path, exc)
            continue
        yield path, lock


def _made(sr_path):
    """Make a folder; return its path and the descriptor of its lock, held."""
    while True:
        path = tempfile.mkdtemp(prefix=_prefix(), dir=sr_path)
        # Until it has its lock it looks like what a killed call left, and a sweep of
        # another call takes it: then we make another one.
        try:
            lock = _locked(path)
        except (BlockingIOError, FileNotFoundError):
            continue
        if os.path.lexists(os.path.join(path, _LOCK)):
            return path, lock
        os.close(lock)


def _locked(path):
    """Return a descriptor of the folder's lock, held; BlockingIOError if taken."""
    folder = _opened(path)
    try:
        descriptor = os.open(
            _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o600, dir_fd=folder
        )
    finally:
        os.close(folder)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _opened(name, above=None):
    """Return a descriptor of a folder; other hosts may have put a link there."""
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)


def place(folder_path, sr_path, uuids):
    """Move ``<uuid>.vhd`` of a chain from the folder into the SR.

    The base goes first and the leaf last: whoever looks at any moment finds each
    disk together with all its parents. The storage manager does not look meanwhile:
    a hidden base without a child would be garbage to it.

    :param uuids: leaf first
    """
    try:
        with sr_lock.held(sr_path):
            # Under the lock, for another call may have the same UUIDs; and before the
            # journal, by which what has these names would be taken back.
            _refuse_taken(sr_path, uuids)
            with open(os.path.join(folder_path, _JOURNAL), "w") as journal:
                json.dump(uuids, journal)
                journal.flush()
                os.fsync(journal.fileno())
            for uuid in reversed(uuids):
                os.rename(
                    paths.vhd_in_sr(folder_path, uuid), paths.vhd_in_sr(sr_path, uuid)
                )
            _sync_directory(sr_path)
    except OSError as exc:
        raise failures.from_os_error(exc, "put the VHDs in place", sr_path) from exc


def _refuse_taken(sr_path, uuids):
    for uuid in uuids:
        if os.path.lexists(paths.vhd_in_sr(sr_path, uuid)):
            raise failures.Failure(
                failures.BAD_ARGUMENT, "uuid_stack", "a UUID is taken in this SR"
            )


def _sync_directory(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear(sr_path, path, lock):
    """Remove a folder, after taking back a chain that was only half in place.

    :param lock: the descriptor of its lock, by which it is known again
    """
    try:
        folder = _opened(path)
        try:
            there = os.stat(_LOCK, dir_fd=folder, follow_symlinks=False)
            if not os.path.samestat(there, os.fstat(lock)):
                raise OSError(errno.ESTALE, "another folder has its name now")
            _take_back(sr_path, _journal(folder))
            _empty(folder, but=_LOCK)
            # The lock goes last: a folder without one may be another call's new one.
            os.unlink(_LOCK, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(path)
    except (OSError, RecursionError) as exc:
        LOG.warning("Cannot remove %s: %s", path, exc)


def _journal(folder):
    """Return the UUIDs that :func:`place` was to move; none where that is not known."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(_JOURNAL, flags, dir_fd=folder)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as journal:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        try:
            uuids = json.loads(journal.read(_MAX_JOURNAL).decode("ascii"))
        except (OSError, ValueError, RecursionError):
            return []
    known = isinstance(uuids, list) and all(
        isinstance(uuid, str) and paths.UUID.match(uuid) for uuid in uuids
    )
    return uuids if known else []


def _take_back(sr_path, uuids):
    if uuids and not os.path.lexists(paths.vhd_in_sr(sr_path, uuids[0])):
        for uuid in uuids:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(paths.vhd_in_sr(sr_path, uuid))


def _empty(folder, but=None):
    """Remove all that is in a folder but one name, wherever its own name leads now."""
    for name in os.listdir(folder):
        if name == but:
            continue
        try:
            os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            inner = _opened(name, folder)
            try:
                _empty(inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=folder)
