# SPDX-License-Identifier: Apache-2.0
"""Class SR: where disks live."""

from xenapi_driver.sim.classes import pbd
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.storage import disks, sr_attach, sr_kinds

_ALWAYS = ("unplug", "plug", "pbd_create", "pbd_destroy", "scan", "vdi_clone")
# Operations that need something of the driver.
_BY_FEATURE = {
    "update": "SR_UPDATE",
    "vdi_create": "VDI_CREATE",
    "vdi_destroy": "VDI_DELETE",
    "vdi_introduce": "VDI_INTRODUCE",
    "vdi_resize": "VDI_RESIZE",
    "vdi_snapshot": "VDI_SNAPSHOT",
    "vdi_mirror": "VDI_MIRROR",
    "vdi_set_on_boot": "VDI_RESET_ON_BOOT",
    "vdi_enable_cbt": "VDI_CONFIG_CBT",
    "vdi_disable_cbt": "VDI_CONFIG_CBT",
    "vdi_data_destroy": "VDI_CONFIG_CBT",
    "vdi_list_changed_blocks": "VDI_CONFIG_CBT",
}


@computed("SR", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what the SR's driver and its connections allow."""
    driver = sr_kinds.features(row)
    found = [*_ALWAYS, *(op for op, need in _BY_FEATURE.items() if need in driver)]
    if not _plugged(db, row):
        found.append("forget")
        if row["PBDs"] and not _disks(db, row):
            found.append("destroy")
    return found


def _plugged(db: Registry, row: Row) -> list[str]:
    return [pbd for pbd in row["PBDs"] if db.row("PBD", pbd)["currently_attached"]]


def _disks(db: Registry, row: Row) -> list[str]:
    """Return the disks that keep an SR from being destroyed."""
    return [vdi for vdi in row["VDIs"] if db.row("VDI", vdi)["managed"]]


@message("SR.create", missing="HOST_OFFLINE")
def create(call: Call, host: str, config: dict[str, str], *about: object) -> str:
    """Make storage, its SR and its connections, and plug them."""
    size, label, description, kind, content, shared, sm_config = about
    db = call.db
    name = str(kind).lower()
    if name not in sr_kinds.KINDS:
        raise Failure("SR_UNKNOWN_DRIVER", str(kind))
    sr_kinds.check_config(name, config)
    sr = db.create(
        "SR",
        {
            "name_label": label,
            "name_description": description,
            "type": name,
            "content_type": content,
            "shared": shared,
            "sm_config": sm_config,
            "physical_size": size,
        },
    )
    stored = pbd.keep_secrets(call, config)
    for each in db.refs("host") if shared else [host]:
        values = {"host": each, "SR": sr, "device_config": stored}
        db.create("PBD", {**values, "currently_attached": True})
    try:
        sr_attach.attach(call.world, sr, config)
    except Failure:
        for connection in db.row("SR", sr)["PBDs"]:
            db.destroy("PBD", connection)
        db.destroy("SR", sr)
        raise
    return sr


@message("SR.introduce")
def introduce(call: Call, uuid: str, label: str, *about: object) -> str:
    """Make an SR for storage that is there already; nothing is connected yet."""
    description, kind, content, shared, sm_config = about
    db = call.db
    if uuid and db.find("SR", uuid=uuid):
        raise Failure("SR_UUID_EXISTS", uuid)
    return db.create(
        "SR",
        {
            "uuid": uuid or db.new_uuid(),
            "name_label": label,
            "name_description": description,
            "type": str(kind).lower(),
            "content_type": content,
            "shared": shared,
            "sm_config": sm_config,
            "physical_size": -1,
            "physical_utilisation": -1,
        },
    )


@message("SR.make")
def make(call: Call, *arguments: object) -> None:
    """Refuse: the call is of an older API."""
    raise Failure("MESSAGE_DEPRECATED")


@message("SR.probe", missing="HOST_OFFLINE")
def probe(
    call: Call, host: str, config: dict[str, str], kind: str, sm_config: dict[str, str]
) -> str:
    """Look for SRs at a place."""
    name = kind.lower()
    if name not in sr_kinds.KINDS:
        raise Failure("SR_UNKNOWN_DRIVER", kind)
    if "SR_PROBE" not in sr_kinds.KINDS[name].features:
        raise Failure("SR_OPERATION_NOT_SUPPORTED", name)
    return sr_attach.probe(call.world, name, config)


@message("SR.probe_ext", missing="HOST_OFFLINE")
def probe_ext(call: Call, host: str, *arguments: object) -> None:
    """Refuse: only drivers of the newer interface answer in records."""
    raise Failure("SR_OPERATION_NOT_SUPPORTED")


@message("SR.scan")
def scan(call: Call, ref: str) -> None:
    """Take disks that appeared on the SR into the database, drop vanished ones.

    It also has the storage manager collect its garbage.
    """
    disks.require_attached(call.world, ref)
    disks.scan(call.world, ref)
    call.world.collect(ref)


@message("SR.update")
def update(call: Call, ref: str) -> None:
    """Read the SR's size again."""
    sr_kinds.require_feature(call.db, ref, "SR_UPDATE")
    disks.require_attached(call.world, ref)
    disks.refresh(call.world, ref)


@message("SR.get_supported_types")
def get_supported_types(call: Call) -> list[str]:
    """Return the types that a driver is installed for."""
    return [row["type"] for _, row in call.db.rows("SM")]


@message("SR.set_name_label")
def set_name_label(call: Call, ref: str, value: str) -> None:
    """Rename the SR; a host that reaches it carries it out."""
    disks.require_attached(call.world, ref)
    call.db.update("SR", ref, name_label=value)


@message("SR.set_name_description")
def set_name_description(call: Call, ref: str, value: str) -> None:
    """Describe the SR; a host that reaches it carries it out."""
    disks.require_attached(call.world, ref)
    call.db.update("SR", ref, name_description=value)


@message("SR.set_shared")
def set_shared(call: Call, ref: str, value: bool) -> None:
    """Say whether several hosts may reach the SR; never fewer than do."""
    pbds = call.db.row("SR", ref)["PBDs"]
    if not value and len(pbds) > 1:
        raise Failure("SR_HAS_MULTIPLE_PBDS", ref)
    call.db.update("SR", ref, shared=value)


@message(
    "SR.set_physical_size",
    "SR.set_virtual_allocation",
    "SR.set_physical_utilisation",
)
def driver_only(call: Call, ref: str, value: int) -> None:
    """Refuse: storage drivers set these."""
    raise Failure("PERMISSION_DENIED", "")


def _remove(call: Call, ref: str) -> None:
    """Take the SR with its disks and connections out of the database."""
    row = call.db.row("SR", ref)
    for vdi in row["VDIs"]:
        disks.drop(call.world, vdi)
    for connection in call.db.row("SR", ref)["PBDs"]:
        call.db.destroy("PBD", connection)
    call.db.destroy("SR", ref)


def _require_unplugged(db: Registry, ref: str) -> Row:
    row = db.row("SR", ref)
    if _plugged(db, row):
        raise Failure("SR_HAS_PBD", ref)
    return row


@message("SR.forget")
def forget(call: Call, ref: str) -> None:
    """Remove the SR from the database; nothing may be plugged."""
    _require_unplugged(call.db, ref)
    _remove(call, ref)
    sr_attach.forget(call.world, ref)


@message("SR.destroy")
def destroy(call: Call, ref: str) -> None:
    """Remove the SR and what it holds; it must be empty and unplugged."""
    row = _require_unplugged(call.db, ref)
    if not row["PBDs"]:
        raise Failure("SR_HAS_NO_PBDS", ref)
    if _disks(call.db, row):
        raise Failure("SR_NOT_EMPTY")
    if row["other_config"].get("indestructible") == "true":
        raise Failure("SR_INDESTRUCTIBLE", ref)
    sr_attach.wipe(call.world, ref)
    _remove(call, ref)


@message("SR.assert_can_host_ha_statefile")
def assert_can_host_ha_statefile(call: Call, ref: str) -> None:
    """Refuse an SR on which no file of HA can be kept."""
    sr_kinds.require_feature(call.db, ref, "VDI_CREATE")


@message(
    "SR.assert_supports_database_replication",
    "SR.enable_database_replication",
    "SR.disable_database_replication",
)
def replicate_database(call: Call, ref: str) -> None:
    """Refuse: no driver here can hold a copy of the pool's database."""
    raise Failure("SR_OPERATION_NOT_SUPPORTED", ref)


@message("SR.get_data_sources")
def get_data_sources(call: Call, ref: str) -> list[dict[str, str]]:
    """Return nothing: the drivers here measure nothing."""
    return []


@message("SR.get_live_hosts")
def get_live_hosts(call: Call, ref: str) -> list[str]:
    """Return the hosts that reach the SR now."""
    db = call.db
    return [db.row("PBD", one)["host"] for one in _plugged(db, db.row("SR", ref))]
