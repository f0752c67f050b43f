# SPDX-License-Identifier: Apache-2.0
"""Disks as block devices of this dom0: plug one to read it, use one that is plugged.

A VBD that we make carries our mark. A call that is killed leaves it plugged; the next
call sees the mark, and by the lock that the dead process lost, that it is nobody's.
"""
import contextlib
import errno
import os
import re
import stat
import time

from xenapi_dom0 import failures, locks, paths, xapi
from xenapi_dom0.serve import LOG

INVENTORY = "/etc/xensource-inventory"
MARK = "xenapi-dom0-plugin"  # key in the VBD's other_config, beside the VDI's UUID
UNPLUG_TRIES = 30
UNPLUG_PAUSE = 1.0  # seconds
NODE_PATIENCE = 30.0  # seconds until udev has made a device's node

_UUID = paths.UUID.pattern[:-2]
# What the storage manager, blkfront and XAPI's NBD client call a disk of dom0. A
# disk of the host itself (sda, nvme0n1, dm-0, md0) never has such a name, except for
# xvda in a host that is itself a guest: so a name alone is no proof.
NAME = re.compile(
    r"(sm/backend/%s/%s|xvd[a-z]{1,3}|nbd[0-9]{1,3}|td[a-z]{1,3}"
    r"|xen/blktap-2/tapdev[0-9]{1,4})\Z" % (_UUID, _UUID)
)


def control_domain(session):
    """Return the reference of this dom0's VM.

    Domain 0 is on every host of a pool: only the host's own file tells which is ours.
    """
    try:
        with open(paths.host_path(INVENTORY)) as inventory:
            text = inventory.read()
    except (OSError, UnicodeError) as exc:
        raise failures.Failure(
            failures.COMMAND_FAILED, "read " + INVENTORY, exc
        ) from exc
    match = re.search("^CONTROL_DOMAIN_UUID='?(%s)'?$" % _UUID, text, re.MULTILINE)
    if match is None:
        raise failures.Failure(
            failures.COMMAND_FAILED, "read " + INVENTORY,
            "it does not name the control domain"
        )
    return session.call("VM.get_by_uuid", match.group(1))


@contextlib.contextmanager
def plugged(session, vdi, uuid):
    """Plug a VDI into this dom0, to read, for a ``with``; give its device's path.

    :param session: xapi.Session
    :param vdi: its reference
    """
    vm = control_domain(session)
    with locks.held("plugged", uuid):
        left_overs(session, vm, held=uuid)
        vbd = session.call("VBD.create", {
            "VM": vm, "VDI": vdi, "userdevice": "autodetect", "bootable": False,
            "mode": "RO", "type": "Disk", "unpluggable": True, "empty": False,
            "other_config": {MARK: uuid}, "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        })
        try:
            session.call("VBD.plug", vbd)
            yield _node(session.call("VBD.get_device", vbd))
        finally:
            _remove(session, vbd)


def left_overs(session, vm, held=None, remove=True):
    """Find, and remove, the VBDs that killed calls left plugged into this dom0.

    :param held: UUID of the VDI whose lock is ours already
    :returns: list of the VDIs' UUIDs
    """
    query = 'field "VM" = "%s"' % vm
    found = session.call("VBD.get_all_records_where", query)
    dead = []
    for vbd, record in sorted(found.items()):
        uuid = record["other_config"].get(MARK, "")
        if paths.UUID.match(uuid) is None:
            continue
        with contextlib.ExitStack() as stack:
            if uuid != held:
                try:
                    stack.enter_context(locks.held("plugged", uuid, wait=0))
                except failures.Failure:
                    continue  # its process lives
            dead.append(uuid)
            if remove:
                LOG.warning("Removing the VBD of VDI %s, left by a killed call.", uuid)
                _remove(session, vbd)
    return dead


def _remove(session, vbd):
    """Unplug and destroy a VBD of ours; what cannot be is left to the next call."""
    try:
        _unplug(session, vbd)
        session.call("VBD.destroy", vbd)
    except failures.Failure as exc:
        if not _says(exc, "HANDLE_INVALID"):
            LOG.warning("A VBD of ours stays in dom0: %s %s", exc.code, exc.params)


def _unplug(session, vbd):
    for attempt in range(UNPLUG_TRIES):
        if attempt:
            time.sleep(UNPLUG_PAUSE)
        try:
            session.call("VBD.unplug", vbd)
            return
        except xapi.Refused as exc:
            if _says(exc, "DEVICE_ALREADY_DETACHED"):
                return
            # Somebody, udev most likely, still looks into the device.
            if not _says(exc, "DEVICE_DETACH_REJECTED"):
                raise
    LOG.warning("A device of ours was still in use after %d tries.", UNPLUG_TRIES)


def _says(exc, code):
    return isinstance(exc, xapi.Refused) and exc.error[:1] == [code]


def _node(name):
    """Return the path of a plugged disk's block device, once it is there."""
    if NAME.match(name) is None:
        raise failures.Failure(
            failures.NOT_SUPPORTED, "find a plugged disk in /dev",
            "this host calls it by a name that is not known"
        )
    path = paths.host_path("/dev/" + name)
    deadline = time.monotonic() + NODE_PATIENCE
    while not is_block_device(path):
        if time.monotonic() > deadline:
            raise failures.Failure(
                failures.TIMED_OUT, "the device of a plugged disk", NODE_PATIENCE
            )
        time.sleep(0.05)
    return path


def is_block_device(path):
    """Return whether there is a block device at ``path``."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def writable(session, device):
    """Open a disk that its owner plugged into this dom0; give (path, descriptor).

    It is refused unless XAPI says that it is a VBD of this dom0, plugged for writing,
    and the kernel that nobody has it mounted or built anything on it.

    :param device: ``/dev/...`` as the caller calls it, of the form NAME
    """
    name = device[len("/dev/"):]
    query = 'field "VM" = "%s"' % control_domain(session)
    found = session.call("VBD.get_all_records_where", query)
    ours = [
        record for record in found.values()
        if record["device"] == name and record["currently_attached"]
        and record["mode"] == "RW" and record["type"] == "Disk"
    ]
    if len(ours) != 1:
        raise _not_permitted("it is no disk plugged into this dom0 for writing")
    path = paths.host_path(device)
    with locks.held("device", re.sub("[^A-Za-z0-9-]", "_", name)):
        descriptor = _open(path, 0)
        try:
            os.close(_open(path, os.O_EXCL))
            yield path, descriptor
        finally:
            os.close(descriptor)


def _open(path, more):
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | more)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise _not_permitted("it is mounted or in use") from exc
        raise failures.from_os_error(exc, "open the device", path) from exc
    if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_permitted("it is no block device")
    return descriptor


def _not_permitted(reason):
    return failures.Failure(
        failures.NOT_PERMITTED, "write to the device", reason
    )
