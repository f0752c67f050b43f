# SPDX-License-Identifier: Apache-2.0
"""Which guests our host can have, and which one a server of Nova's is to be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import os_traits
from oslo_config import cfg

from xenapi_driver import exceptions
from xenapi_driver.steps import wishes, xenstore_data
from xenapi_driver.steps.guest import Guest
from xenapi_driver.xapi import pool, release, vgpu
from xenapi_driver.xapi.home import Home
from xenapi_driver.xapi.release import Abilities

# What every guest of every host has.
_ALWAYS = (
    "COMPUTE_FIRMWARE_BIOS",
    "COMPUTE_GRAPHICS_MODEL_CIRRUS",
    "COMPUTE_GRAPHICS_MODEL_VGA",
    "COMPUTE_NET_VIF_MODEL_NETFRONT",
    "COMPUTE_NET_VIF_MODEL_RTL8139",
    "COMPUTE_STORAGE_BUS_IDE",
    "COMPUTE_STORAGE_BUS_XEN",
)
_UEFI = ("COMPUTE_FIRMWARE_UEFI", "COMPUTE_NET_VIF_MODEL_E1000")
# The host keeps what a TPM knows, and needs no token of the server's owner.
_VTPM = (
    "COMPUTE_SECURITY_TPM_2_0",
    "COMPUTE_SECURITY_TPM_CRB",
    "COMPUTE_SECURITY_TPM_SECRET_SECURITY_HOST",
)

_VGPU = "VGPU"


def _known(names: tuple[str, ...]) -> frozenset[str]:
    """Return those that this release of Nova, and so its placement, knows."""
    return frozenset(names) & frozenset(os_traits.get_traits())


# What is ours to take away again; all other traits are somebody else's.
OWNED = _known(_ALWAYS + _UEFI + _VTPM)


class Guests:
    """The guests of one host; safe to call from many threads.

    :ivar secure_boot: whether UEFI guests find certificates, as of the start-up
    """

    def __init__(self, conf: cfg.ConfigOpts, home: Home, cpus: frozenset[int]) -> None:
        """Ask the host once what its records do not tell.

        :param cpus: the host's processors that servers may use; none: all
        :raises exceptions.UnfitConfiguration: no card has what servers are to get
        """
        self._conf = conf
        self._home = home
        self._cpus = cpus
        self._graphics = _model(conf, home)
        self.secure_boot = pool.secure_boot_ready(home.session)

    def abilities(self) -> Abilities:
        """Return what they can have; no request."""
        its_pool = pool.only(self._home.session.records)
        return release.abilities(self._home.host, its_pool, self.secure_boot)

    def traits(self) -> frozenset[str]:
        """Return what the scheduler may ask of them, of :data:`OWNED`."""
        can = self.abilities()
        wanted = _ALWAYS + (_UEFI if can.uefi else ()) + (_VTPM if can.vtpm else ())
        return _known(wanted)

    def vcpus(self, found: int) -> int:
        """Return how many of the host's processors are for them.

        :param found: all that it has
        """
        return len(self._cpus) or found

    def of(self, instance: Any, image_meta: Any, allocations: Any) -> Guest:
        """Return the guest that Nova's instance is to be; tells the instance its mode.

        :param allocations: of placement, where a graphics device is granted
        :raises exceptions.DriverError: what it cannot have
        """
        found = wishes.guest_of(instance, image_meta, self.abilities(), self._cpus)
        # Nova saves it when the server is built.
        instance.vm_mode = "hvm" if found.domain_type == "hvm" else "xen"
        told = {
            **xenstore_data.metadata(instance.metadata),
            **xenstore_data.auto_disk_config(bool(instance.auto_disk_config)),
        }
        if found.windows or _has_agent(self._conf.xenserver, image_meta):
            told.update(xenstore_data.hostname(instance.hostname, found.windows))
        card = self._graphics if _granted(allocations) else None
        return dataclasses.replace(found, xenstore_data=told, vgpu=card)

    def inventory(self) -> dict[str, dict[str, Any]]:
        """Return placement's inventory of virtual graphics devices; no request."""
        if self._graphics is None:
            return {}
        session = self._home.session
        most = vgpu.capacities(session.records, session.host_ref, self._graphics)
        total = sum(most.values())
        about = {
            "total": total,
            "reserved": 0,
            "min_unit": 1,
            # A VM has one, as its device 0.
            "max_unit": 1,
            "step_size": 1,
            "allocation_ratio": 1.0,
        }
        return {_VGPU: about} if total else {}


def _model(conf: cfg.ConfigOpts, home: Home) -> str | None:
    """Return the one type of graphics device that servers get, None without.

    :raises exceptions.UnfitConfiguration: no card of the host has it
    """
    wanted = conf.devices.enabled_mdev_types
    if not wanted:
        return None
    session = home.session
    offered = vgpu.models(session.records, session.host_ref)
    if wanted[0] not in offered:
        raise exceptions.UnfitConfiguration(
            f"[devices] enabled_mdev_types names {wanted[0]} first, into which no "
            f"graphics card of host {home.host.hostname} can be split",
            f"name one of: {', '.join(offered)}" if offered else "leave it out",
        )
    return str(wanted[0])


def _granted(allocations: Mapping[str, Mapping[str, Any]] | None) -> bool:
    """Tell whether placement granted the server a graphics device."""
    return any(
        one.get("resources", {}).get(_VGPU) for one in (allocations or {}).values()
    )


def _has_agent(opts: cfg.ConfigOpts.GroupAttr, image_meta: Any) -> bool:
    wished = image_meta.properties.get("img_use_agent", opts.use_agent_default)
    return bool(wished) and not opts.disable_agent
