# SPDX-License-Identifier: Apache-2.0
"""A xenstore: the tree through which dom0 and guests tell each other things.

Limits and errors are xenstored's (xen/include/public/io/xs_wire.h; docs/misc/
xenstore.txt): what does not fit into one message, or is no path, is refused. So is a
longer value than oxenstored takes, the daemon of XenServer and XCP-ng.
"""

import re
import threading
from collections.abc import Callable, Iterable

MAX_PAYLOAD = 4096  # XENSTORE_PAYLOAD_MAX, bytes: path, NUL and value together
MAX_PATH = 3072  # XENSTORE_ABS_PATH_MAX, bytes
MAX_VALUE = 2048  # bytes; oxenstored's quota-maxsize as it comes, dom0's writes too
_PATH = re.compile(r"/(?:[A-Za-z0-9\-_@]+(?:/[A-Za-z0-9\-_@]+)*)?\Z")

Watcher = Callable[[str], None]


class Refusal(Exception):
    """The store refuses; ``args[0]`` is an errno name such as ``ENOENT``."""

    @property
    def errno(self) -> str:
        """Return the errno name."""
        return str(self.args[0])


def checked(path: str) -> str:
    """Return a path that can be one; what is relative is below dom0's own.

    :raises Refusal: EINVAL
    """
    full = path if path.startswith("/") else f"/local/domain/0/{path}"
    if not _PATH.match(full) or len(full.encode()) > MAX_PATH:
        raise Refusal("EINVAL")
    return full


class Xenstore:
    """A store in this process. Safe to share between threads.

    :ivar generation: changes with every change
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._values: dict[str, bytes] = {"/": b""}
        self._children: dict[str, dict[str, None]] = {"/": {}}
        self._watchers: list[Watcher] = []
        self.generation = 0

    def read(self, path: str) -> bytes:
        """Return a value.

        :raises Refusal: ENOENT, EINVAL
        """
        full = checked(path)
        with self._lock:
            if full not in self._values:
                raise Refusal("ENOENT")
            return self._values[full]

    def list(self, path: str) -> list[str]:
        """Return the names directly below a path.

        :raises Refusal: ENOENT, EINVAL
        """
        full = checked(path)
        with self._lock:
            if full not in self._values:
                raise Refusal("ENOENT")
            return list(self._children[full])

    def write(self, path: str, value: bytes) -> None:
        """Set a value; what lies above it is made.

        :raises Refusal: E2BIG, EINVAL
        """
        self.write_many({path: value})

    def write_many(self, values: dict[str, bytes]) -> None:
        """Set values together: all of them, or none and a refusal."""
        full = {}
        for path, value in values.items():
            full[checked(path)] = value
            message = len(path.encode()) + 1 + len(value)
            if message > MAX_PAYLOAD or len(value) > MAX_VALUE:
                raise Refusal("E2BIG")
        with self._lock:
            for path, value in full.items():
                self._make(path)
                self._values[path] = value
            self.generation += 1
        self._tell(full)

    def mkdir(self, path: str) -> None:
        """Make a path with an empty value, if it is not there."""
        full = checked(path)
        with self._lock:
            if full in self._values:
                return
            self._make(full)
            self.generation += 1
        self._tell([full])

    def _make(self, full: str) -> None:
        while full not in self._values:
            self._values[full] = b""
            self._children[full] = {}
            above, _, name = full.rpartition("/")
            full = above or "/"
            if full not in self._values:
                self._make(full)
            self._children[full][name] = None

    def remove(self, path: str) -> None:
        """Remove a path with all below; the path above must be there.

        :raises Refusal: ENOENT, EINVAL
        """
        full = checked(path)
        if full == "/":
            raise Refusal("EINVAL")
        above, _, name = full.rpartition("/")
        with self._lock:
            if full not in self._values:
                if (above or "/") in self._values:
                    return
                raise Refusal("ENOENT")
            gone = [full]
            for one in gone:
                gone += [f"{one}/{child}" for child in self._children[one]]
            for one in gone:
                del self._values[one], self._children[one]
            del self._children[above or "/"][name]
            self.generation += 1
        self._tell([full])

    def exists(self, path: str) -> bool:
        """Return whether there is such a path."""
        with self._lock:
            return checked(path) in self._values

    # transactions and watches

    def copy(self) -> "Xenstore":
        """Return a store of the same content, for a transaction to work on."""
        twin = Xenstore()
        with self._lock:
            twin._values = dict(self._values)
            twin._children = {p: dict(names) for p, names in self._children.items()}
            twin.generation = self.generation
        return twin

    def take(self, twin: "Xenstore", since: int) -> None:
        """Take over what a transaction made of a copy.

        :param since: this store's generation when the copy was made
        :raises Refusal: EAGAIN, somebody changed something meanwhile
        """
        with self._lock:
            if self.generation != since:
                raise Refusal("EAGAIN")
            old = self._values
            self._values, self._children = twin._values, twin._children
            self.generation += 1
            new = self._values
        changed = {path for path, _ in set(old.items()) ^ set(new.items())}
        self._tell(sorted(changed))

    def watch(self, watcher: Watcher) -> None:
        """Have a function called with every path that changes, or goes."""
        with self._lock:
            self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Call it no more."""
        with self._lock:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    def _tell(self, paths: Iterable[str]) -> None:
        with self._lock:
            watchers = list(self._watchers)
        # Outside the lock: who is told may want to read.
        for path in paths:
            for watcher in watchers:
                watcher(path)
