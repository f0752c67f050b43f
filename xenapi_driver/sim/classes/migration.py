# SPDX-License-Identifier: Apache-2.0
"""Class VM: moving to another host, inside the pool or to another pool."""

import contextlib
from collections.abc import Iterator

from xenapi_driver.sim import tasks
from xenapi_driver.sim.classes import network
from xenapi_driver.sim.failure import Failure, handle_invalid, internal_error
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.pools import exodus, forwarding
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.vms import cpus, guests, history, operations, states
from xenapi_driver.sim.world import World, now

# What the driver of an SR must be able to do for disks to be moved to it.
_NEEDED = ("VDI_SNAPSHOT", "VDI_MIRROR")
_MOVABLE = ("nfs", "ext", "lvm", "lvmoiscsi", "lvmohba", "smb", "file", "dummy")
# Storage migrations that a host sends at once.
_MOST_AT_ONCE = 3
# Snapshots that go to another pool with their VM.
_MOST_SNAPSHOTS = 1


@message("VM.pool_migrate")
def pool_migrate(call: Call, vm: str, host: str, options: dict[str, str]) -> None:
    """Move a running guest to another host that sees its disks and networks.

    Option ``force`` tries it also with a guest that does not say it can be moved, and
    whatever the processors are.
    """
    strict = options.get("force") != "true"
    with operations.under_way(call, vm, "pool_migrate", strict) as row:
        if not call.db.exists("host", host):
            raise handle_invalid("host", host)
        if host != row["resident_on"]:
            guests.assert_can_boot(call.world, vm, host)
            if strict:
                cpus.assert_compatible(call.db, vm, call.world, host)
        move(call, vm, host)


def check_host(world: World, vm: str, host: str) -> None:
    """Make the checks of a live migration.

    :raises Failure: the first that fails
    """
    guests.assert_can_boot(world, vm, host)
    cpus.assert_compatible(world.db, vm, world, host)
    if not states.has_drivers(world.db, world.db.row("VM", vm)):
        raise Failure("VM_LACKS_FEATURE", vm)


def move(call: Call, vm: str, host: str) -> None:
    """Let a guest go on on another host: a new domain, the same guest.

    :raises Failure: VM_MIGRATE_FAILED, the other host does not answer; HOST_OFFLINE,
        CANNOT_CONTACT_HOST, the guest's own host does not
    """
    source = call.db.row("VM", vm)["resident_on"]
    forwarding.require_answer(call.world, source)
    if host in call.world.dark:
        raise Failure("VM_MIGRATE_FAILED", vm, source, host, "connection refused")
    tasks.set_progress(call, 0.5)
    db = call.db
    hosts = [db.row("host", one) for one in (db.row("VM", vm)["resident_on"], host)]
    guests.resettle(call.world, vm, host)
    old, new = (f"'{row['name_label']}' (uuid: {row['uuid']})" for row in hosts)
    what = f"migrated from host {old} to host {new}"
    history.tell(db, vm, "VM_MIGRATED", what)


# storage goes with the guest


@message("host.migrate_receive", missing="HOST_OFFLINE")
def migrate_receive(
    call: Call, host: str, via: str, options: dict[str, str]
) -> dict[str, str]:
    """Open the host to a guest from elsewhere and return how to send it."""
    db = call.db
    row = db.row("network", via)
    pifs = [pif for pif in row["PIFs"] if db.row("PIF", pif)["host"] == host]
    if not pifs:
        raise Failure("HOST_CANNOT_ATTACH_NETWORK", host, via)
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
    with _one_of_few(call, vm), operations.meanwhile(call, vm, "migrate_send"):
        if plan.world is call.world and not plan.copy:
            return _within_pool(call, vm, plan)
        tasks.set_progress(call, 0.1)
        return exodus.send(call, vm, plan)


@contextlib.contextmanager
def _one_of_few(call: Call, vm: str) -> Iterator[None]:
    """Count a migration of storage on the host that sends.

    :raises Failure: TOO_MANY_STORAGE_MIGRATES
    """
    sending = call.world.sending
    with call.db.changed:
        host = call.db.row("VM", vm)["resident_on"]
        host = call.world.coordinator if host == NULL else host
        if sending.count(host) >= _MOST_AT_ONCE:
            raise Failure("TOO_MANY_STORAGE_MIGRATES", str(_MOST_AT_ONCE))
        sending.append(host)
    try:
        yield
    finally:
        with call.db.changed:
            sending.remove(host)


