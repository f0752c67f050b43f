# SPDX-License-Identifier: Apache-2.0
"""A guest's life on its host: what appears with a domain and goes with it."""

import base64

from xenapi_driver.sim.classes import network, vbd
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.pools import forwarding
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import disks, shown_disks
from xenapi_driver.sim.vms import (
    boot_files,
    devices,
    guest_agent,
    guest_store,
    history,
    memory,
)
from xenapi_driver.sim.world import World, now

# What a guest finds in its BIOS unless it was told otherwise before its first start.
BIOS_STRINGS = {
    "bios-vendor": "Xen",
    "bios-version": "",
    "system-manufacturer": "Xen",
    "system-product-name": "HVM domU",
    "system-version": "",
    "system-serial-number": "",
    "baseboard-manufacturer": "",
    "baseboard-product-name": "",
    "baseboard-version": "",
    "baseboard-serial-number": "",
    "baseboard-asset-tag": "",
    "baseboard-location-in-chassis": "",
    "enclosure-asset-tag": "",
    "hp-rombios": "",
    "oem-1": "Xen",
    "oem-2": "MS_VM_CERT/SHA1/bdbeb6e0a816d43fa6d3fe8aaef04c2bad9d3e3d",
}
_BOOTLOADERS = ("", "pygrub", "eliloader")
_VARIABLES = base64.b64encode(b"VARS simulated").decode()


def assert_can_boot(world: World, vm: str, host: str) -> None:
    """Make the checks of a start on one host.

    :raises Failure: the first that fails
    """
    db = world.db
    row = db.row("VM", vm)
    if not db.exists("host", host):
        raise Failure("HOST_NOT_LIVE")
    about = db.row("host", host)
    if not forwarding.counts_as_live(db, host):
        raise Failure("HOST_NOT_LIVE")
    if not about["enabled"]:
        raise Failure("HOST_DISABLED", host)
    _assert_hardware(vm, row, host, about)
    for ref in row["VBDs"]:
        drive = db.row("VBD", ref)
        if drive["empty"]:
            continue
        if not db.exists("VDI", drive["VDI"]):
            raise Failure("VM_REQUIRES_VDI", vm, drive["VDI"])
        _assert_disk_seen(db, vm, drive["VDI"], host)
    if row["power_state"] == "Suspended" and db.exists("VDI", row["suspend_VDI"]):
        _assert_disk_seen(db, vm, row["suspend_VDI"], host)
    for ref in row["VIFs"]:
        net = db.row("VIF", ref)["network"]
        network.assert_reachable(world, net, host, vm)
    if row["resident_on"] != host:
        devices.assert_there(db, vm, host)
        assert_room(db, vm, host)


def assert_room(db: Registry, vm: str, host: str) -> None:
    """Refuse a host that has too little memory or too few processors for one more.

    :raises Failure: HOST_NOT_ENOUGH_FREE_MEMORY, HOST_NOT_ENOUGH_PCPUS
    """
    row, about = db.row("VM", vm), db.row("host", host)
    wanted, free = memory.needed(row), memory.free(db, host)
    if wanted > free:
        raise Failure("HOST_NOT_ENOUGH_FREE_MEMORY", str(wanted), str(free))
    cpus = int(about["cpu_info"].get("cpu_count", "0"))
    free_choice = row["platform"].get("vcpu-unrestricted") == "true"
    if row["VCPUs_max"] > cpus > 0 and not free_choice:
        raise Failure("HOST_NOT_ENOUGH_PCPUS", str(row["VCPUs_max"]), str(cpus))


def _assert_disk_seen(db: Registry, vm: str, disk: str, host: str) -> None:
    sr = db.row("VDI", disk)["SR"]
    if not sees(db, host, sr):
        raise Failure("VM_REQUIRES_SR", vm, sr)


def sees(db: Registry, host: str, sr: str) -> bool:
    """Return whether a host has an SR plugged."""
    pbds = (db.row("PBD", ref) for ref in db.row("SR", sr)["PBDs"])
    return any(pbd["host"] == host and pbd["currently_attached"] for pbd in pbds)


def _assert_hardware(vm: str, row: Row, host: str, about: Row) -> None:
    """Refuse a guest whose virtual hardware the host does not offer."""
    wanted = row["hardware_platform_version"]
    offered = about["virtual_hardware_platform_versions"]
    if wanted not in offered:
        code = "VM_HOST_INCOMPATIBLE_VIRTUAL_HARDWARE_PLATFORM_VERSION"
        versions = "; ".join(map(str, offered))
        raise Failure(code, host, f"[ {versions} ]", vm, str(wanted))
    hvm = any(word.startswith("hvm") for word in about["capabilities"])
    if row["domain_type"] != "pv" and not hvm:
        raise Failure("VM_HVM_REQUIRED", vm)


