# SPDX-License-Identifier: Apache-2.0
"""Class VM: clones, copies, and VMs made from templates."""

import contextlib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from xenapi_driver.sim.classes import vbd, vdi
from xenapi_driver.sim.failure import Failure, internal_error
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.vms import history, operations, vm_copies

_NO_ISO = "Cannot copy a VM's disks to an ISO SR"


@message("VM.clone", blocking=True)
def clone(call: Call, ref: str, name: str) -> str:
    """Make a VM like this one on copy-on-write disks."""
    with operations.under_way(call, ref, "clone"):
        new = vm_copies.copy_record(call, ref, name, {"parent": NULL})
        _fill(call, ref, new, lambda disk: vdi.clone(call, disk, {}))
        _tell(call, ref, new)
        return new


@message("VM.copy", blocking=True)
def copy(call: Call, ref: str, name: str, sr: str) -> str:
    """Make a VM like this one on full copies of its disks.

    The disks go beside their sources unless an SR is named that exists.
    """
    db = call.db

    def derive(disk: str) -> str:
        target = sr if db.exists("SR", sr) else db.row("VDI", disk)["SR"]
        return vdi.copy(call, disk, target, NULL, NULL)

    with operations.meanwhile(call, ref, "copy"):
        if db.exists("SR", sr) and db.row("SR", sr)["content_type"] == "iso":
            raise Failure("OPERATION_NOT_ALLOWED", _NO_ISO)
        with db.changed:
            new = vm_copies.copy_record(call, ref, name, {"parent": NULL})
        _fill(call, ref, new, derive)
        with db.changed:
            _tell(call, ref, new)
        return new


def _tell(call: Call, source: str, new: str) -> None:
    row = call.db.row("VM", new)
    what = f"cloned as VM '{row['name_label']}' (uuid: {row['uuid']})"
    history.tell(call.db, source, "VM_CLONED", what)


def _fill(call: Call, source: str, new: str, derive: vm_copies.Derive) -> None:
    """Give a new VM its disks; without them it is no VM."""
    try:
        vm_copies.copy_disks(call, source, new, derive)
        with call.db.changed:
            vm_copies.copy_image(call, source, new)
    except Failure:
        with call.db.changed:
            vm_copies.discard_all(call, new)
        raise


# Templates


@dataclass(frozen=True)
class Disk:
    """A disk that a template asks for in ``other_config:disks``.

    :ivar size: bytes
    :ivar sr: reference
    """

    device: str
    size: int
    sr: str
    bootable: bool
    type: str


def _wanted(call: Call, text: str) -> list[Disk]:
    """Read what disks a template asks for.

    :raises Failure: UUID_INVALID, INTERNAL_ERROR
    """
    found = []
    try:
        for node in ElementTree.fromstring(text).iter("disk"):  # noqa: S314
            sr = node.attrib["sr"]
            disk = Disk(
                device=node.attrib["device"],
                size=int(node.attrib["size"]),
                sr=_sr(call, sr),
                bootable=node.attrib["bootable"] == "true",
                type=node.attrib["type"],
            )
            found.append(disk)
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise internal_error(f"Xml_light_error.Error({error})") from error
    return found


def _sr(call: Call, uuid: str) -> str:
    """Return the SR of a uuid; none names the pool's default SR."""
    if not uuid:
        default = call.db.row("pool", call.db.refs("pool")[0])["default_SR"]
        if call.db.exists("SR", default):
            return str(default)
    found = call.db.find("SR", uuid=uuid)
    if not found:
        raise Failure("UUID_INVALID", "sr", uuid)
    return found[0]


@message("VM.provision")
def provision(call: Call, ref: str) -> None:
    """Turn a clone of a template into a VM, with the disks that it asks for.

    As on real hosts it is a VM from the first step on, also if a disk fails.
    """
    db = call.db
    with operations.under_way(call, ref, "provision") as row:
        db.update("VM", ref, is_a_template=False)
        text = row["other_config"].get("disks")
        if text is None:
            return
        wanted = _wanted(call, text)
        made: list[str] = []
        try:
            for disk in wanted:
                made.append(_make_disk(call, ref, disk))
        except Failure:
            for vdi_ref in made:
                with contextlib.suppress(Failure):
                    vdi.destroy(call, vdi_ref)
            raise
        config = {k: v for k, v in row["other_config"].items() if k != "disks"}
        db.update("VM", ref, other_config=config)


def _make_disk(call: Call, vm: str, disk: Disk) -> str:
    new = vdi.create(
        call,
        {
            "name_label": disk.device,
            "name_description": "Created by template provisioner",
            "SR": disk.sr,
            "virtual_size": disk.size,
            "type": disk.type,
            "sm_config": {"vmhint": call.db.row("VM", vm)["uuid"]},
        },
    )
    drive = {
        "VM": vm,
        "VDI": new,
        "userdevice": disk.device,
        "bootable": disk.bootable,
        "mode": "RW",
        "type": "Disk",
        "empty": False,
        "unpluggable": False,
        "other_config": {"owner": ""},
    }
    try:
        vbd.create(call, drive)
    except Failure:
        vdi.destroy(call, new)
        raise
    return new
