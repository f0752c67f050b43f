# SPDX-License-Identifier: Apache-2.0
"""Virtual graphics devices: which our host has for servers, and who is granted one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from xenapi_driver import exceptions
from xenapi_driver.xapi import vgpu
from xenapi_driver.xapi.home import Home

_CLASS = "VGPU"


def model(conf: cfg.ConfigOpts, home: Home) -> str | None:
    """Return the one type that servers of this host get, None where none is set.

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


def inventory(home: Home, model: str | None) -> dict[str, dict[str, Any]]:
    """Return placement's inventory of virtual graphics devices; no request."""
    if model is None:
        return {}
    session = home.session
    most = vgpu.capacities(session.records, session.host_ref, model)
    total = sum(most.values())
    if not total:
        return {}
    return {
        _CLASS: {
            "total": total,
            "reserved": 0,
            "min_unit": 1,
            # A VM has one, as its device 0.
            "max_unit": 1,
            "step_size": 1,
            "allocation_ratio": 1.0,
        }
    }


def granted(allocations: Mapping[str, Mapping[str, Any]] | None) -> bool:
    """Tell whether placement granted the server one."""
    return any(
        one.get("resources", {}).get(_CLASS) for one in (allocations or {}).values()
    )
