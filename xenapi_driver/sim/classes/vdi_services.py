# SPDX-License-Identifier: Apache-2.0
"""Class VDI: what storage drivers offer beyond making and removing disks."""

import hashlib
import uuid as uuidlib
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.storage import disk_transfer, disks, sr_kinds
from xenapi_driver.sim.storage.vhd_store import SrStore


@message("VDI.checksum", blocking=True)
def checksum(call: Call, ref: str) -> str:
    """Return the MD5 of all that the disk holds."""
    found = hashlib.md5(usedforsecurity=False)
    with disk_transfer.opened(disk_transfer.place_of(call, ref)) as disk:
        disk_transfer.send_raw(call, disk, found.update)
    return found.hexdigest()


@message("VDI.generate_config")
def generate_config(call: Call, host: str, ref: str) -> str:
    """Return what a kernel needs to attach the disk by itself: nothing here."""
    row = call.db.row("VDI", ref)
    sr_kinds.require_feature(call.db, row["SR"], "VDI_GENERATE_CONFIG")
    disks.require_attached(call.world, row["SR"])
    return ""


@message("VDI.read_database_pool_uuid")
def read_database_pool_uuid(call: Call, ref: str) -> str:
    """Return whose database a metadata disk holds: nobody's here."""
    return ""


@message("VDI.open_database")
def open_database(call: Call, ref: str) -> str:
    """Refuse: no disk here holds a pool's database."""
    raise disks.wrong_kind(ref, call.db.row("VDI", ref))


@message("VDI.force_unlock")
def force_unlock(call: Call, ref: str) -> None:
    """Refuse: the call is of an older API."""
    raise Failure("MESSAGE_DEPRECATED")


@message("VDI.revert")
def revert(call: Call, ref: str) -> None:
    """Refuse: no driver here rolls a disk back in place."""
    raise Failure("SR_OPERATION_NOT_SUPPORTED", call.db.row("VDI", ref)["SR"])


@message(
    "VDI.db_introduce",
    "VDI.pool_introduce",
    "VDI.db_forget",
    "VDI.set_is_a_snapshot",
    "VDI.set_snapshot_of",
    "VDI.set_snapshot_time",
    "VDI.set_metadata_of_pool",
    "VDI.set_cbt_enabled",
)
def driver_only(call: Call, *arguments: object) -> None:
    """Refuse: storage drivers call these."""
    raise Failure("PERMISSION_DENIED", "")


@message("VDI.introduce")
def introduce(call: Call, uuid: str, *about: Any) -> str:
    """Take a disk that is on the SR already into the database."""
    label, description, sr, kind, sharable, read_only, config, location = about[:8]
    xenstore, sm_config, _managed, size = about[8:12]
    db = call.db
    db.row("SR", sr)
    sr_kinds.require_feature(db, sr, "VDI_INTRODUCE")
    disks.require_attached(call.world, sr)
    try:
        wanted = str(uuidlib.UUID(uuid)) if uuid else db.new_uuid()
    except ValueError:
        raise Failure("UUID_INVALID", "VDI", uuid) from None
    store = call.world.stores.get(sr)
    place = wanted if isinstance(store, SrStore) else location
    if db.find("VDI", SR=sr, location=place):
        raise Failure("LOCATION_NOT_UNIQUE", sr, place)
    if store is not None:
        with disks.backend_errors():
            size = store.virtual_size(place)
    return db.create(
        "VDI",
        {
            "uuid": wanted,
            "name_label": label,
            "name_description": description,
            "SR": sr,
            "type": kind,
            "sharable": sharable,
            "read_only": read_only,
            "other_config": config,
            "location": place,
            "xenstore_data": xenstore,
            "sm_config": sm_config,
            "managed": True,
            "virtual_size": size,
        },
    )
