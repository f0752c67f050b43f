# SPDX-License-Identifier: Apache-2.0
"""GET /export and PUT /import: whole VMs as archives, with or without disks."""

from __future__ import annotations

from xenapi_driver.sim.doors.exchange import Exchange, handler
from xenapi_driver.sim.doors.handlers.raw_disks import (
    find,
    redirected,
    refuse_chunks,
)
from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.vms import operations
from xenapi_driver.sim.xva import ova, vm_archive
from xenapi_driver.sim.xva.ova_import import Choices

_PLAIN = "application/octet-stream"
_NAMED = 'attachment; filename="export.xva"'


def _is_set(talk: Exchange, name: str) -> bool:
    return talk.arguments.get(name, "").lower() == "true"


def _vm(talk: Exchange) -> str:
    """Return the VM that is asked for.

    :raises Failure: UUID_INVALID, HANDLE_INVALID
    :raises Refusal: 500, none is asked for
    """
    db, arguments = talk.world.db, talk.arguments
    if "uuid" in arguments:
        return db.by_uuid("VM", arguments["uuid"])
    if "ref" in arguments:
        db.row("VM", arguments["ref"])
        return arguments["ref"]
    raise Refusal(500, "Not_found")


def _head(talk: Exchange) -> dict[str, str]:
    db = talk.world.db
    version = db.row("host", talk.machine.host)["software_version"].get("xapi", "")
    return {
        "Server": f"xapi/{version}",
        "content-type": _PLAIN,
        "Content-Disposition": _NAMED,
    }


@handler("GET", "/export")
def export(talk: Exchange) -> None:
    """Answer with a halted or suspended VM and its disks."""
    talk.session()
    vm = _vm(talk)
    if _is_set(talk, "export_metadata"):
        _send_records(talk, [vm])
        return
    with (
        talk.transfer("Exporting VM") as work,
        operations.meanwhile(work.call, vm, "export"),
    ):
        keep = _is_set(talk, "preserve_power_state")
        talk.begin(200, _head(talk))
        if talk.arguments.get("use_compression", "") not in ("true", "gzip"):
            vm_archive.send(work.call, vm, talk.write, keep)
            return
        packer = vm_archive.Gzip(talk.write)
        vm_archive.send(work.call, vm, packer.put, keep)
        packer.finish()


@handler("GET", "/export_metadata")
def export_metadata(talk: Exchange) -> None:
    """Answer with the records of a VM, or of all VMs."""
    talk.session()
    db = talk.world.db
    if not _is_set(talk, "all"):
        _send_records(talk, [_vm(talk)])
        return
    with db.changed:
        vms = [
            ref
            for ref, row in db.rows("VM")
            if not row["is_a_snapshot"]
            and not row["is_default_template"]
            and (not row["is_control_domain"] or _is_set(talk, "include_dom0"))
        ]
    _send_records(talk, vms)


def _send_records(talk: Exchange, vms: list[str]) -> None:
    wishes = ova.Wishes(
        snapshots=_is_set(talk, "all") or _is_set(talk, "export_snapshots"),
        keep_state=_is_set(talk, "preserve_power_state"),
    )
    with talk.transfer("Exporting VM metadata") as work:
        archive = vm_archive.records(work.call, vms, wishes)
        talk.begin(200, {**_head(talk), "Content-Length": str(len(archive))})
        talk.write(archive)


def _target(talk: Exchange) -> str:
    """Return the SR for the disks of an import.

    :raises Refusal: 500, there is none of this name
    :raises Failure: DEFAULT_SR_NOT_FOUND
    """
    db, arguments = talk.world.db, talk.arguments
    given = arguments.get("sr_id") or arguments.get("sr_uuid")
    if given:
        return find(db, "SR", given)
    sr = db.row("pool", db.refs("pool")[0])["default_SR"]
    if not db.exists("SR", sr):
        raise Failure("DEFAULT_SR_NOT_FOUND", sr)
    return str(sr)


@handler("PUT", "/import")
def import_vm(talk: Exchange) -> None:
    """Make the VMs of an archive; the answer comes before it is read."""
    talk.session()
    refuse_chunks(talk)
    sr = _target(talk)
    if redirected(talk, sr):
        return
    choices = Choices(sr, _is_set(talk, "restore"), _is_set(talk, "force"))
    with talk.transfer("Importing VM") as work:
        talk.begin(200, {"content-type": _PLAIN})
        work.result = vm_archive.receive(work.call, talk.body, choices)


@handler("PUT", "/import_metadata")
def import_metadata(talk: Exchange) -> None:
    """Make VMs from records; their disks must be here."""
    talk.session()
    refuse_chunks(talk)
    choices = Choices("", _is_set(talk, "restore"), _is_set(talk, "force"))
    dry = _is_set(talk, "dry_run")
    with talk.transfer("Importing VM metadata") as work:
        talk.begin(200, {"content-type": _PLAIN})
        work.result = vm_archive.receive_records(work.call, talk.body, choices, dry)
