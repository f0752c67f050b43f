# SPDX-License-Identifier: Apache-2.0
"""Class VDI: what backups use: changed blocks, snapshots without data, NBD."""

import base64
from typing import Any

from xenapi_driver.sim.classes import vdi
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import HANDLERS, Call, message
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.storage import cbt, disks, sr_kinds

_TRACKED = ("user", "system")
_PURPOSES = ("nbd", "insecure_nbd")
_NBD_PORT = 10809


def _trackable(call: Call, ref: str) -> Row:
    """Return a disk whose changes can be noted.

    :raises Failure: SR_OPERATION_NOT_SUPPORTED, OPERATION_NOT_ALLOWED,
        VDI_INCOMPATIBLE_TYPE, VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION
    """
    row = call.db.row("VDI", ref)
    if row["is_a_snapshot"]:
        raise Failure("OPERATION_NOT_ALLOWED", f"VDI is a snapshot: {ref}")
    if row["type"] not in _TRACKED:
        raise disks.wrong_kind(ref, row)
    if row["on_boot"] == "reset":
        raise Failure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    sr_kinds.require_feature(call.db, row["SR"], "VDI_CONFIG_CBT")
    return row


@message("VDI.enable_cbt")
def enable_cbt(call: Call, ref: str) -> None:
    """Begin to note which blocks change."""
    row = _trackable(call, ref)
    store = disks.vhds_of(call.world, row["SR"])
    cbt.begin(store.path_of(row["location"]), row["virtual_size"])
    call.db.update("VDI", ref, cbt_enabled=True)


@message("VDI.disable_cbt")
def disable_cbt(call: Call, ref: str) -> None:
    """Note no changes any more."""
    _trackable(call, ref)
    log = disks.log_path(call.world, ref)
    if log is not None:
        cbt.end(log)
    call.db.update("VDI", ref, cbt_enabled=False)


@message("VDI.list_changed_blocks")
def list_changed_blocks(call: Call, ref: str, other: str) -> str:
    """Return, as base64, a bit for each 64 KiB: whether it changed between two disks.

    The first is the earlier one; either may have lost its data.
    """
    first, last = call.db.row("VDI", ref), call.db.row("VDI", other)
    store = disks.vhds_of(call.world, first["SR"])
    try:
        if last["SR"] != first["SR"]:
            raise cbt.BadLog("Source and target VDI are unrelated")
        places = [store.path_of(row["location"]) for row in (first, last)]
        return base64.b64encode(cbt.changed(*places)).decode()
    except cbt.BadLog as error:
        text = f"Failed to compute changed blocks for given VDIs [opterr={error}]"
        raise Failure("SR_BACKEND_FAILURE_460", "", text, "") from error


@message("VDI.data_destroy")
def data_destroy(call: Call, ref: str) -> None:
    """Drop a snapshot's data and keep what is known of its changes."""
    row = call.db.row("VDI", ref)
    if not row["is_a_snapshot"]:
        raise Failure("OPERATION_NOT_ALLOWED", f"VDI is not a snapshot: {ref}")
    if not row["cbt_enabled"]:
        raise Failure("VDI_NO_CBT_METADATA", ref)
    vdi.require_unused(call, ref, "data_destroy")
    if row["type"] == "cbt_metadata":
        return
    store = disks.store_of(call.world, row["SR"], "VDI_DELETE")
    with disks.backend_errors("SR_BACKEND_FAILURE_80"):
        store.destroy(row["location"])
    for vbd in list(row["VBDs"]):
        call.db.destroy("VBD", vbd)
    size = row["physical_utilisation"]
    call.db.update("VDI", ref, type="cbt_metadata", physical_utilisation=0)
    disks.gone(call.world, row["SR"], size)
    call.world.collect(row["SR"])


@message("VDI.get_nbd_info")
def get_nbd_info(call: Call, ref: str) -> list[dict[str, Any]]:
    """Return where the disk could be read over NBD.

    That is every address of a host with the SR, on a network with such a purpose.
    """
    db = call.db
    row = db.row("VDI", ref)
    if row["type"] == "cbt_metadata":
        raise disks.wrong_kind(ref, row)
    found = []
    for pbd in db.find("PBD", SR=row["SR"], currently_attached=True):
        host = db.row("PBD", pbd)["host"]
        for pif in db.find("PIF", host=host, currently_attached=True):
            found += _at(call, row, host, db.row("PIF", pif))
    return found


def _at(call: Call, disk: Row, host: str, pif: Row) -> list[dict[str, Any]]:
    db = call.db
    purpose = set(db.row("network", pif["network"])["purpose"])
    if not purpose.intersection(_PURPOSES):
        return []
    shown = HANDLERS["host.get_server_certificate"].function(call, host)
    return [
        {
            "exportname": f"/{disk['uuid']}?session_id={call.session}",
            "address": address.partition("/")[0],
            "port": _NBD_PORT,
            "cert": shown,
            "subject": db.row("host", host)["hostname"],
        }
        for address in (pif["IP"], *pif["IPv6"])
        if address
    ]