def assert_well_formed(vm: str, row: Row) -> None:
    """Refuse a VM that cannot start on any host.

    :raises Failure: the first fault that is found
    """
    if row["VCPUs_max"] < 1:
        raise Failure("VM_NO_VCPUS", vm)
    if not 0 < row["VCPUs_at_startup"] <= row["VCPUs_max"]:
        text = "VCPU values must satisfy: 0 < VCPUs_at_startup \u2264 VCPUs_max"
        raise Failure("INVALID_VALUE", text, str(row["VCPUs_at_startup"]))
    memory.assert_order(row)
    if row["actions_after_crash"] == "rename_restart":
        raise Failure("INVALID_VALUE", "actions_after_crash", "rename_restart")
    _assert_platform(row)
    if row["domain_type"] == "hvm":
        return
    if row["PV_bootloader"] not in _BOOTLOADERS:
        raise Failure("UNKNOWN_BOOTLOADER", vm, row["PV_bootloader"])


def _assert_platform(row: Row) -> None:
    platform = row["platform"]
    cores = platform.get("cores-per-socket", "")
    if cores.isdigit() and int(cores) > 0 and row["VCPUs_max"] % int(cores):
        code = "VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE"
        raise Failure(code, str(row["VCPUs_max"]), cores)
    model = platform.get("device-model")
    if model is None or row["domain_type"] != "hvm":
        return
    wanted = "qemu-upstream-uefi" if uefi(row) else "qemu-upstream-compat"
    also = ("qemu-upstream", "qemu-upstream-compat") if not uefi(row) else (wanted,)
    if model not in also:
        raise Failure("INVALID_VALUE", "platform:device-model", model)


def uefi(row: Row) -> bool:
    """Return whether the guest's firmware is UEFI."""
    return bool(row["HVM_boot_params"].get("firmware") == "uefi")


def start(world: World, vm: str, host: str, paused: bool) -> None:
    """Build the domain and let the guest boot, unless it starts paused.

    :raises Failure: a check refused it; nothing was changed
    """
    db = world.db
    assert_well_formed(vm, db.row("VM", vm))
    assert_can_boot(world, vm, host)
    forwarding.require_answer(world, host)
    guest_store.check(db.row("VM", vm))
    boot_files.check(world, db.row("VM", vm), host)
    _assert_disks_free(db, vm)
    for ref in db.row("VM", vm)["VBDs"]:
        if not db.row("VBD", ref)["empty"]:
            disks.begin_epoch(world, db.row("VBD", ref)["VDI"])
    guest_agent.forget(world, vm)
    _furnish(db, vm)
    _make_wanted_vtpm(db, vm)
    _build(world, vm, host, paused)


def resume(world: World, vm: str, host: str, paused: bool) -> None:
    """Build the domain again in which a suspended guest goes on.

    :raises Failure: a check refused it; nothing was changed
    """
    assert_can_boot(world, vm, host)
    forwarding.require_answer(world, host)
    _build(world, vm, host, paused)


def resettle(world: World, vm: str, host: str) -> None:
    """Give a running guest a domain on another host; the guest notices nothing."""
    db = world.db
    row = db.row("VM", vm)
    for ref in list(row["consoles"]):
        db.destroy("console", ref)
    _make_console(world, vm, host)
    guest_store.leave(world, dict(row))
    db.update("VM", vm, domid=world.take_domid(), resident_on=host)
    guest_store.enter(world, vm)


def reboot(world: World, vm: str) -> None:
    """Put a new domain in the place of a guest's; what it told is over.

    :raises Failure: its boot files are gone; it is halted then
    """
    host = world.db.row("VM", vm)["resident_on"]
    stop(world, vm)
    boot_files.check(world, world.db.row("VM", vm), host)
    guest_agent.restarting(world, vm)
    _furnish(world.db, vm)
    _build(world, vm, host, False)


def _assert_disks_free(db: Registry, vm: str) -> None:
    taken = set()
    for ref in db.row("VM", vm)["VBDs"]:
        row = db.row("VBD", ref)
        vbd.assert_not_in_use(db, ref, row)
        number = vbd.device_number(row["userdevice"])
        if number in taken:
            raise Failure("VM_DUPLICATE_VBD_DEVICE", vm, ref, row["userdevice"])
        taken.add(number)


def _furnish(db: Registry, vm: str) -> None:
    """Write down what a VM gets at its first start and keeps."""
    row = db.row("VM", vm)
    values: Row = {"platform": {"timeoffset": "0", **row["platform"]}}
    if row["domain_type"] == "hvm":
        values["bios_strings"] = row["bios_strings"] or dict(BIOS_STRINGS)
        if row["generation_id"] == "0:0":
            values["generation_id"] = fresh_generation(db)
        if uefi(row) and "EFI-variables" not in row["NVRAM"]:
            values["NVRAM"] = {**row["NVRAM"], "EFI-variables": _VARIABLES}
    db.update("VM", vm, **values)


