# SPDX-License-Identifier: Apache-2.0
"""What a guest, and the agent in it, reads of its server in xenstore.

The keys are a contract with agents that are in images since 2011. XAPI writes them
below the guest's own path at each start.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

# Windows' own tools take no part in snapshots of the host's storage.
VSS = {"vm-data/allowvssprovider": "false"}
HOSTNAME_KEY = "vm-data/hostname"
_NETWORKING = "vm-data/networking/"
_METADATA = "vm-data/user-metadata/"
_AUTO_DISK_CONFIG = "vm-data/auto-disk-config"

_WINDOWS_NAME = 15  # NetBIOS
# Of a value; xenstore refuses a message of more than 4096 bytes, path included.
_MOST_BYTES = 3072
_REFUSED = re.compile(r"[^A-Za-z0-9_@-]")


def hostname(name: str, windows: bool) -> dict[str, str]:
    """Return the guest's name; it must go after the first boot.

    Windows' tools would rename the guest at every boot.
    """
    return {HOSTNAME_KEY: name[:_WINDOWS_NAME] if windows else name}


def auto_disk_config(wanted: bool) -> dict[str, str]:
    """Return whether the root disk was fitted to the flavor."""
    return {_AUTO_DISK_CONFIG: str(wanted)}


def metadata(items: Mapping[str, str]) -> dict[str, str]:
    """Return the tenant's metadata; letters that a path cannot have become ``_``."""
    return {
        _METADATA + _REFUSED.sub("_", key): json.dumps(value)
        for key, value in sorted(items.items())
        if key
    }


def networking(network_info: Iterable[Any]) -> dict[str, str]:
    """Return the addresses of each of Nova's VIFs, by its MAC address."""
    found = {}
    for vif in network_info:
        text = json.dumps(_of_vif(vif))
        if len(text) > _MOST_BYTES:
            LOG.warning(
                "The addresses and routes of port %s are too long for xenstore; the "
                "guest must get them by DHCP.",
                vif["id"],
            )
            continue
        found[_NETWORKING + vif["address"].replace(":", "")] = text
    return found


def _of_vif(vif: Any) -> dict[str, Any]:
    network = vif["network"]
    subnets = network["subnets"]
    found: dict[str, Any] = {"label": network["label"], "mac": vif["address"]}
    v4 = [subnet for subnet in subnets if subnet["version"] == 4]
    v6 = [subnet for subnet in subnets if subnet["version"] == 6]
    if v4:
        found["ips"] = _addresses(v4)
        found["gateway"] = _gateway(v4[0])
        found["broadcast"] = str(_cidr(v4[0]).broadcast_address)
    if v6:
        found["ip6s"] = _addresses(v6)
        found["gateway_v6"] = _gateway(v6[0])
    # Unix agents look IPv4 masks up in a table and know no others.
    found["routes"] = [_route(route) for subnet in v4 for route in subnet["routes"]]
    servers = [dns["address"] for subnet in subnets for dns in subnet["dns"]]
    found["dns"] = list(dict.fromkeys(servers))
    return found


def _addresses(subnets: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "ip": address["address"],
            "netmask": _netmask(_cidr(subnet)),
            "gateway": _gateway(subnet),
            "enabled": "1",
        }
        for subnet in subnets
        for address in subnet["ips"]
    ]


def _cidr(subnet: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(subnet["cidr"], strict=False)


def _netmask(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str | int:
    """Return a dotted mask; of IPv6 the length of the prefix."""
    return str(network.netmask) if network.version == 4 else network.prefixlen


def _gateway(subnet: Any) -> str | None:
    gateway = subnet["gateway"]
    return gateway["address"] if gateway else None


def _route(route: Any) -> dict[str, str]:
    network = ipaddress.ip_network(route["cidr"], strict=False)
    return {
        "route": str(network.network_address),
        "netmask": str(network.netmask),
        "gateway": route["gateway"]["address"],
    }
