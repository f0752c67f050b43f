# SPDX-License-Identifier: Apache-2.0
"""What a host's release lets guests have, as far as its records tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.pool import PoolRecord

# platform_version: 64-bit PV guests went with XCP-ng 8.3 and XenServer 8 (3.4).
_WITHOUT_PV = (3, 3)
# UEFI firmware came with Citrix Hypervisor 8.0.
_WITH_UEFI = (3, 0)
# VM.domain_type, and with it PVH, came with XenServer 7.5.
_WITH_PVH = (2, 6)
# xapi: class VTPM in the form that it has today.
_WITH_VTPM = (22, 26)
_XEN_PV = "xen-3.0-x86_64"


@dataclass(frozen=True)
class Abilities:
    """What guests of a host can have.

    :ivar pv: paravirtual guests
    :ivar pvh: PVH guests, which boot a kernel that they are given
    :ivar secure_boot: UEFI guests find the certificates that they need
    :ivar vtpm: a TPM 2.0 of their own
    :ivar one_node: a guest's memory comes from one NUMA node, as far as it fits
    :ivar cpus: number of the host's processors
    """

    pv: bool = False
    pvh: bool = True
    uefi: bool = True
    secure_boot: bool = False
    vtpm: bool = True
    one_node: bool = True
    cpus: int = 1

    @property
    def direct_kernel(self) -> str | None:
        """The kind of domain that boots a kernel from dom0, None without one."""
        if self.pv:
            return "pv"
        return "pvh" if self.pvh else None


def abilities(host: HostRecord, pool: PoolRecord, secure_boot: bool) -> Abilities:
    """Return what guests of ``host`` can have.

    :param secure_boot: what the pool answers; see :func:`pool.secure_boot_ready`
    """
    software = host.software_version
    platform = _numbers(software.get("platform_version", ""))
    xapi = _numbers(software.get("xapi_build", software.get("xapi", "")))
    uefi = platform >= _WITH_UEFI
    return Abilities(
        pv=platform < _WITHOUT_PV and _XEN_PV in host.capabilities,
        pvh=platform >= _WITH_PVH,
        uefi=uefi,
        secure_boot=uefi and secure_boot,
        vtpm=uefi and xapi >= _WITH_VTPM and not restricted(pool, "vtpm"),
        one_node=_one_node(host),
        cpus=int(host.cpu_info["cpu_count"]),
    )


def restricted(pool: PoolRecord, feature: str) -> bool:
    """Tell whether the pool's licence lacks a feature."""
    return pool.restrictions.get(f"restrict_{feature}") == "true"


def _one_node(host: HostRecord) -> bool:
    if host.numa_affinity_policy == "best_effort":
        return True
    return _count(host.cpu_info, "nr_nodes") == 1


def _count(about: Mapping[str, str], name: str) -> int:
    text = about.get(name, "")
    return int(text) if text.isdigit() else 0


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version)[:2])