def _make_wanted_vtpm(db: Registry, vm: str) -> None:
    """Make the TPM that ``platform:vtpm`` asks for, which a first start does."""
    row = db.row("VM", vm)
    if row["platform"].get("vtpm") == "true" and uefi(row) and not row["VTPMs"]:
        contents = db.create("secret", {"value": ""})
        db.create("VTPM", {"VM": vm, "contents": contents})


def fresh_generation(db: Registry) -> str:
    """Return a generation id that no VM ever had."""
    digits = db.new_uuid().replace("-", "")
    return f"{int(digits[:15], 16)}:{int(digits[16:31], 16)}"


def _build(world: World, vm: str, host: str, paused: bool) -> None:
    db = world.db
    row = db.row("VM", vm)
    if not db.exists("VM_metrics", row["metrics"]):
        db.update("VM", vm, metrics=new_metrics(db))
    db.update(
        "VM",
        vm,
        domid=world.take_domid(),
        resident_on=host,
        scheduled_to_be_resident_on=NULL,
        memory_target=memory.target(row),
        memory_overhead=memory.overhead(row),
        last_boot_CPU_flags={"vendor": "GenuineIntel", "features": ""},
    )
    guest_store.enter(world, vm)
    _plug_devices(world, vm)
    devices.give(db, vm, host)
    _note_start(world, vm)
    _make_console(world, vm, host)
    db.update("VM", vm, power_state="Paused" if paused else "Running")
    if not paused:
        guest_agent.booted(world, vm)


def new_metrics(db: Registry) -> str:
    """Make the metrics object of a VM."""
    values = {"VCPUs_utilisation": {"0": 0.0}, "current_domain_type": "unspecified"}
    return db.create("VM_metrics", values)


def _plug_devices(world: World, vm: str) -> None:
    db = world.db
    for ref in db.row("VM", vm)["VBDs"]:
        name = vbd.device_name(db.row("VBD", ref)["userdevice"])
        db.update("VBD", ref, currently_attached=True, device=name)
    for ref in db.row("VM", vm)["VIFs"]:
        db.update("VIF", ref, currently_attached=True)


def _note_start(world: World, vm: str) -> None:
    row = world.db.row("VM", vm)
    platform = row["platform"]
    world.db.update(
        "VM_metrics",
        row["metrics"],
        memory_actual=row["memory_target"],
        VCPUs_number=row["VCPUs_at_startup"],
        start_time=now(),
        hvm=row["domain_type"] == "hvm",
        nested_virt=platform.get("nested-virt") in ("true", "1"),
        nomigrate=platform.get("nomigrate") in ("true", "1"),
        current_domain_type=row["domain_type"],
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


def reserve_devices(db: Registry, vm: str) -> None:
    """Keep the devices of a suspended guest for it."""
    row = db.row("VM", vm)
    for cls, name in (("VBD", "VBDs"), ("VIF", "VIFs")):
        for ref in row[name]:
            db.update(cls, ref, currently_attached=True)


def stop(world: World, vm: str, state: str = "Halted") -> None:
    """Take the domain away and what came with it; what the guest told stays."""
    db = world.db
    row = db.row("VM", vm)
    # The devices of a suspended guest stay reserved for it.
    kept = state == "Suspended"
    for ref in row["VBDs"]:
        shown_disks.hide(world, ref, force=True)
    for cls, name in (("VBD", "VBDs"), ("VIF", "VIFs")):
        for ref in row[name]:
            db.update(cls, ref, currently_attached=kept)
            world.leases.give_back(ref)
    for ref in row["consoles"]:
        db.destroy("console", ref)
    guest_store.leave(world, dict(row))
    devices.take_back(db, vm)
    if db.exists("VM_metrics", row["metrics"]):
        db.update("VM_metrics", row["metrics"], memory_actual=0)
    db.update(
        "VM",
        vm,
        power_state=state,
        domid=-1,
        resident_on=NULL,
        memory_target=0,
    )


_FOLLOWS = {
    "halt": "actions_after_shutdown",
    "reboot": "actions_after_reboot",
    "crash": "actions_after_crash",
}

_TOLD = {
    "halt": ("VM_SHUTDOWN", "shutdown internally"),
    "reboot": ("VM_REBOOTED", "rebooted internally"),
    "crash": ("VM_CRASHED", "crashed"),
}


def by_itself(world: World, vm: str, what: str) -> None:
    """Let a running guest halt, reboot or crash; the VM says what follows.

    :raises ValueError: something else, or the guest does not run
    """
    row = world.db.row("VM", vm)
    if what not in _FOLLOWS:
        raise ValueError("a guest can halt, reboot or crash")
    if row["power_state"] != "Running":
        raise ValueError("the guest does not run")
    follows = row[_FOLLOWS[what]]
    history.tell(world.db, vm, *_TOLD[what])
    if follows == "preserve":
        # The domain is kept for somebody to look at; the guest does nothing more.
        world.db.update("VM", vm, power_state="Paused")
    elif follows.endswith("restart"):
        reboot(world, vm)
    else:
        stop(world, vm)
