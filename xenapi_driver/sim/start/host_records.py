# SPDX-License-Identifier: Apache-2.0
"""The small records that stand for a host's parts: CPUs, devices, certificates."""

import datetime
from typing import Any

from xenapi_driver.sim.doors.wire import Timestamp
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.start import host_facts

# Drivers that come in more than one variant: name, kind, variants (name, version,
# priority).
_GENERIC = ("generic", "1.2", 100.0)
_DRIVERS: tuple[tuple[str, str, tuple[tuple[str, str, float], ...]], ...] = (
    ("avago-megaraid-sas", "storage", (_GENERIC,)),
    ("avago-mpt3sas", "storage", (_GENERIC,)),
    ("broadcom-bnxt-en", "network", (_GENERIC,)),
    ("cisco-enic", "network", (("dell", "1.5", 90.0), _GENERIC)),
    ("cisco-fnic", "network", (_GENERIC,)),
    ("intel-i40e", "network", (_GENERIC,)),
    ("intel-ice", "network", (_GENERIC,)),
    ("intel-ixgbe", "network", (_GENERIC,)),
    ("microsemi-smartpqi", "storage", (_GENERIC,)),
    ("qlogic-fastlinq", "network", (_GENERIC,)),
)
# The roles are the same on every host; the first uuid is in the published model.
_ROLES = (
    (
        "pool-admin",
        "0165f154-ba3e-034e-6b27-5d271af109ba",
        "The Pool Administrator role has full access to all features",
    ),
    (
        "pool-operator",
        "b9ce9791-0604-50cd-0649-09b3284c7dfd",
        "The Pool Operator role manages host- and pool-wide resources",
    ),
    (
        "vm-power-admin",
        "7955168d-7bec-10ed-105f-c6a7e6e63249",
        "The VM Power Administrator role has full access to VMs",
    ),
    (
        "vm-admin",
        "aaa00ab5-7340-bfbc-0d1b-7cf342639a6e",
        "The VM Administrator role can manage VMs and templates",
    ),
    (
        "vm-operator",
        "fb8d4ff9-310c-a959-0613-54101535d3d5",
        "The VM Operator role can use VMs, start and stop them",
    ),
    (
        "client-cert",
        "78e0a2a5-3d3b-5d6f-9c0b-1c2f0a1f7e11",
        "The role of clients that log in with a certificate",
    ),
    (
        "read-only",
        "7233b8e3-eacb-d7da-2c95-f2e581cdbf4e",
        "The Read-Only role can log in and read",
    ),
)
# Of nobody in particular, but different and well formed.
_DIGEST = "{:02X}"


def create_cpus(db: Registry, host: str, info: dict[str, str]) -> None:
    """Make one record a CPU, as ``cpu_info`` describes them all."""
    for number in range(int(info["cpu_count"])):
        db.create(
            "host_cpu",
            {
                "host": host,
                "number": number,
                "vendor": info["vendor"],
                "speed": int(float(info["speed"])),
                "modelname": info["modelname"],
                "family": int(info["family"]),
                "model": int(info["model"]),
                "stepping": info["stepping"],
                "flags": info["flags"],
            },
        )


def fit_cpus(db: Registry, host: str, count: int) -> None:
    """Give a host another number of CPUs."""
    for ref in list(db.row("host", host)["host_CPUs"]):
        db.destroy("host_cpu", ref)
    info = host_facts.cpu(count)
    create_cpus(db, host, info)
    db.update("host", host, cpu_info=info)
    for pool, row in db.rows("pool"):
        if row["master"] == host:
            cpu_info = {key: info[key] for key in host_facts.POOL_CPU_FACTS}
            db.update("pool", pool, cpu_info=cpu_info)


def create_pcis(db: Registry, host: str) -> None:
    """Make the two network cards as PCI devices."""
    for number in range(2):
        db.create(
            "PCI",
            {
                "host": host,
                "class_id": "0200",
                "class_name": "Ethernet controller",
                "vendor_id": "8086",
                "vendor_name": "Intel Corporation",
                "device_id": "1533",
                "device_name": "I210 Gigabit Network Connection",
                "subsystem_vendor_id": "8086",
                "subsystem_vendor_name": "Intel Corporation",
                "subsystem_device_id": "0000",
                "subsystem_device_name": "",
                "driver_name": "igb",
                "pci_id": f"0000:0{number + 1}:00.0",
            },
        )


def create_drivers(db: Registry, host: str) -> None:
    """Make the drivers that have variants to choose from."""
    for name, kind, variants in _DRIVERS:
        driver = db.create(
            "Host_driver",
            {
                "host": host,
                "name": name,
                "friendly_name": name,
                "type": kind,
                "description": name,
                "info": name,
            },
        )
        for variant, version, priority in variants:
            db.create(
                "Driver_variant",
                {
                    "driver": driver,
                    "name": variant,
                    "version": version,
                    "priority": priority,
                    "status": "production",
                    "hardware_present": False,
                },
            )


def create_certificates(db: Registry, host: str, digests: list[bytes]) -> None:
    """Make the certificates for clients and for the other hosts.

    :param digests: SHA-256 fingerprints of the two
    """
    begin = datetime.datetime.now(datetime.timezone.utc)
    end = begin + datetime.timedelta(days=3650)
    for kind, digest in zip(("host", "host_internal"), digests, strict=True):
        sha256 = ":".join(_DIGEST.format(byte) for byte in digest)
        sha1 = ":".join(_DIGEST.format(byte) for byte in digest[:20])
        db.create(
            "Certificate",
            {
                "type": kind,
                "host": host,
                "not_before": Timestamp(begin.strftime("%Y%m%dT%H:%M:%SZ")),
                "not_after": Timestamp(end.strftime("%Y%m%dT%H:%M:%SZ")),
                "fingerprint": sha256,
                "fingerprint_sha256": sha256,
                "fingerprint_sha1": sha1,
            },
        )


def create_roles(db: Registry) -> None:
    """Make the roles that a subject can have."""
    for name, uuid, description in _ROLES:
        values: dict[str, Any] = {
            "uuid": uuid,
            "name_label": name,
            "name_description": description,
            "is_internal": name == "client-cert",
        }
        db.create("role", values, f"OpaqueRef:{uuid}")