def _plan(
    call: Call, vm: str, dest: dict[str, str], more: tuple[dict[str, str], ...]
) -> exodus.Way:
    """Check a migration and return it.

    :raises Failure: the first check that fails
    """
    disks, networks, options, vgpus = more[:4]
    with call.db.changed:
        row = states.require(call.db, vm, "migrate_send")
        world, host = _destination(call, dest)
        copy = options.get("copy") == "true"
        if copy and row["power_state"] != "Halted":
            state = row["power_state"].lower()
            raise Failure("VM_BAD_POWER_STATE", vm, "halted", state)
        for cls, named in (("VIF", networks), ("VGPU", vgpus)):
            for ref in named:
                call.db.row(cls, ref)
        within = world is call.world
        where = _all_disks(call.db, vm, disks, copy)
        if within and networks and not copy:
            text = "VIF mapping is not allowed for intra-pool migration"
            raise Failure("OPERATION_NOT_ALLOWED", text)
        if not within:
            _check_snapshots(call.db, row, copy)
            networks = _all_networks(call.db, row, networks, copy)
        if row["power_state"] == "Running" and not states.has_drivers(call.db, row):
            raise Failure("VM_LACKS_FEATURE", vm)
    with world.db.changed:
        _check_there(world, host, where, networks)
        if row["power_state"] != "Halted" and options.get("force") != "true":
            cpus.assert_compatible(call.db, vm, world, host)
    return exodus.Way(world, host, where, dict(networks), copy)


def _all_disks(
    db: Registry, vm: str, wanted: dict[str, str], copy: bool
) -> dict[str, str]:
    """Return where each disk goes; a snapshot's follows the disk that it is of.

    :raises Failure: VDI_NOT_IN_MAP, VDI_CBT_ENABLED, HANDLE_INVALID
    """
    for vdi in wanted:
        db.row("VDI", vdi)
    where = {}
    for vdi in exodus.all_disks(db, vm, not copy):
        row = db.row("VDI", vdi)
        target = wanted.get(vdi) or wanted.get(row["snapshot_of"])
        if target is None and row["type"] == "suspend":
            target = next(iter(wanted.values()), None)
        if target is None:
            raise Failure("VDI_NOT_IN_MAP", vdi)
        if row["cbt_enabled"] and target != row["SR"]:
            raise Failure("VDI_CBT_ENABLED", vdi)
        where[vdi] = target
    return where


def _check_snapshots(db: Registry, row: Row, copy: bool) -> None:
    """Refuse to send along more than another pool takes.

    :raises Failure: VM_HAS_TOO_MANY_SNAPSHOTS, VM_HAS_CHECKPOINT
    """
    snapshots = [] if copy else row["snapshots"]
    if len(snapshots) > _MOST_SNAPSHOTS:
        raise Failure("VM_HAS_TOO_MANY_SNAPSHOTS", db.row("VM", snapshots[0])["uuid"])
    for ref in snapshots:
        if db.row("VM", ref)["power_state"] == "Suspended":
            raise Failure("VM_HAS_CHECKPOINT", ref)


def _all_networks(
    db: Registry, row: Row, wanted: dict[str, str], copy: bool
) -> dict[str, str]:
    """Return the network of each interface; a snapshot's follow those of equal MAC.

    :raises Failure: VIF_NOT_IN_MAP
    """
    by_mac = {}
    for vif in row["VIFs"]:
        if vif not in wanted:
            raise Failure("VIF_NOT_IN_MAP", vif)
        by_mac[db.row("VIF", vif)["MAC"]] = wanted[vif]
    found = dict(wanted)
    for snapshot in [] if copy else row["snapshots"]:
        for vif in db.row("VM", snapshot)["VIFs"]:
            target = found.get(vif) or by_mac.get(db.row("VIF", vif)["MAC"])
            if target is None:
                raise Failure("VIF_NOT_IN_MAP", vif)
            found[vif] = target
    return found


