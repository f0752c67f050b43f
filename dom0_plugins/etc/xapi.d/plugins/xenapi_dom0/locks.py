# SPDX-License-Identifier: Apache-2.0
"""Two calls on the same thing go one after the other.

A lock is a flock on a file: it ends with its process, however that ends, and leaves
nothing that a later call would have to judge. The files stay; they are empty.
"""
import contextlib
import errno
import fcntl
import os
import re
import stat
import time

from xenapi_dom0 import failures, paths

FOLDER = "/run/lock/xenapi-dom0"
_POLL = 0.05  # seconds
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,120}\Z")


@contextlib.contextmanager
def held(kind, name, wait=60.0):
    """Hold the lock of one thing for the length of a ``with``.

    :param kind: what sort of thing, such as ``chain``; a word of ours
    :param name: which one: a UUID, a device, a number; checked by the caller
    :param wait: seconds to wait for another call; 0: not at all
    :raises Failure: BUSY
    """
    what = "%s.%s" % (kind, name)
    if _NAME.match(what) is None:
        raise ValueError("no name of a lock: %r" % what)
    path = os.path.join(_folder(), what)
    try:
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except OSError as exc:
        raise failures.from_os_error(exc, "open a lock", path) from exc
    try:
        _take(descriptor, "%s %s" % (kind, name), wait)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor, what, wait):
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() >= deadline:
            raise failures.Failure(failures.BUSY, what)
        time.sleep(_POLL)


def _folder():
    """Return the folder of the locks, which only root may write to."""
    path = paths.host_path(FOLDER)
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as exc:
        raise failures.from_os_error(exc, "make the folder of the locks", path) from exc
    # Somebody else's folder, or a link to one, would let them hold our locks.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise failures.Failure(
            failures.COMMAND_FAILED, "lock", FOLDER + " is no folder of root"
        )
    return path
