# SPDX-License-Identifier: Apache-2.0
"""Chains of an SR that end nowhere: found, moved aside or deleted.

Only the start of each file is read, which no running server writes to.
"""
import collections
import contextlib
import os

from xenapi_dom0 import failures, paths, sr_lock, vhd, xapi
from xenapi_dom0.serve import LOG

ASIDE = ".xenapi-broken"  # folder in the SR for what is moved; a scan passes it by

# uuid of the disk at which a chain breaks; why; uuids of all that lie on it
Broken = collections.namedtuple("Broken", "uuid reason descendants")


def find(sr_path):
    """Return a list of Broken, by UUID."""
    reasons, children = _read(sr_path)
    return [
        Broken(uuid, reasons[uuid], sorted(_below(uuid, children)))
        for uuid in sorted(reasons)
    ]


def _read(sr_path):
    """Return what is wrong with which disk, and the children of each."""
    reasons, identity, parents = {}, {}, {}
    for name in sorted(os.listdir(sr_path)):
        uuid = name[:-len(".vhd")]
        if not name.endswith(".vhd") or not paths.UUID.match(uuid):
            continue
        path = os.path.join(sr_path, name)
        try:
            disk = vhd.peek(path)
            identity[uuid] = disk.uuid
            if disk.kind == vhd.DIFFERENCING:
                # Now: it may be deleted before all the others are read.
                parents[uuid] = disk.parent_uuid, vhd.parent_names(disk)
        except failures.Failure as exc:
            reasons[uuid] = exc.params[-1]
        except FileNotFoundError:
            continue  # deleted meanwhile
        except OSError as exc:
            reasons[uuid] = "cannot be read: %s" % exc.strerror
    children = collections.defaultdict(set)
    for uuid, (parent_uuid, names) in parents.items():
        parent, reason = _parent(sr_path, parent_uuid, names, identity)
        if parent is not None:
            children[parent].add(uuid)
        if reason is not None:
            reasons[uuid] = reason
    reasons.update(_without_base(children, reasons))
    return reasons, children


def _parent(sr_path, parent_uuid, names, identity):
    """Return the UUID of a disk's parent VHD or None, and what is wrong or None."""
    for name in names:
        path = os.path.normpath(os.path.join(sr_path, name))
        if os.path.dirname(path) != sr_path or not paths.is_file(path):
            continue
        name = os.path.basename(path)
        uuid = name[:-len(".vhd")]
        if not name.endswith(".vhd") or not paths.UUID.match(uuid):
            return None, None  # a raw parent
        if identity.get(uuid, parent_uuid) != parent_uuid:
            return uuid, "was not made on the disk that it names as its parent"
        return uuid, None
    return None, "its parent is missing"


def _without_base(children, reasons):
    """Return the disks that no base carries, or too far from it, and why."""
    found = {}
    parent = {child: uuid for uuid, of_it in children.items() for child in of_it}
    for uuid in parent:
        at, depth = uuid, 1
        while at in parent and at not in reasons and depth <= vhd.MAX_DEPTH:
            at, depth = parent[at], depth + 1
            if at == uuid:
                found[uuid] = "its parents go round in a circle"
                break
        else:
            if depth == vhd.MAX_DEPTH + 1:
                found[uuid] = "its chain is longer than %d disks" % vhd.MAX_DEPTH
    return found


def _below(uuid, children):
    found, left = set(), [uuid]
    while left:
        for child in children.get(left.pop(), ()):
            if child not in found and child != uuid:
                found.add(child)
                left.append(child)
    return found


def clear(sr_path, uuids, how, really, session):
    """Move aside or delete broken chains, as far as nothing needs their disks.

    :param uuids: of the disks at which they break
    :param how: ``move`` or ``delete``
    :param really: false: only say what would be done
    :param session: xapi.Session, asked whose disks they are
    :returns: list of dict: uuid, bytes, removed (bool), kept (why, or None)
    """
    with contextlib.ExitStack() as stack:
        if really:
            stack.enter_context(sr_lock.alone(sr_path))
        reasons, children = _read(sr_path)
        wanted = set(uuids)
        if not wanted <= set(reasons):
            raise failures.Failure(
                failures.BAD_ARGUMENT, "vdi_uuids",
                "names a disk at which no chain breaks",
            )
        for uuid in uuids:
            wanted |= _below(uuid, children)
        users = _open_files()
        told, kept = [], set()
        for uuid in _leaves_first(wanted, children):
            path = paths.vhd_in_sr(sr_path, uuid)
            found = os.lstat(path)
            why = _needed(uuid, session)
            if why is None and (found.st_dev, found.st_ino) in users:
                why = "a process of this host has it open"
            if why is None and kept & children.get(uuid, set()):
                why = "a disk on it is kept"
            if why is not None:
                kept.add(uuid)
            elif really:
                _take_away(sr_path, path, how)
            told.append({
                "uuid": uuid, "bytes": found.st_blocks * 512,
                "removed": really and why is None, "kept": why,
            })
        return told


def _leaves_first(wanted, children):
    """Return disks such that each comes before the one that it lies on."""
    ordered, left = [], set(wanted)
    while left:
        free = [uuid for uuid in left if not children.get(uuid, set()) & left - {uuid}]
        # In a circle nobody is first.
        ordered += sorted(free or left)
        left.difference_update(ordered)
    return ordered


def _needed(uuid, session):
    """Return who needs the disk, None for nobody."""
    if sr_lock.disk_is_locked(uuid):
        return "the storage manager is at work on it"
    try:
        vdi = session.call("VDI.get_by_uuid", uuid)
        plugs = session.call("VDI.get_VBDs", vdi)
        if plugs:
            machine = session.call("VBD.get_VM", plugs[0])
            return "it is a disk of VM " + session.call("VM.get_uuid", machine)
    except xapi.Refused as exc:
        if exc.error[:1] not in (["UUID_INVALID"], ["HANDLE_INVALID"]):
            raise
    return None


def _open_files():
    """Return (device, inode) of each file that another process has open."""
    found = set()
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == os.getpid():
            continue
        folder = "/proc/%s/fd" % pid
        with contextlib.suppress(OSError):  # a process that ends
            for number in os.listdir(folder):
                with contextlib.suppress(OSError):
                    opened = os.stat(os.path.join(folder, number))
                    found.add((opened.st_dev, opened.st_ino))
    return found


def _take_away(sr_path, path, how):
    try:
        if how == "delete":
            os.unlink(path)
        else:
            aside = os.path.join(sr_path, ASIDE)
            os.makedirs(aside, 0o700, exist_ok=True)
            os.rename(path, os.path.join(aside, os.path.basename(path)))
    except OSError as exc:
        raise failures.from_os_error(exc, how + " a broken disk", sr_path) from exc
    LOG.warning("Broken disk %s: done %s.", os.path.basename(path), how)
