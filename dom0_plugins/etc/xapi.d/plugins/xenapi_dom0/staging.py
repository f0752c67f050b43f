# SPDX-License-Identifier: Apache-2.0
"""A folder inside an SR in which an image grows until it is good.

Inside the SR, so that putting the files in place is a rename. It is removed when the
call ends, also by SIGTERM; what a killed call left is removed by the next one. The
folder's owner is told by a lock that ends with its process.
"""
import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import tempfile

from xenapi_dom0 import failures, paths, sr_lock
from xenapi_dom0.serve import LOG

_ANY_HOST = ".xenapi-staging."
_LOCK = "lock"
_JOURNAL = "placing"


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
            _clear(sr_path, path)
            os.close(lock)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def sweep(sr_path):
    """Remove the folders whose process is gone."""
    for path, lock in _dead(sr_path):
        LOG.warning("Removing %s, which a killed call left.", path)
        _clear(sr_path, path)
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
        if not name.startswith(prefix) or os.path.islink(path):
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
        if os.path.exists(os.path.join(path, _LOCK)):
            return path, lock
        os.close(lock)


def _locked(path):
    """Return a descriptor of the folder's lock, held; BlockingIOError if taken."""
    descriptor = os.open(
        os.path.join(path, _LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def place(folder_path, sr_path, uuids):
    """Move ``<uuid>.vhd`` of a chain from the folder into the SR.

    The base goes first and the leaf last: whoever looks at any moment finds each
    disk together with all its parents. The storage manager does not look meanwhile:
    a hidden base without a child would be garbage to it.

    :param uuids: leaf first
    """
    for uuid in uuids:
        if os.path.lexists(paths.vhd_in_sr(sr_path, uuid)):
            raise failures.Failure(
                failures.BAD_ARGUMENT, "uuid_stack", "a UUID is taken in this SR"
            )
    try:
        with open(os.path.join(folder_path, _JOURNAL), "w") as journal:
            json.dump(uuids, journal)
            journal.flush()
            os.fsync(journal.fileno())
        with sr_lock.held(sr_path):
            for uuid in reversed(uuids):
                os.rename(
                    paths.vhd_in_sr(folder_path, uuid), paths.vhd_in_sr(sr_path, uuid)
                )
            _sync_directory(sr_path)
    except OSError as exc:
        raise failures.from_os_error(exc, "put the VHDs in place", sr_path) from exc


def _sync_directory(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear(sr_path, path):
    """Remove a folder, after taking back a chain that was only half in place."""
    try:
        with open(os.path.join(path, _JOURNAL)) as journal:
            uuids = [uuid for uuid in json.load(journal) if paths.UUID.match(uuid)]
    except (OSError, ValueError):
        uuids = []
    if uuids and not os.path.lexists(paths.vhd_in_sr(sr_path, uuids[0])):
        for uuid in uuids:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(paths.vhd_in_sr(sr_path, uuid))
    try:
        # The lock goes last: a folder without one may be another call's new one.
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name != _LOCK:
                os.unlink(entry.path)
        shutil.rmtree(path)
    except OSError as exc:
        LOG.warning("Cannot remove %s: %s", path, exc)
