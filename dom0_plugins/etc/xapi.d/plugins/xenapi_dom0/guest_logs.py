# SPDX-License-Identifier: Apache-2.0
"""What guests write to their serial consoles, as xenconsoled logs it.

One file a domain, ``console.<dom_id>``; when it has grown, rotation makes it
``console.<dom_id>.1``. A domain id is another VM's after the host's restart, so who
wrote a log is written down beside, and no log is shown as somebody else's.
"""
import contextlib
import json
import os
import re
import stat

from xenapi_dom0 import domains, failures, paths

FOLDER = "/var/log/xen/guest"
OWNERS = "/var/lib/xenapi-dom0/guest-logs.json"
TAIL = 100 * 1024  # bytes of an answer
_LOG = re.compile(r"console\.([1-9][0-9]{0,4})(\.1)?\Z")


class Folder:
    """The folder of the logs. Names in it are never followed if they are links."""

    def __init__(self, make=False):
        path = paths.host_path(FOLDER)
        try:
            if make:
                os.makedirs(path, 0o700, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise failures.Failure(failures.NOT_FOUND, FOLDER) from None
        except OSError as exc:
            raise failures.from_os_error(exc, "open the console logs", FOLDER) from exc

    def __enter__(self):
        return self

    def __exit__(self, *ended):
        os.close(self._descriptor)

    def open(self, dom_id, older=False, writable=False):
        """Return a descriptor of a log; None where there is none.

        :raises Failure: NOT_PERMITTED, it is no plain file
        """
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        flags |= os.O_RDWR if writable else os.O_RDONLY
        try:
            descriptor = os.open(
                name(dom_id, older), flags, dir_fd=self._descriptor
            )
        except FileNotFoundError:
            return None
        except OSError as exc:
            # A link, or a socket.
            raise failures.Failure(
                failures.NOT_PERMITTED, "open a console log", exc.strerror
            ) from exc
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            return descriptor
        os.close(descriptor)
        raise failures.Failure(
            failures.NOT_PERMITTED, "open a console log", "it is no plain file"
        )

    def found(self):
        """Return the dict of domain id to os.stat_result of its newest log."""
        newest = {}
        for entry in os.listdir(self._descriptor):
            match = _LOG.match(entry)
            if match is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                now = os.lstat(entry, dir_fd=self._descriptor)
                dom_id = int(match.group(1))
                if stat.S_ISREG(now.st_mode) and (
                    dom_id not in newest or now.st_mtime > newest[dom_id].st_mtime
                ):
                    newest[dom_id] = now
        return newest

    def size(self, dom_id, older=False):
        """Return how many bytes a log has; None where there is none."""
        try:
            found = os.lstat(name(dom_id, older), dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def put_aside(self, dom_id):
        """Make the log the older one, in place of that."""
        os.rename(
            name(dom_id), name(dom_id, older=True),
            src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor,
        )

    def remove(self, dom_id):
        """Remove both logs of a domain."""
        for older in (True, False):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name(dom_id, older), dir_fd=self._descriptor)


def name(dom_id, older=False):
    """Return the name of a domain's log in the folder."""
    return "console.%d%s" % (dom_id, ".1" if older else "")


def tail(folder, dom_id):
    """Return the last bytes of a domain's log, and whether it has more before them.

    :raises Failure: NOT_FOUND, NOT_PERMITTED
    """
    with contextlib.ExitStack() as opened:
        logs = _opened(folder, dom_id, opened)
        if not logs:
            raise failures.Failure(
                failures.NOT_FOUND, "console log of domain %d" % dom_id
            )
        pieces, left, truncated = [], TAIL, False
        for descriptor in logs:
            size = os.fstat(descriptor).st_size
            truncated = truncated or size > left
            pieces.append(_last(descriptor, size, left))
            left -= len(pieces[-1])
    return b"".join(reversed(pieces)), truncated


def _opened(folder, dom_id, opened):
    """Return descriptors of a domain's logs, the newest first."""
    logs = []
    for older in (False, True):
        descriptor = folder.open(dom_id, older)
        if descriptor is None:
            continue
        opened.callback(os.close, descriptor)
        # Put aside in between, the newer one is found again as the older.
        if not any(os.path.sameopenfile(descriptor, log) for log in logs):
            logs.append(descriptor)
    return logs


def _last(descriptor, size, most):
    """Return up to ``most`` bytes before position ``size``."""
    at = max(0, size - most)
    data = b""
    while at + len(data) < size:
        piece = os.pread(descriptor, size - at - len(data), at + len(data))
        if not piece:
            break  # cut shorter meanwhile
        data += piece
    return data


def owners():
    """Return the dict of domain id to the UUID of the VM that wrote its log."""
    try:
        with open(paths.host_path(OWNERS)) as file:
            kept = json.load(file)["owners"]
        return {int(dom_id): str(vm) for dom_id, vm in kept.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def require_owner(store, dom_id, vm_uuid):
    """Refuse a log that may be, or may hold lines, of another VM.

    :param vm_uuid: whose log is asked for, or None: the caller cannot say
    :raises Failure: NOT_FOUND
    """
    writers = {domains.owner(store, dom_id), owners().get(dom_id), vm_uuid} - {None}
    if len(writers) > 1:
        raise failures.Failure(
            failures.NOT_FOUND, "console log of domain %d of this VM" % dom_id
        )
