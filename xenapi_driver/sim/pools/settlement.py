# SPDX-License-Identifier: Apache-2.0
"""Hosts move between pools: what of their records goes with them, and what goes."""

import shutil
from typing import Any

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.pools.machines import Machines
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL, Type
from xenapi_driver.sim.storage import shown_disks
from xenapi_driver.sim.storage.sr_kinds import Store
from xenapi_driver.sim.vms import guests
from xenapi_driver.sim.world import World

# Classes whose objects a joining host brings, owners first.
# What is of one host and has a field ``host``.
_OF_HOST = ("host_cpu", "PCI", "PGPU", "PUSB", "Certificate", "Host_driver")
_BROUGHT = (
    "host_metrics",
    "host",
    *_OF_HOST,
    "Driver_variant",
    "PIF_metrics",
    "PIF",
    "SR",
    "PBD",
    "VDI",
    "VM_metrics",
    "VM",
    "VBD",
    "VIF",
    "console",
)


def machines_of(world: World) -> Machines:
    """Return who stands where."""
    if not isinstance(world.machines, Machines):
        raise RuntimeError("The pool stands on no machines.")
    return world.machines


def bury_guests(world: World, host: str) -> None:
    """Write down as halted what ran on a host."""
    with world.db.changed:
        for vm in list(world.db.row("host", host)["resident_VMs"]):
            row = world.db.row("VM", vm)
            if not row["is_control_domain"]:
                guests.stop(world, vm)
                continue
            for vbd in row["VBDs"]:
                shown_disks.hide(world, vbd, force=True)
                world.db.update("VBD", vbd, currently_attached=False)


# joining


def _mapped(type_: Type, value: Any, known: dict[str, str]) -> Any:
    """Return a field's value with references as they are in the other pool."""
    if type_.kind == "ref":
        return known.get(value, NULL)
    if type_.kind == "set" and type_.inner[0].kind == "ref":
        return [known[item] for item in value if item in known]
    if type_.kind == "map" and "ref" in (part.kind for part in type_.inner):
        return {
            known.get(key, key): known.get(item, item) for key, item in value.items()
        }
    return value


def _transplant(source: Registry, target: Registry, cls: str, wanted: Any) -> None:
    """Copy objects of a class; ``wanted`` is (references, known), known grows."""
    refs, known = wanted
    fields = target.schema.classes[cls].fields
    owned = {name for (_, (many, name)) in target.schema.relations if many == cls}
    for ref in refs:
        row = source.row(cls, ref)
        values = {
            name: _mapped(about.type, row[name], known)
            for name, about in fields.items()
            if name not in owned
        }
        known[ref] = target.create(cls, values)


def _shared_already(own: World, world: World) -> dict[str, str]:
    """Pair networks of equal bridges, and the tools SRs with their disks."""
    known = {}
    for ref, row in own.db.rows("network"):
        found = world.db.find("network", bridge=row["bridge"])
        if found:
            known[ref] = found[0]
    for ref, row in own.db.rows("SR"):
        if row["shared"]:
            twins = world.db.find("SR", name_label=row["name_label"], shared=True)
            if twins:
                known[ref] = twins[0]
                known.update(_same_disks(own, row, world, twins[0]))
    return known


def _same_disks(own: World, row: Row, world: World, twin: str) -> dict[str, str]:
    """Pair the disks of an SR with those that its twin has already."""
    there = {
        world.db.row("VDI", vdi)["location"]: vdi
        for vdi in world.db.row("SR", twin)["VDIs"]
    }
    here = {vdi: own.db.row("VDI", vdi)["location"] for vdi in row["VDIs"]}
    return {vdi: there[name] for vdi, name in here.items() if name in there}


def join(own: World, world: World) -> None:
    """Move the host of one pool, its disks and halted VMs into another.

    :raises Failure: HOST_STILL_BOOTING where one of them joins another pool just now
    """
    machine = machines_of(own).of(own, own.coordinator)
    host = own.coordinator
    # In one order, or two that join each other wait for ever.
    one, two = sorted((own, world), key=lambda pool: pool.first_number)
    with one.db.changed, two.db.changed:
        if own.closing.is_set() or world.closing.is_set():
            raise Failure("HOST_STILL_BOOTING")
        known = _shared_already(own, world)
        networks = [ref for ref in own.db.refs("network") if ref not in known]
        _transplant(own.db, world.db, "network", (networks, known))
        for cls in _BROUGHT:
            refs = [
                ref
                for ref, row in own.db.rows(cls)
                if ref not in known and _comes_along(cls, row, known)
            ]
            _transplant(own.db, world.db, cls, (refs, known))
        _mend(own, world, known)
        if machine is not None:
            # Under both locks: whoever keeps the state writes all of it at once.
            machine.world, machine.host = world, known[host]
        own.closing.set()
        own.db.changed.notify_all()
    if machine is not None:
        machine.local_sessions.clear()
        for door in machine.doors:
            door.cut()


