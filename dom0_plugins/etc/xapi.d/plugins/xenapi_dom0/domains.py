# SPDX-License-Identifier: Apache-2.0
"""A guest's domain and what xenstore holds of it, below ``/local/domain/<dom_id>``.

A domain id belongs to one run of a VM; after the host's restart it can be another
VM's. A caller that names the VM as well is never led to another tenant's guest.
"""
import json
import re

from xenapi_dom0 import arguments, failures, xenstore

MAX_PATH = 512  # characters; both daemons take more
MAX_ANSWER = 256 * 1024  # characters of JSON; a host takes 300 KiB
MAX_RECORDS = 2000
_FIRST_RESERVED = 0x7FF0  # xen/include/public/xen.h, DOMID_FIRST_RESERVED
# docs/misc/xenstore.txt: letters, digits and these; a dot is none of them.
_PATH = re.compile(r"[A-Za-z0-9_@-]+(/[A-Za-z0-9_@-]+)*\Z")


def number(request, name="dom_id"):
    """Return the id of a guest's domain; dom0's own is refused."""
    return arguments.whole(request, name, 1, _FIRST_RESERVED - 1)


def path(request, name="path"):
    """Return a path below a domain, without slashes at its ends."""
    value = arguments.text(request, name, MAX_PATH)
    if _PATH.match(value) is None:
        raise failures.Failure(
            failures.BAD_ARGUMENT, name,
            "is no path of names of A-Z, a-z, 0-9, -, _ and @ between single slashes",
        )
    return value


def value(request, dom_id, below, name="value"):
    """Return a value that fits beside its path into one message, as bytes."""
    text = request.get(name)
    if not isinstance(text, str):
        raise failures.Failure(
            failures.BAD_ARGUMENT, name, "is missing or no text"
        )
    try:
        data = text.encode("utf-8")
    except UnicodeError:
        raise failures.Failure(
            failures.BAD_ARGUMENT, name, "has halves of characters"
        ) from None
    if b"\0" in data:
        raise failures.Failure(failures.BAD_ARGUMENT, name, "has a NUL")
    require_fit(data, "%s/%s" % (home(dom_id), below), name)
    return data


def require_fit(data, at, name):
    """Refuse what is longer than a record at this path can be."""
    most = xenstore.MAX_PAYLOAD - len(at) - 1
    if len(data) > most:
        raise failures.Failure(
            failures.BAD_ARGUMENT, name,
            "makes a record of %d bytes where xenstore takes at most %d"
            % (len(data), most),
        )


def too_long(data, name):
    """Return the Failure for what fits into a message and is refused all the same.

    The OCaml daemon of XenServer and XCP-ng has a limit of its own for a value, 2048
    bytes unless its configuration says otherwise; Xen's C one has none.
    """
    return failures.Failure(
        failures.BAD_ARGUMENT, name,
        "makes a record of %d bytes, more than this host's xenstored takes"
        % len(data),
    )


def home(dom_id):
    """Return where xenstore has a domain."""
    return "/local/domain/%d" % dom_id


def owner(store, dom_id):
    """Return the UUID of the VM whose domain this is; None: there is no such domain."""
    at = store.read(home(dom_id) + "/vm")
    if at is None:
        return None
    return at.decode("ascii", "replace").rpartition("/")[2]


def is_there(store, dom_id, vm_uuid):
    """Say whether a domain exists, and is that VM's where one is named."""
    if vm_uuid is not None:
        return owner(store, dom_id) == vm_uuid
    return store.read(home(dom_id)) is not None


def text(data):
    """Return a stored value as text, whatever a guest has put there."""
    return data.decode("utf-8", "replace")


def below(store, at):
    """Return a dict of path, relative to ``at``, to the text stored there.

    :raises Failure: BAD_ARGUMENT, where it is more than one answer carries
    """
    found, size = {}, 0
    todo = [""]
    while todo:
        above = todo.pop()
        for name in sorted(store.names(at + above) or ()):
            inner = "%s/%s" % (above, name)
            data = store.read(at + inner) or b""
            size += len(data) + len(inner)
            if size > MAX_ANSWER or len(found) >= MAX_RECORDS:
                raise _too_much("path")
            found[inner[1:]] = text(data)
            todo.append(inner)
    return found


class Answers:
    """What is answered together, as long as one answer of a plugin carries it.

    :ivar all: a list
    """

    def __init__(self):
        self.all = []
        self._size = 0

    def add(self, answer):
        """Append JSON data.

        :raises Failure: BAD_ARGUMENT
        """
        self._size += len(json.dumps(answer))
        if self._size > MAX_ANSWER:
            raise _too_much("path")
        self.all.append(answer)


def _too_much(name):
    return failures.Failure(
        failures.BAD_ARGUMENT, name, "asks for more than one answer carries"
    )