def _check_there(
    world: World, host: str, disks: dict[str, str], networks: dict[str, str]
) -> None:
    """Check the destination: its host, its SRs, its networks."""
    db = world.db
    if {host, world.coordinator} & world.dark:
        raise Failure("VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED")
    for sr in dict.fromkeys(disks.values()):
        kind = db.row("SR", sr)["type"]
        if kind not in _MOVABLE:
            text = ";".join((_NEEDED[0], f"{_NEEDED[1]}_IN"))
            raise Failure("SR_DOES_NOT_SUPPORT_MIGRATION", sr, text)
    for ref in networks.values():
        db.row("network", ref)
    row = db.row("host", host)
    if not row["enabled"]:
        raise Failure("HOST_DISABLED", host)
    if not forwarding.counts_as_live(db, host):
        raise Failure("HOST_NOT_LIVE")


def _check_within(world: World, vm: str, host: str, disks: dict[str, str]) -> None:
    """Refuse a host of the same pool that could not have the guest.

    VM.assert_can_migrate does not look at it: a real host finds it under way.
    """
    db = world.db
    for sr in disks.values():
        if not guests.sees(db, host, sr):
            raise Failure("VM_REQUIRES_SR", vm, sr)
    row = db.row("VM", vm)
    for vif in row["VIFs"]:
        network.assert_reachable(world, db.row("VIF", vif)["network"], host, vm)
    if row["power_state"] == "Running" and row["resident_on"] != host:
        guests.assert_room(db, vm, host)


def _within_pool(call: Call, vm: str, plan: exodus.Way) -> str:
    """Copy the disks, let the VM use the copies, and go to the other host."""
    db, world = call.db, call.world
    with db.changed:
        _check_within(world, vm, plan.host, plan.disks)
    move_disks(call, plan.disks)
    with db.changed:
        if db.row("VM", vm)["power_state"] == "Running":
            guests.resettle(world, vm, plan.host)
        else:
            db.update("VM", vm, affinity=plan.host)
    return vm


def move_disks(call: Call, where: dict[str, str]) -> dict[str, str]:
    """Copy disks to other SRs of the pool and put the copies in their places.

    :returns: the new disks by the old
    """
    db = call.db
    with db.changed:
        wanted = {
            ref: sr for ref, sr in where.items() if db.row("VDI", ref)["SR"] != sr
        }
    moved: dict[str, str] = {}
    try:
        for vdi, sr in wanted.items():
            moved[vdi] = exodus.send_disk(call, vdi, call.world, sr)
            tasks.set_progress(call, 0.1 + 0.8 * len(moved) / len(wanted))
        call.check_cancelled()
    except BaseException:
        exodus.remove(call, [], list(moved.values()))
        raise
    with db.changed:
        exodus.take_place(db, moved)
        exodus.remove(call, [], list(moved))
    return moved


@message("VDI.pool_migrate", blocking=True)
def migrate_disk(call: Call, vdi: str, sr: str, options: dict[str, str]) -> str:
    """Move a disk of a running guest to another SR that its host sees."""
    db = call.db
    with db.changed:
        row, _ = db.row("VDI", vdi), db.row("SR", sr)
        vms = {db.row("VBD", vbd)["VM"] for vbd in row["VBDs"]}
        running = [vm for vm in vms if db.row("VM", vm)["power_state"] == "Running"]
        if not running:
            raise Failure("VDI_NEEDS_VM_FOR_MIGRATE", vdi)
        (vm, *_) = running
        states.require(db, vm, "migrate_send")
        if row["cbt_enabled"]:
            raise Failure("VDI_CBT_ENABLED", vdi)
        host = db.row("VM", vm)["resident_on"]
        if not guests.sees(db, host, sr):
            raise Failure("SR_NOT_ATTACHED", sr)
        _check_there(call.world, host, {vdi: sr}, {})
        where = {vdi: sr}
        where.update((ref, sr) for ref in row["snapshots"])
    with _one_of_few(call, vm):
        return move_disks(call, where).get(vdi, vdi)
