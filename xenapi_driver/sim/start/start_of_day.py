# SPDX-License-Identifier: Apache-2.0
"""What a freshly installed pool holds: hosts, networks, SRs, templates.

Names and facts are those of an XCP-ng 8.3 host with made-up hardware. Only this
module writes objects without an API call: there is nobody yet who could make one.
"""

import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenapi_driver.sim.classes import pif
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.start import host_facts, host_records, templates
from xenapi_driver.sim.storage import sr_attach, sr_kinds
from xenapi_driver.sim.storage.vhd_store import SrStore
from xenapi_driver.sim.vms import guests, memory
from xenapi_driver.sim.world import World, now

GIB = 1024**3
_MIB = 1024**2
_INTERNAL_NETWORK = (
    "Network on which guests will be assigned a private link-local IP address which"
    " can be used to talk XenAPI"
)
_CONTROL_DOMAIN = "The domain which manages physical devices and manages other domains"
# The tools, and something to install a guest from.
_ISOS = (("guest-tools.iso", "XCP-ng VM Tools ISO"), ("debian-12.iso", ""))


@dataclass(frozen=True)
class Hardware:
    """What each host has.

    :ivar memory: bytes
    :ivar sr_size: bytes of the local SR
    """

    memory: int = 64 * GIB
    cpus: int = 8
    sr_size: int = 100 * GIB


def populate(
    world: World,
    run: Path,
    hardware: Hardware,
    count: int,
    compute_vm: bool = True,
) -> None:
    """Fill an empty database.

    :param compute_vm: also make and start a VM for nova-compute to run in, which no
        fresh host has
    """
    db = world.db
    world.sr_size = hardware.sr_size
    networks = _networks(db)
    pool = db.create(
        "pool",
        {
            "other_config": {"memory-ratio-hvm": "0.25", "memory-ratio-pv": "0.25"},
            "restrictions": host_facts.restrictions(),
            "ext_auth_cache_enabled": False,
            "telemetry_uuid": db.create("secret", {"value": db.new_uuid()}),
            "telemetry_next_collection": now(),
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
                cpu_info={key: cpu[key] for key in host_facts.POOL_CPU_FACTS},
            )
            if compute_vm:
                world.compute_vm = _compute_vm(world, host, networks)
    for kind in sr_kinds.KINDS:
        db.create("SM", sr_kinds.sm_record(kind))
    sr_attach.settle(world)
    for template in templates.TEMPLATES:
        _create_vm(db, templates.values(db, template))
    host_records.create_roles(db)


def _host(world: World, hardware: Hardware, number: int) -> str:
    db = world.db
    metrics = db.create(
        "host_metrics",
        {"memory_total": hardware.memory, "live": True, "last_updated": now()},
    )
    name = f"xcpng-{world.first_number + number + 1:02d}"
    started = f"{time.time():.0f}."
    host = db.create(
        "host",
        {
            "name_label": name,
            "hostname": name,
            "name_description": "Default install",
            "address": world.address(number),
            "metrics": metrics,
            "memory_overhead": 512 * _MIB,
            "API_version_major": 2,
            "API_version_minor": 23,
            "API_version_vendor": "XenSource",
            "enabled": True,
            "software_version": host_facts.software(name),
            "other_config": {"agent_start_time": started, "boot_time": started},
            "capabilities": host_facts.CAPABILITIES,
            "sched_policy": "credit",
            "supported_bootloaders": ["pygrub", "eliloader"],
            "cpu_info": host_facts.cpu(hardware.cpus),
            "license_params": host_facts.restrictions(),
            "editions": ["xcp-ng"],
            "virtual_hardware_platform_versions": [0, 1, 2],
            "bios_strings": host_facts.BIOS_STRINGS,
            "chipset_info": {"iommu": "true"},
            "ssl_legacy": False,
            "https_only": True,
            "ssh_enabled": False,
            "ssh_auto_mode": True,
            "ntp_mode": "Disabled",
            "timezone": "Etc/UTC",
        },
    )
    host_records.create_cpus(db, host, host_facts.cpu(hardware.cpus))
    host_records.create_pcis(db, host)
    host_records.create_drivers(db, host)
    # Until the host shows a certificate to somebody, any fingerprint is as good.
    digests = [secrets.token_bytes(32) for _ in range(2)]
    host_records.create_certificates(db, host, digests)
    return host


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
                "name_description": _INTERNAL_NETWORK,
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
    for label, content, about, location in (
        ("DVD drives", "iso", "Physical DVD drives", "/dev/xapi/cd"),
        ("Removable storage", "disk", "", "/dev/xapi/block"),
    ):
        other = db.create(
            "SR",
            {
                "name_label": label,
                "name_description": about,
                "type": "udev",
                "content_type": content,
                "physical_size": size,
            },
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
    for file, about in _ISOS:
        db.create(
            "VDI",
            {
                "name_label": file,
                "name_description": about,
                "SR": sr,
                "type": "user",
                "sharable": True,
                "read_only": True,
                "managed": True,
                "location": file,
                "is_tools_iso": bool(about),
                "virtual_size": 16 * _MIB,
                "metadata_of_pool": "",
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
    ref = db.create("VM", {**values, "metrics": guests.new_metrics(db)})
    db.update("VM", ref, memory_overhead=memory.overhead(db.row("VM", ref)))
    return ref


def _control_domain(world: World, host: str) -> None:
    db = world.db
    name = f"Control domain on host: {db.row('host', host)['name_label']}"
    values = _machine(name, 2 * GIB, 2)
    values.update(
        name_description=_CONTROL_DOMAIN,
        is_control_domain=True,
        domain_type="pv",
        domarch="x64",
        HVM_boot_policy="",
        HVM_boot_params={},
        platform={},
        actions_after_reboot="destroy",
        actions_after_crash="destroy",
        power_state="Running",
        resident_on=host,
        affinity=host,
        domid=0,
        generation_id="",
        has_vendor_device=False,
    )
    ref = _create_vm(db, values)
    # Reckoned before it has its second processor.
    db.update("VM", ref, memory_overhead=20 * _MIB)
    db.update("host", host, control_domain=ref)
    address = db.row("host", host)["address"]
    for protocol in ("vt100", "rfb"):
        console = db.create("console", {"protocol": protocol, "VM": ref})
        location = f"https://{address}/console?ref={console}"
        db.update("console", console, location=location)


def _compute_vm(world: World, host: str, networks: list[str]) -> str:
    """Make the VM in which nova-compute runs, and start it."""
    values = _machine("nova-compute", 4 * GIB, 2)
    # It is long up when the first caller comes, its agent with it.
    values.update(affinity=host, xenstore_data={"vm-data/sim-agent": "1"})
    ref = _create_vm(world.db, values)
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