def _comes_along(cls: str, row: Row, known: dict[str, str]) -> bool:
    """Return whether an object is of this host alone."""
    if cls == "VM":
        return not row["is_default_template"]
    if cls == "Certificate":
        return bool(row["host"] in known)
    if cls == "VDI":
        return row["SR"] in known
    if cls in ("VBD", "VIF", "console"):
        return row["VM"] in known
    return True


def _mend(own: World, world: World, known: dict[str, str]) -> None:
    """Set what pointed forward, and what is kept beside the database."""
    for cls, names in (
        ("host", ("control_domain", "suspend_image_sr", "crash_dump_sr")),
        ("VM", ("suspend_VDI", "snapshot_of", "parent")),
        ("VDI", ("snapshot_of", "parent")),
    ):
        for old in own.db.refs(cls):
            new = known.get(old)
            if new is None:
                continue
            row = own.db.row(cls, old)
            fields = {name: known.get(row[name], NULL) for name in names}
            world.db.update(cls, new, **fields)
    for mine, theirs in (
        (own.stores, world.stores),
        (own.bridges, world.bridges),
        (own.nics, world.nics),
        (own.dom0s, world.dom0s),
    ):
        _hand_over(mine, theirs, known)
    world.dom0s.setdefault(known[own.coordinator], own.dom0)


def _hand_over(
    mine: dict[str, Any], theirs: dict[str, Any], known: dict[str, str]
) -> None:
    for old, thing in list(mine.items()):
        if old in known:
            theirs.setdefault(known[old], thing)


# leaving


def eject(world: World, host: str) -> None:
    """Send a host away; it is installed anew, as a pool of its own."""
    machine = machines_of(world).of(world, host)
    if machine is None:
        wiped = forget(world, host)
    else:
        fresh = machines_of(world).fresh(machine)
        # Under both locks: whoever keeps the state writes all of it at once.
        with world.db.changed, fresh.db.changed:
            wiped = forget(world, host)
            machine.world, machine.host = fresh, fresh.coordinator
    for store in wiped:
        shutil.rmtree(store.path, ignore_errors=True)
    if machine is not None:
        machine.local_sessions.clear()
        for door in machine.doors:
            door.cut()


def forget(world: World, host: str) -> list[Store]:
    """Take a host and all that was its own out of the database.

    :returns: the files of its SRs
    """
    db, files = world.db, []
    with db.changed:
        row = db.row("host", host)
        for pbd in list(row["PBDs"]):
            sr = db.row("PBD", pbd)["SR"]
            db.destroy("PBD", pbd)
            if not db.row("SR", sr)["PBDs"]:
                _forget_sr(world, sr)
                if sr in world.stores:
                    files.append(world.stores.pop(sr))
        for pif in list(row["PIFs"]):
            forget_pif(db, pif)
        for vm in list(row["resident_VMs"]):
            _forget_vm(db, vm)
        for driver in db.find("Host_driver", host=host):
            for variant in list(db.row("Host_driver", driver)["variants"]):
                db.destroy("Driver_variant", variant)
        for cls in _OF_HOST:
            for ref in db.find(cls, host=host):
                db.destroy(cls, ref)
        if db.exists("host_metrics", row["metrics"]):
            db.destroy("host_metrics", row["metrics"])
        db.destroy("host", host)
    return files


def _forget_sr(world: World, sr: str) -> None:
    db = world.db
    for vdi in list(db.row("SR", sr)["VDIs"]):
        for vbd in list(db.row("VDI", vdi)["VBDs"]):
            db.destroy("VBD", vbd)
        db.destroy("VDI", vdi)
    db.destroy("SR", sr)


def forget_pif(db: Registry, pif: str) -> None:
    """Take a PIF and what was made on it out of the database."""
    row = db.row("PIF", pif)
    for cls, refs in (
        ("VLAN", row["VLAN_slave_of"]),
        ("tunnel", row["tunnel_access_PIF_of"]),
        ("Bond", row["bond_master_of"]),
    ):
        for ref in list(refs):
            db.destroy(cls, ref)
    if db.exists("PIF_metrics", row["metrics"]):
        db.destroy("PIF_metrics", row["metrics"])
    db.destroy("PIF", pif)


def _forget_vm(db: Registry, vm: str) -> None:
    row = db.row("VM", vm)
    for cls, refs in (
        ("VBD", row["VBDs"]),
        ("VIF", row["VIFs"]),
        ("console", row["consoles"]),
    ):
        for ref in list(refs):
            db.destroy(cls, ref)
    if db.exists("VM_metrics", row["metrics"]):
        db.destroy("VM_metrics", row["metrics"])
    db.destroy("VM", vm)
