# SPDX-License-Identifier: Apache-2.0
"""Which guests our host can have, and which one a server of Nova's is to be."""

from __future__ import annotations

import dataclasses
from typing import Any

import os_traits
from oslo_config import cfg

from xenapi_driver.steps import wishes, xenstore_data
from xenapi_driver.steps.guest import Guest
from xenapi_driver.xapi import pool, release
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


def _known(names: tuple[str, ...]) -> frozenset[str]:
    """Return those that this release of Nova, and so its placement, knows."""
    return frozenset(names) & frozenset(os_traits.get_traits())


# What is ours to take away again; all other traits are somebody else's.
OWNED = _known(_ALWAYS + _UEFI + _VTPM)


def traits(can: Abilities) -> frozenset[str]:
    """Return what the scheduler may ask of the host's guests, of :data:`OWNED`."""
    wanted = _ALWAYS + (_UEFI if can.uefi else ()) + (_VTPM if can.vtpm else ())
    return _known(wanted)


def abilities(home: Home, secure_boot: bool) -> Abilities:
    """Return what our host's guests can have; no request.

    :param secure_boot: what the pool said at start-up
    """
    its_pool = pool.only(home.session.records)
    return release.abilities(home.host, its_pool, secure_boot)


def guest(
    conf: cfg.ConfigOpts,
    can: Abilities,
    cpus: frozenset[int],
    instance: Any,
    image_meta: Any,
) -> Guest:
    """Return the guest that Nova's instance is to be; tells the instance its mode.

    :param cpus: the host's processors that servers may use; none: all
    :raises exceptions.DriverError: what it cannot have
    """
    found = wishes.guest_of(instance, image_meta, can, cpus)
    # Nova saves it when the server is built.
    instance.vm_mode = "hvm" if found.domain_type == "hvm" else "xen"
    told = {
        **xenstore_data.metadata(instance.metadata),
        **xenstore_data.auto_disk_config(bool(instance.auto_disk_config)),
    }
    if found.windows or _has_agent(conf.xenserver, image_meta):
        told.update(xenstore_data.hostname(instance.hostname, found.windows))
    return dataclasses.replace(found, xenstore_data=told)


def _has_agent(opts: cfg.ConfigOpts.GroupAttr, image_meta: Any) -> bool:
    wished = image_meta.properties.get("img_use_agent", opts.use_agent_default)
    return bool(wished) and not opts.disable_agent
