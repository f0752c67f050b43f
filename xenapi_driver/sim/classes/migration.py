# SPDX-License-Identifier: Apache-2.0
"""Class VM: moving to another host, inside the pool or to another pool."""

from xenapi_driver.sim import exodus, guests, states, tasks
from xenapi_driver.sim.failure import Failure, handle_invalid, internal_error
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.world import World, now

# What the driver of an SR must be able to do for disks to be moved to it.
_NEEDED = ("VDI_SNAPSHOT", "VDI_MIRROR")
_MOVABLE = ("nfs", "ext", "lvm", "lvmoiscsi", "lvmohba", "smb", "file", "dummy")


@message("VM.pool_migrate")
def pool_migrate(call: Call, vm: str, host: str, options: dict[str, str]) -> None:
    """Move a running guest to another host that sees its disks and networks."""
    row = call.db.row("VM", vm)
    states.require_state(vm, row, "pool_migrate")
    if not call.db.exists("host", host):
        raise handle_invalid("host", host)
    if host != row["resident_on"]:
        check_host(call.world, vm, host)
    call.check_cancelled()
    move(call, vm, host)


def check_host(world: World, vm: str, host: str) -> None:
    """Make the checks of a live migration.

    :raises Failure: the first that fails
    """
    guests.assert_can_boot(world, vm, host)
    if not states.has_drivers(world.db, world.db.row("VM", vm)):
        raise Failure("VM_LACKS_FEATURE", vm)


def move(call: Call, vm: str, host: str) -> None:
    """Let a guest go on on another host: a new domain, the same guest."""
    tasks.set_progress(call, 0.5)
    guests.resettle(call.world, vm, host)


# storage goes with the guest


@message("host.migrate_receive", missing="HOST_OFFLINE")
def migrate_receive(
    call: Call, host: str, network: str, options: dict[str, str]
) -> dict[str, str]:
    """Open the host to a guest from elsewhere and return how to send it."""
    db = call.db
    row = db.row("network", network)
    pifs = [pif for pif in row["PIFs"] if db.row("PIF", pif)["host"] == host]
    if not pifs:
        raise Failure("HOST_CANNOT_ATTACH_NETWORK", host, network)
    pif = db.row("PIF", pifs[0])
    if pif["ip_configuration_mode"] == "None":
        raise Failure("PIF_HAS_NO_NETWORK_CONFIGURATION", pifs[0])
    if not pif["IP"]:
        raise Failure("INTERFACE_HAS_NO_IP", pif["device"])
    session = db.create(
        "session",
        {
            "this_host": host,
            "is_local_superuser": True,
            "last_active": now(),
            "validation_time": now(),
            "originator": "xapi",
        },
    )
    master = db.row("host", call.world.coordinator)["address"]
    base = f"http://{pif['IP']}/services"
    return {
        "SM": f"{base}/SM?session_id={session}",
        "host": host,
        "xenops": f"{base}/xenops?session_id={session}",
        "session_id": session,
        "master": f"http://{master}",
    }


def _destination(call: Call, dest: dict[str, str]) -> tuple[World, str]:
    """Return pool and host that a migrate_receive answered for.

    :raises Failure: INTERNAL_ERROR where keys lack, or what the session says
    """
    try:
        session, host = dest["session_id"], dest["host"]
        for key in ("SM", "xenops", "master"):
            dest[key]
    except KeyError:
        raise internal_error("Not_found") from None
    for world in call.world.neighbours():
        if world.db.exists("session", session):
            if not world.db.exists("host", host):
                raise handle_invalid("host", host)
            return world, host
    raise Failure("SESSION_INVALID", session)


@message("VM.assert_can_migrate", blocking=True)
def assert_can_migrate(
    call: Call, vm: str, dest: dict[str, str], live: bool, *more: dict[str, str]
) -> None:
    """Make the checks of migrate_send."""
    _plan(call, vm, dest, more)


@message("VM.assert_can_migrate_sender")
def assert_can_migrate_sender(call: Call, vm: str, *arguments: object) -> None:
    """Let it pass: what the sender checks, the receiver checks as well."""


