# SPDX-License-Identifier: Apache-2.0
"""A guest's life on its host: what appears with a domain and goes with it."""

from xenapi_driver.sim import memory
from xenapi_driver.sim.classes import network, vbd
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.world import World, now

_AGENT_FEATURES = ("balloon", "poweroff", "reboot", "shutdown", "suspend")


def silent(row: Row) -> bool:
    """Return whether the guest was told never to answer a shutdown request."""
    return bool(row["other_config"].get("sim:agent") == "none")


def _has_agent(world: World, row: Row) -> bool:
    if silent(row):
        return False
    asked = row["xenstore_data"].get("vm-data/sim-agent") == "1"
    return world.behaviour.agents or asked


def assert_can_boot(world: World, vm: str, host: str) -> None:
    """Make the checks of a start on one host.

    :raises Failure: the first that fails
    """
    db = world.db
    row, about = db.row("VM", vm), db.row("host", host)
    if not db.row("host_metrics", about["metrics"])["live"]:
        raise Failure("HOST_NOT_LIVE")
    if not about["enabled"]:
        raise Failure("HOST_DISABLED", host)
    if row["VCPUs_max"] < 1:
        raise Failure("VM_NO_VCPUS", vm)
    for ref in row["VBDs"]:
        drive = db.row("VBD", ref)
        if drive["empty"]:
            continue
        if not db.exists("VDI", drive["VDI"]):
            raise Failure("VM_REQUIRES_VDI", vm, drive["VDI"])
        sr = db.row("VDI", drive["VDI"])["SR"]
        if not db.find("PBD", SR=sr, host=host, currently_attached=True):
            raise Failure("VM_REQUIRES_SR", vm, sr)
    for ref in row["VIFs"]:
        net = db.row("VIF", ref)["network"]
        network.assert_reachable(world, net, host, vm)
    wanted, free = memory.needed(row), memory.free(db, host)
    if wanted > free:
        raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", str(wanted), str(free))


def start(world: World, vm: str, host: str, paused: bool) -> None:
    """Build the domain: devices, consoles, metrics, agent.

    :raises Failure: a check refused it; nothing was changed
    """
    db = world.db
    assert_can_boot(world, vm, host)
    for ref in db.row("VM", vm)["VBDs"]:
        vbd.assert_not_in_use(db, ref, db.row("VBD", ref))
    row = db.row("VM", vm)
    memory_target = row["memory_dynamic_max"]
    db.update(
        "VM",
        vm,
        domid=world.take_domid(),
        resident_on=host,
        scheduled_to_be_resident_on=NULL,
        memory_target=memory_target,
        memory_overhead=memory.overhead(row),
        last_boot_CPU_flags={"vendor": "GenuineIntel", "features": ""},
    )
    _plug_devices(world, vm)
    _note_start(world, vm, row["domain_type"])
    _make_console(world, vm, host)
    if not paused:
        wake(world, vm)
    db.update("VM", vm, power_state="Paused" if paused else "Running")


def resettle(world: World, vm: str, host: str) -> None:
    """Give a running guest a domain on another host; the guest notices nothing."""
    db = world.db
    row = db.row("VM", vm)
    for ref in list(row["consoles"]):
        db.destroy("console", ref)
    _make_console(world, vm, host)
    db.update("VM", vm, domid=world.take_domid(), resident_on=host)


def _plug_devices(world: World, vm: str) -> None:
    db = world.db
    for ref in db.row("VM", vm)["VBDs"]:
        name = vbd.device_name(db.row("VBD", ref)["userdevice"])
        db.update("VBD", ref, currently_attached=True, device=name)
    for ref in db.row("VM", vm)["VIFs"]:
        db.update("VIF", ref, currently_attached=True)


def _note_start(world: World, vm: str, domain_type: str) -> None:
    row = world.db.row("VM", vm)
    world.db.update(
        "VM_metrics",
        row["metrics"],
        memory_actual=row["memory_target"],
        VCPUs_number=row["VCPUs_at_startup"],
        start_time=now(),
        hvm=domain_type == "hvm",
        current_domain_type=domain_type,
        last_updated=now(),
    )


def _make_console(world: World, vm: str, host: str) -> None:
    db = world.db
    address = db.row("host", host)["address"]
    uuid = db.new_uuid()
    location = f"https://{address}/console?uuid={uuid}"
    db.create(
        "console",
        {"uuid": uuid, "protocol": "rfb", "location": location, "VM": vm, "port": -1},
    )


def wake(world: World, vm: str) -> None:
    """Let the guest run: its agent, if it has one, makes itself known."""
    db = world.db
    row = db.row("VM", vm)
    if row["guest_metrics"] != NULL or not _has_agent(world, row):
        return
    features = {f"feature-{name}": "1" for name in _AGENT_FEATURES}
    ref = db.create(
        "VM_guest_metrics",
        {
            "os_version": {
                "name": "Debian GNU/Linux 12 (bookworm)",
                "uname": "6.1.0-18-amd64",
                "distro": "debian",
                "major": "12",
                "minor": "5",
            },
            "PV_drivers_version": {"major": "7", "minor": "30", "micro": "0"},
            "PV_drivers_up_to_date": True,
            "PV_drivers_detected": True,
            "other": {**features, "feature-vcpu-hotplug": "1"},
            "live": True,
            "last_updated": now(),
            "can_use_hotplug_vbd": "yes",
            "can_use_hotplug_vif": "yes",
        },
    )
    db.update("VM", vm, guest_metrics=ref)


def stop(world: World, vm: str, state: str = "Halted") -> None:
    """Take the domain away and what came with it."""
    db = world.db
    row = db.row("VM", vm)
    # The devices of a suspended guest stay reserved for it.
    kept = state == "Suspended"
    for ref in row["VBDs"]:
        vbd.hide_device(world, ref, force=True)
    for cls, name in (("VBD", "VBDs"), ("VIF", "VIFs")):
        for ref in row[name]:
            db.update(cls, ref, currently_attached=kept)
    for ref in row["consoles"]:
        db.destroy("console", ref)
    if db.exists("VM_guest_metrics", row["guest_metrics"]):
        db.destroy("VM_guest_metrics", row["guest_metrics"])
    if db.exists("VM_metrics", row["metrics"]):
        db.update("VM_metrics", row["metrics"], memory_actual=0)
    db.update(
        "VM",
        vm,
        power_state=state,
        domid=-1,
        resident_on=NULL,
        guest_metrics=NULL,
    )


def by_itself(world: World, vm: str, what: str) -> None:
    """Let a running guest halt, reboot or crash; the VM says what follows.

    :raises ValueError: something else, or the guest does not run
    """
    row = world.db.row("VM", vm)
    field = {
        "halt": "actions_after_shutdown",
        "reboot": "actions_after_reboot",
        "crash": "actions_after_crash",
    }.get(what)
    if field is None:
        raise ValueError("a guest can halt, reboot or crash")
    if row["power_state"] != "Running":
        raise ValueError("the guest does not run")
    follows, host = row[field], row["resident_on"]
    if follows == "preserve":
        world.db.update("VM", vm, power_state="Paused")
        return
    stop(world, vm)
    if follows.endswith("restart"):
        start(world, vm, host, False)
