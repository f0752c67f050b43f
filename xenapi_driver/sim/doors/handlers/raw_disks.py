# SPDX-License-Identifier: Apache-2.0
"""PUT /import_raw_vdi and GET /export_raw_vdi: one disk as a stream.

An import answers 200 before it has read anything: whether it went well, the task says.
"""

from __future__ import annotations

from xenapi_driver.sim.classes import vdi as vdi_class
from xenapi_driver.sim.doors.exchange import Exchange, handler
from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.storage import disk_transfer, disks
from xenapi_driver.sim.storage.disk_transfer import Place
from xenapi_driver.sim.xva import xva_disks

# Format to content type and the ending of the proposed file name.
_FORMATS = {
    "raw": ("application/octet-stream", "raw"),
    "vhd": ("application/vhd", "vhd"),
    "qcow2": ("application/x-qemu-disk", "qcow2"),
    "tar": ("application/x-tar", "tar"),
}
_PLAIN = "application/octet-stream"


def find(db: Registry, cls: str, given: str) -> str:
    """Return the object that a reference or uuid names.

    :raises Refusal: 500, there is none
    """
    if db.exists(cls, given):
        return given
    found = db.find(cls, uuid=given)
    if not found:
        raise Refusal(500, f'Db_exn.Read_missing_uuid("{cls}", "", "{given}")')
    return found[0]


def redirected(talk: Exchange, sr: str) -> bool:
    """Send the caller to a host that has an SR plugged, if this one has not.

    :raises Failure: SR_HAS_NO_PBDS
    """
    db = talk.world.db
    with db.changed:
        plugged = db.find("PBD", SR=sr, currently_attached=True)
        hosts = [db.row("PBD", pbd)["host"] for pbd in plugged]
        if not hosts:
            raise Failure("SR_HAS_NO_PBDS", sr)
        if talk.machine.host in hosts:
            return False
        address = db.row("host", hosts[0])["address"]
    talk.redirect(address)
    return True


def refuse_chunks(talk: Exchange) -> None:
    """Refuse a body in HTTP's own chunks: hosts cannot read them.

    :raises Refusal: 403
    """
    if talk.request.is_chunked:
        raise Refusal(403)


@handler("PUT", "/import_raw_vdi")
def import_raw_vdi(talk: Exchange) -> None:
    """Write the body into a disk, or into a new one of an SR."""
    talk.session()
    refuse_chunks(talk)
    db, arguments = talk.world.db, talk.arguments
    vdi = sr = ""
    if "vdi" in arguments:
        vdi = find(db, "VDI", arguments["vdi"])
        sr = db.row("VDI", vdi)["SR"]
    elif "sr_id" in arguments or "sr_uuid" in arguments:
        sr = find(db, "SR", arguments.get("sr_id") or arguments["sr_uuid"])
    else:
        raise Refusal(500, 'Failure("Missing vdi query parameter")')
    kind = arguments.get("format", "raw")
    if kind not in _FORMATS:
        talk.begin(404)
        return
    if redirected(talk, sr):
        return
    try:
        with talk.transfer("Importing raw VDI") as work:
            talk.begin(200, {"content-type": _PLAIN})
            work.result = _receive(talk, work.call, (vdi, sr), kind)
    except Failure as failure:
        # The task says it; the client meets a connection that was cut, unless it was
        # the disk that was not ready.
        if failure.code in ("VDI_IN_USE", "VDI_READONLY"):
            while talk.body.read(disk_transfer.STEP):
                pass


def _receive(talk: Exchange, call: Call, target: tuple[str, str], kind: str) -> str:
    vdi, sr = target
    made = ""
    if not vdi:
        vdi = made = _new_disk(talk, call, sr, kind)
    try:
        with disk_transfer.held(call, vdi) as place:
            _write(talk, call, place, kind)
    except BaseException:
        if made:
            with call.db.changed:
                vdi_class.destroy(call, made)
        raise
    finally:
        with call.db.changed:
            if call.db.exists("VDI", vdi):
                disks.note(call.world, sr, call.db.row("VDI", vdi)["location"])
    return vdi


def _write(talk: Exchange, call: Call, place: Place, kind: str) -> None:
    if kind == "vhd":
        disk_transfer.receive_vhd(call, place, talk.body)
    elif kind == "qcow2":
        disk_transfer.receive_qcow2(call, place, talk.body)
    elif kind == "tar":
        xva_disks.receive_tar(call, place, talk.body)
    elif talk.arguments.get("chunked", "false") != "false":
        disk_transfer.receive_pieces(call, place, talk.body)
    else:
        disk_transfer.receive_raw(call, place, talk.body)


def _new_disk(talk: Exchange, call: Call, sr: str, kind: str) -> str:
    """Make the disk for content that was given an SR only; its size must be told."""
    length = talk.body.length
    if kind != "raw" or length is None:
        raise disk_transfer.io_error()
    with call.db.changed:
        about = call.db.schema.classes["VDI"].fields
        record = {
            name: field.initial()
            for name, field in about.items()
            if field.qualifier != "D" and field.flag != "internal"
        }
        record.update(
            name_label="Imported VDI", SR=sr, virtual_size=length, type="user"
        )
        return vdi_class.create(call, record)


@handler("GET", "/export_raw_vdi")
def export_raw_vdi(talk: Exchange) -> None:
    """Answer with what a disk holds."""
    talk.session()
    db, arguments = talk.world.db, talk.arguments
    if "vdi" not in arguments:
        raise Refusal(500, 'Failure("Missing vdi query parameter")')
    vdi = find(db, "VDI", arguments["vdi"])
    base = find(db, "VDI", arguments["base"]) if "base" in arguments else ""
    kind = arguments.get("format", "raw")
    if kind not in _FORMATS:
        talk.begin(404)
        return
    if redirected(talk, db.row("VDI", vdi)["SR"]):
        return
    content_type, ending = _FORMATS[kind]
    with talk.transfer("Exporting raw VDI") as work:
        place = disk_transfer.place_of(work.call, vdi)
        older = disk_transfer.place_of(work.call, base) if base else None
        with disk_transfer.opened(place) as disk:
            name = f"{place.uuid}.{ending}"
            talk.begin(
                200,
                {
                    "content-type": content_type,
                    "content-disposition": f'attachment; filename="{name}"',
                },
            )
            if kind == "vhd":
                disk_transfer.send_vhd(work.call, disk, talk.write, older)
            elif kind == "qcow2":
                disk_transfer.send_qcow2(work.call, disk, talk.write)
            elif kind == "tar":
                xva_disks.send_tar(work.call, disk, talk.write)
            else:
                disk_transfer.send_raw(work.call, disk, talk.write)