@message("VM.migrate_send", blocking=True)
def migrate_send(
    call: Call, vm: str, dest: dict[str, str], live: bool, *more: dict[str, str]
) -> str:
    """Move a VM with its disks, or copy a halted one; return the new reference."""
    plan = _plan(call, vm, dest, more)
    call.check_cancelled()
    if plan.world is call.world and not plan.copy:
        return _within_pool(call, vm, plan)
    tasks.set_progress(call, 0.1)
    return exodus.send(call, vm, plan)


def _plan(
    call: Call, vm: str, dest: dict[str, str], more: tuple[dict[str, str], ...]
) -> exodus.Way:
    """Check a migration and return it.

    :raises Failure: the first check that fails
    """
    disks, networks, options = more[:3]
    with call.db.changed:
        row = call.db.row("VM", vm)
        states.require_state(vm, row, "migrate_send")
        world, host = _destination(call, dest)
        copy = options.get("copy") == "true"
        if copy and row["power_state"] != "Halted":
            state = row["power_state"].lower()
            raise Failure("VM_BAD_POWER_STATE", vm, "halted", state)
        if row["platform"].get("nomigrate") == "true":
            raise Failure("VM_HAS_NO_MIGRATE", vm)
        _check_disks(call.db, row, disks)
        within = world is call.world
        if within and networks and not copy:
            text = "VIF mapping is not allowed for intra-pool migration"
            raise Failure("OPERATION_NOT_ALLOWED", text)
        if not within:
            for vif in row["VIFs"]:
                if vif not in networks:
                    raise Failure("VIF_NOT_IN_MAP", vif)
        if row["power_state"] == "Running" and not states.has_drivers(call.db, row):
            raise Failure("VM_LACKS_FEATURE", vm)
    with world.db.changed:
        _check_there(world, host, disks, networks)
    return exodus.Way(world, host, dict(disks), dict(networks), copy)


def _check_disks(db: Registry, row: Row, disks: dict[str, str]) -> None:
    for vdi in exodus.disks_of(db, row):
        if vdi not in disks:
            raise Failure("VDI_NOT_IN_MAP", vdi)
        if db.row("VDI", vdi)["cbt_enabled"]:
            raise Failure("VDI_CBT_ENABLED", vdi)
    for vdi in disks:
        db.row("VDI", vdi)


def _check_there(
    world: World, host: str, disks: dict[str, str], networks: dict[str, str]
) -> None:
    """Check the destination: its host, its SRs, its networks."""
    db = world.db
    for sr in dict.fromkeys(disks.values()):
        kind = db.row("SR", sr)["type"]
        if kind not in _MOVABLE:
            text = ";".join((_NEEDED[0], f"{_NEEDED[1]}_IN"))
            raise Failure("SR_DOES_NOT_SUPPORT_MIGRATION", sr, text)
    for network in networks.values():
        db.row("network", network)
    row = db.row("host", host)
    if not row["enabled"]:
        raise Failure("HOST_DISABLED", host)
    if not db.row("host_metrics", row["metrics"])["live"]:
        raise Failure("HOST_NOT_LIVE")


def _within_pool(call: Call, vm: str, plan: exodus.Way) -> str:
    """Copy the disks, let the VM use the copies, and go to the other host."""
    db, world = call.db, call.world
    wanted = {
        vdi: sr for vdi, sr in plan.disks.items() if db.row("VDI", vdi)["SR"] != sr
    }
    for sr in wanted.values():
        if not db.find("PBD", SR=sr, host=plan.host, currently_attached=True):
            raise Failure("SR_NOT_ATTACHED", sr)
    moved: dict[str, str] = {}
    try:
        for number, (vdi, sr) in enumerate(wanted.items()):
            moved[vdi] = exodus.send_disk(call, vdi, world, sr)
            tasks.set_progress(call, 0.1 + 0.8 * (number + 1) / len(wanted))
        call.check_cancelled()
    except BaseException:
        exodus.remove(call, "", list(moved.values()))
        raise
    with db.changed:
        for old, new in moved.items():
            exodus.take_place(db, old, new)
        exodus.remove(call, "", list(moved))
        if db.row("VM", vm)["power_state"] == "Running":
            guests.resettle(world, vm, plan.host)
        else:
            db.update("VM", vm, affinity=plan.host)
    return vm
