# SPDX-License-Identifier: Apache-2.0
"""What a freshly installed pool holds: hosts, networks, SRs, templates.

Names and facts are those of an XCP-ng 8.3 host with made-up hardware. Only this
module writes objects without an API call: there is nobody yet who could make one.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenapi_driver.sim import guests, memory, sr_attach, sr_kinds
from xenapi_driver.sim.classes import pif, vm
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.storage import SrStore
from xenapi_driver.sim.world import World, now

GIB = 1024**3
_MIB = 1024**2
_FEATURES = "-".join(
    ["1f8bfbff", "f7fa3223", "2d93fbff", "00000123", "00000001", "001c0fbb"]
    + ["00000000"] * 16
)
_FLAGS = (
    "fpu de tsc msr pae mce cx8 apic sep mca cmov pat clflush acpi mmx fxsr sse sse2"
    " ht syscall nx lm constant_tsc rep_good pni pclmulqdq monitor vmx ssse3 fma cx16"
    " sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand lahf_lm abm avx2 bmi1 bmi2"
)
_TEMPLATES = ("Other install media", "Debian Bookworm 12")


@dataclass(frozen=True)
class Hardware:
    """What each host has.

    :ivar memory: bytes
    :ivar sr_size: bytes of the local SR
    """

    memory: int = 64 * GIB
    cpus: int = 8
    sr_size: int = 100 * GIB


def populate(world: World, run: Path, hardware: Hardware, count: int) -> None:
    """Fill an empty database."""
    db = world.db
    world.sr_size = hardware.sr_size
    networks = _networks(db)
    pool = db.create(
        "pool",
        {
            "other_config": {"memory-ratio-hvm": "0.25", "memory-ratio-pv": "0.25"},
            "restrictions": {"restrict_vif_locking": "false"},
            "ha_cluster_stack": "xhad",
            "coordinator_bias": True,
            "suspend_image_SR": NULL,
        },
    )
    for number in range(count):
        host = _host(world, hardware, number)
        _pifs(world, host, number)
        local = _srs(world, host, run, hardware.sr_size)
        _control_domain(world, host)
        world.bridges[host] = {"br-int"}
        db.update("host", host, suspend_image_sr=local, crash_dump_sr=local)
        if number == 0:
            cpu = db.row("host", host)["cpu_info"]
            db.update(
                "pool",
                pool,
                master=host,
                default_SR=local,
                suspend_image_SR=local,
                crash_dump_SR=local,
                cpu_info={key: cpu[key] for key in ("vendor", "cpu_count")},
            )
            world.compute_vm = _compute_vm(world, host, networks)
    for kind in sr_kinds.KINDS:
        db.create("SM", sr_kinds.sm_record(kind))
    sr_attach.settle(world)
    for name in _TEMPLATES:
        _template(db, name)


def _host(world: World, hardware: Hardware, number: int) -> str:
    db = world.db
    metrics = db.create(
        "host_metrics",
        {"memory_total": hardware.memory, "live": True, "last_updated": now()},
    )
    name = f"xcpng-{world.first_number + number + 1:02d}"
    started = f"{time.time():.0f}."
    return db.create(
        "host",
        {
            "name_label": name,
            "hostname": name,
            "name_description": "Default install",
            "address": world.address(number),
            "metrics": metrics,
            "memory_overhead": 512 * _MIB,
            "API_version_major": 2,
            "API_version_minor": 21,
            "API_version_vendor": "XenSource",
            "enabled": True,
            "software_version": _software(name),
            "other_config": {"agent_start_time": started, "boot_time": started},
            "capabilities": [
                "xen-3.0-x86_64",
                "hvm-3.0-x86_32",
                "hvm-3.0-x86_32p",
                "hvm-3.0-x86_64",
            ],
            "sched_policy": "credit",
            "supported_bootloaders": ["pygrub", "eliloader"],
            "cpu_info": _cpu(hardware.cpus),
            "license_params": {"restrict_vif_locking": "false"},
            "edition": "xcp-ng",
            "virtual_hardware_platform_versions": [0, 1, 2],
            "iscsi_iqn": f"iqn.2026-01.org.example:{name}",
        },
    )


def _software(name: str) -> dict[str, str]:
    return {
        "product_brand": "XCP-ng",
        "product_version": "8.3.0",
        "product_version_text": "8.3",
        "platform_name": "XCP",
        "platform_version": "3.4.0",
        "xapi": "26.1",
        "xapi_build": "26.1.4",
        "build_number": "simulated",
        "hostname": name,
        "xen": "4.17.5-9",
        "linux": "4.19.0+1",
        "network_backend": "openvswitch",
        "db_schema": "5.909",
    }


def _cpu(count: int) -> dict[str, str]:
    return {
        "cpu_count": str(count),
        "socket_count": "1",
        "threads_per_core": "2",
        "nr_nodes": "1",
        "vendor": "GenuineIntel",
        "speed": "2400.000",
        "modelname": "Intel(R) Xeon(R) CPU E5-2640 v4 @ 2.40GHz",
        "family": "6",
        "model": "79",
        "stepping": "1",
        "flags": _FLAGS,
        "features": _FEATURES,
        "features_pv": _FEATURES,
        "features_hvm": _FEATURES,
        "features_pv_host": _FEATURES,
        "features_hvm_host": _FEATURES,
    }


def _networks(db: Registry) -> list[str]:
    """Make the networks of two NICs and the internal management network."""
    found = [
        db.create(
            "network",
            {"name_label": f"Pool-wide network {n}", "bridge": f"xenbr{n}"},
        )
        for n in range(2)
    ]
    internal = {
        "is_guest_installer_network": "true",
        "is_host_internal_management_network": "true",
        "ip_begin": "169.254.0.1",
        "ip_end": "169.254.255.254",
        "netmask": "255.255.0.0",
    }
    found.append(
        db.create(
            "network",
            {
                "name_label": "Host internal management network",
                "bridge": "xenapi",
                "other_config": internal,
            },
        )
    )
    return found


def _pifs(world: World, host: str, number: int) -> None:
    """Put two NICs into a host; the first has the management address."""
    db = world.db
    world.nics[host] = {
        f"eth{index}": f"52:54:00:12:{world.first_number + number + 34:02d}:0{index}"
        for index in range(2)
    }
    for device, mac in world.nics[host].items():
        ref = pif.introduce_nic(db, host, device, mac)
        address: dict[str, Any] = {}
        if device == "eth0":
            address = {
                "ip_configuration_mode": "Static",
                "IP": db.row("host", host)["address"],
                "netmask": "255.255.255.0",
                "gateway": "192.168.66.1",
                "DNS": "192.168.66.1",
                "management": True,
            }
        db.update("PIF", ref, currently_attached=True, **address)


def _srs(world: World, host: str, run: Path, size: int) -> str:
    """Make the SRs of one host and return its local one."""
    db = world.db
    local = db.create(
        "SR",
        {
            "name_label": "Local storage",
            "type": "ext",
            "content_type": "user",
            "physical_size": size,
            "other_config": {"i18n-key": "local-storage"},
        },
    )
    uuid = db.row("SR", local)["uuid"]
    world.stores[local] = SrStore(run / "sr-mount" / uuid, size)
    _connect(db, host, local, {"device": "/dev/disk/by-id/scsi-36000-part3"})
    for label, kind, location in (
        ("DVD drives", "udev", "/dev/xapi/cd"),
        ("ISO library", "iso", "/var/opt/iso"),
    ):
        other = db.create(
            "SR", {"name_label": label, "type": kind, "content_type": "iso"}
        )
        _connect(db, host, other, {"location": location})
    _tools(db, host)
    return local


def _connect(db: Registry, host: str, sr: str, config: dict[str, str]) -> None:
    values = {"host": host, "SR": sr, "device_config": config}
    db.create("PBD", {**values, "currently_attached": True})


def _tools(db: Registry, host: str) -> None:
    """Make the shared SR with the guest tools, or join it."""
    location = {"location": "/opt/xensource/packages/iso", "legacy_mode": "true"}
    existing = db.find("SR", name_label="XCP-ng Tools")
    if existing:
        _connect(db, host, existing[0], location)
        return
    sr = db.create(
        "SR",
        {
            "name_label": "XCP-ng Tools",
            "name_description": "XCP-ng Tools ISOs",
            "type": "iso",
            "content_type": "iso",
            "shared": True,
            "is_tools_sr": True,
        },
    )
    _connect(db, host, sr, location)
    db.create(
        "VDI",
        {
            "name_label": "guest-tools.iso",
            "name_description": "XCP-ng VM Tools ISO",
            "SR": sr,
            "type": "user",
            "sharable": True,
            "read_only": True,
            "managed": True,
            "is_tools_iso": True,
            "location": "guest-tools.iso",
            "virtual_size": 16 * _MIB,
        },
    )


def _machine(name: str, size: int, cpus: int) -> dict[str, Any]:
    """Return the fields that every VM of the pool has."""
    return {
        "name_label": name,
        "user_version": 1,
        "memory_static_max": size,
        "memory_dynamic_max": size,
        "memory_dynamic_min": size,
        "memory_static_min": size,
        "memory_target": size,
        "VCPUs_max": cpus,
        "VCPUs_at_startup": cpus,
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cd"},
        "platform": {"acpi": "1", "apic": "true", "pae": "true", "nx": "true"},
        "domain_type": "hvm",
        "domid": -1,
    }


def _create_vm(db: Registry, values: dict[str, Any]) -> str:
    ref = db.create("VM", {**values, "metrics": vm.new_metrics(db)})
    db.update("VM", ref, memory_overhead=memory.overhead(db.row("VM", ref)))
    return ref


def _control_domain(world: World, host: str) -> None:
    db = world.db
    name = f"Control domain on host: {db.row('host', host)['name_label']}"
    values = _machine(name, 2 * GIB, 4)
    values.update(
        is_control_domain=True,
        domain_type="pv",
        HVM_boot_policy="",
        power_state="Running",
        resident_on=host,
        affinity=host,
        domid=0,
    )
    ref = _create_vm(db, values)
    db.update("host", host, control_domain=ref)
    address = db.row("host", host)["address"]
    for protocol in ("vt100", "rfb"):
        console = db.create("console", {"protocol": protocol, "VM": ref})
        location = f"https://{address}/console?ref={console}"
        db.update("console", console, location=location)


def _compute_vm(world: World, host: str, networks: list[str]) -> str:
    """Make the VM in which nova-compute runs, and start it."""
    values = _machine("nova-compute", 4 * GIB, 2)
    ref = _create_vm(world.db, {**values, "affinity": host})
    for device, network in enumerate((networks[0], networks[2])):
        world.db.create(
            "VIF",
            {
                "VM": ref,
                "network": network,
                "device": str(device),
                "MAC": f"52:54:00:66:00:{device:02d}",
                "MTU": 1500,
            },
        )
    guests.start(world, ref, host, False)
    return ref


def _template(db: Registry, name: str) -> None:
    values = _machine(name, GIB, 1)
    values.update(
        is_a_template=True,
        is_default_template=True,
        other_config={"default_template": "true"},
    )
    _create_vm(db, values)
