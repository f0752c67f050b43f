# SPDX-License-Identifier: Apache-2.0
"""Class PIF: a host's end of a network, be it a NIC or something made on one."""

import ipaddress
import re
from typing import Any

from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.world import World, now

NO_VLAN = -1
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}\Z")
_NO_ADDRESS = {"IP": "", "netmask": "", "gateway": "", "DNS": ""}
_PROPERTIES = {"gro": ("on", "off")}


def new_metrics(db: Registry, carrier: bool = True) -> str:
    """Make the metrics object of a new PIF."""
    speed, duplex = (10000, True) if carrier else (0, False)
    return db.create(
        "PIF_metrics",
        {
            "carrier": carrier,
            "speed": speed,
            "duplex": duplex,
            "pci_bus_path": "N/A",
            "last_updated": now(),
        },
    )


def check_mac(mac: str) -> None:
    """Refuse what is no hardware address.

    :raises Failure: MAC_INVALID
    """
    if not _MAC.match(mac):
        raise Failure("MAC_INVALID", mac)


def require_managed(db: Registry, pif: str) -> None:
    """Refuse a PIF that is outside the host's care.

    :raises Failure: PIF_UNMANAGED
    """
    if not db.row("PIF", pif)["managed"]:
        raise Failure("PIF_UNMANAGED", pif)


def require_free(db: Registry, network: str, host: str) -> None:
    """Refuse a network that the host is connected to already.

    :raises Failure: NETWORK_ALREADY_CONNECTED
    """
    for pif in db.row("network", network)["PIFs"]:
        if db.row("PIF", pif)["host"] == host:
            raise Failure("NETWORK_ALREADY_CONNECTED", host, pif)


def access_pif(db: Registry, base: str, network: str, **values: Any) -> str:
    """Make the PIF on a network that stands for something made on ``base``."""
    below = db.row("PIF", base)
    record = {
        "device": below["device"],
        "network": network,
        "host": below["host"],
        "MAC": below["MAC"],
        "MTU": below["MTU"],
        "VLAN": NO_VLAN,
        "metrics": new_metrics(db),
        "currently_attached": False,
        "managed": True,
        "igmp_snooping_status": "disabled",
    }
    return db.create("PIF", {**record, **values})


def remove(db: Registry, pif: str) -> None:
    """Take a PIF and its metrics out of the database."""
    metrics = db.row("PIF", pif)["metrics"]
    db.destroy("PIF", pif)
    if db.exists("PIF_metrics", metrics):
        db.destroy("PIF_metrics", metrics)


def _has_address(row: Row) -> bool:
    return row["ip_configuration_mode"] != "None"


@message("PIF.plug")
def plug(call: Call, ref: str) -> None:
    """Bring the interface up, and what it is made on first.

    :raises Failure: CANNOT_PLUG_BOND_SLAVE, TRANSPORT_PIF_NOT_CONFIGURED ...
    """
    bring_up(call.db, ref)


def bring_up(db: Registry, ref: str) -> None:
    """Attach a PIF; see :func:`plug`."""
    row = db.row("PIF", ref)
    require_managed(db, ref)
    if row["bond_slave_of"] != NULL:
        raise Failure("CANNOT_PLUG_BOND_SLAVE", ref)
    for tunnel in row["tunnel_access_PIF_of"]:
        transport = db.row("tunnel", tunnel)["transport_PIF"]
        if not _has_address(db.row("PIF", transport)):
            raise Failure("TRANSPORT_PIF_NOT_CONFIGURED", transport)
        bring_up(db, transport)
        db.update("tunnel", tunnel, status={"active": "true"})
    if row["VLAN_master_of"] != NULL:
        bring_up(db, db.row("VLAN", row["VLAN_master_of"])["tagged_PIF"])
    for bond in row["bond_master_of"]:
        for member in db.row("Bond", bond)["slaves"]:
            db.update("PIF", member, currently_attached=True)
    db.update("PIF", ref, currently_attached=True)


@message("PIF.unplug")
def unplug(call: Call, ref: str) -> None:
    """Take the interface down."""
    row = call.db.row("PIF", ref)
    require_managed(call.db, ref)
    if row["management"]:
        raise Failure("PIF_IS_MANAGEMENT_INTERFACE", ref)
    if row["disallow_unplug"]:
        raise Failure("PIF_DOES_NOT_ALLOW_UNPLUG", ref)
    take_down(call.db, ref)


def take_down(db: Registry, ref: str) -> None:
    """Detach a PIF and the tunnels and VLANs that need it."""
    row = db.row("PIF", ref)
    for tunnel in row["tunnel_transport_PIF_of"]:
        take_down(db, db.row("tunnel", tunnel)["access_PIF"])
    for vlan in row["VLAN_slave_of"]:
        take_down(db, db.row("VLAN", vlan)["untagged_PIF"])
    for tunnel in row["tunnel_access_PIF_of"]:
        db.update("tunnel", tunnel, status={"active": "false"})
    db.update("PIF", ref, currently_attached=False)


@message("PIF.set_disallow_unplug")
def set_disallow_unplug(call: Call, ref: str, value: bool) -> None:
    """Protect the interface against unplug."""
    call.db.update("PIF", ref, disallow_unplug=value)


def _check_address(value: str, name: str) -> None:
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        raise Failure("INVALID_IP_ADDRESS_SPECIFIED", name) from None


@message("PIF.reconfigure_ip")
def reconfigure_ip(
    call: Call, ref: str, mode: str, address: str, netmask: str, *more: str
) -> None:
    """Set the IPv4 address; ``more`` are gateway and DNS (comma separated)."""
    gateway, dns = more
    require_managed(call.db, ref)
    row = call.db.row("PIF", ref)
    if row["bond_slave_of"] != NULL:
        raise Failure("PIF_ALREADY_BONDED", ref)
    if gateway:
        _check_address(gateway, "gateway")
    if mode == "Static":
        _check_address(address, "IP")
        _check_address(netmask, "netmask")
    for server in dns.split(",") if dns else ():
        _check_address(server, "DNS")
    if mode == "None" and row["management"]:
        raise Failure("PIF_IS_MANAGEMENT_INTERFACE", ref)
    values = dict(_NO_ADDRESS)
    if mode == "Static":
        values = {"IP": address, "netmask": netmask, "gateway": gateway, "DNS": dns}
    call.db.update("PIF", ref, ip_configuration_mode=mode, **values)
    if mode != "None":
        bring_up(call.db, ref)


@message("PIF.reconfigure_ipv6")
def reconfigure_ipv6(
    call: Call, ref: str, mode: str, address: str, gateway: str, dns: str
) -> None:
    """Set the IPv6 address, given with its prefix."""
    require_managed(call.db, ref)
    if gateway:
        try:
            ipaddress.IPv6Address(gateway)
        except ValueError:
            raise Failure("INVALID_IP_ADDRESS_SPECIFIED", "gateway") from None
    if mode == "Static":
        try:
            good = "/" in address and ipaddress.IPv6Interface(address)
        except ValueError:
            good = False
        if not good:
            raise Failure("INVALID_CIDR_ADDRESS_SPECIFIED", "IPv6")
    for server in dns.split(",") if dns else ():
        try:
            ipaddress.ip_address(server.strip())
        except ValueError:
            raise Failure("INVALID_IP_ADDRESS_SPECIFIED", "DNS") from None
    if dns:
        call.db.update("PIF", ref, DNS=dns)
    static = mode == "Static"
    call.db.update(
        "PIF",
        ref,
        ipv6_configuration_mode=mode,
        IPv6=[address] if static else [],
        ipv6_gateway=gateway if static else "",
    )


@message("PIF.set_primary_address_type")
def set_primary_address_type(call: Call, ref: str, value: str) -> None:
    """Choose the kind of address that stands for the host."""
    row = call.db.row("PIF", ref)
    if row["management"]:
        mode = "ip_configuration_mode" if value == "IPv4" else "ipv6_configuration_mode"
        if row[mode] == "None":
            raise Failure("PIF_INCOMPATIBLE_PRIMARY_ADDRESS_TYPE", ref)
    call.db.update("PIF", ref, primary_address_type=value)


@message("PIF.set_property")
def set_property(call: Call, ref: str, name: str, value: str) -> None:
    """Set a property of a NIC or bond, and of the VLANs on it."""
    row = call.db.row("PIF", ref)
    if value not in _PROPERTIES.get(name, ()):
        raise Failure("INVALID_VALUE", "properties", f"{name} = {value}")
    if row["VLAN"] != NO_VLAN or row["tunnel_access_PIF_of"]:
        raise Failure("CANNOT_CHANGE_PIF_PROPERTIES", ref)
    properties = {**row["properties"], name: value}
    call.db.update("PIF", ref, properties=properties)
    for vlan in row["VLAN_slave_of"]:
        above = call.db.row("VLAN", vlan)["untagged_PIF"]
        call.db.update("PIF", above, properties=properties)


# coming and going


def _network_of_nic(db: Registry, device: str) -> str:
    """Return the network of a NIC's bridge; it is made where it is missing."""
    bridge = "xenbr" + device.removeprefix("eth")
    found = db.find("network", bridge=bridge)
    if found:
        return found[0]
    name = f"Pool-wide network associated with {device}"
    return db.create("network", {"name_label": name, "bridge": bridge, "MTU": 1500})


def introduce_nic(db: Registry, host: str, device: str, mac: str) -> str:
    """Make the PIF of a NIC."""
    return db.create(
        "PIF",
        {
            "device": device,
            "network": _network_of_nic(db, device),
            "host": host,
            "MAC": mac,
            "MTU": 1500,
            "VLAN": NO_VLAN,
            "metrics": new_metrics(db),
            "physical": True,
            "currently_attached": False,
            "managed": True,
            "properties": {"gro": "on"},
            "igmp_snooping_status": "disabled",
        },
    )


def nics(world: World, host: str) -> dict[str, str]:
    """Return the NICs that the host has: device name to hardware address."""
    return world.nics.get(host, {})


@message("PIF.scan", missing="HOST_OFFLINE")
def scan(call: Call, host: str) -> None:
    """Make PIFs of NICs that have none."""
    known = {row["device"] for _, row in call.db.rows("PIF") if row["host"] == host}
    for device, mac in nics(call.world, host).items():
        if device not in known:
            introduce_nic(call.db, host, device, mac)


@message("PIF.introduce", missing="HOST_OFFLINE")
def introduce(call: Call, host: str, mac: str, device: str, managed: bool) -> str:
    """Make the PIF of a NIC that was forgotten; an empty device is looked for."""
    if mac:
        check_mac(mac)
    there = nics(call.world, host)
    if device == "":
        device = next((n for n, m in there.items() if m == mac.lower()), "")
    for _, row in call.db.rows("PIF"):
        if row["host"] == host and row["device"] == device and row["physical"]:
            raise Failure("DUPLICATE_PIF_DEVICE_NAME", device)
    if there.get(device) != mac.lower():
        code = "COULD_NOT_FIND_NETWORK_INTERFACE_WITH_SPECIFIED_DEVICE_NAME"
        raise Failure(f"{code}_AND_MAC_ADDRESS", device, mac)
    ref = introduce_nic(call.db, host, device, mac.lower())
    if not managed:
        call.db.update("PIF", ref, managed=False)
    return ref


def require_unused(db: Registry, ref: str) -> None:
    """Refuse a PIF that something is made on, or that is in a bond.

    :raises Failure: what it is used for
    """
    row = db.row("PIF", ref)
    if row["bond_slave_of"] != NULL:
        raise Failure("PIF_ALREADY_BONDED", ref)
    if row["VLAN_slave_of"]:
        raise Failure("PIF_VLAN_STILL_EXISTS", ref)
    if row["tunnel_transport_PIF_of"]:
        raise Failure("PIF_TUNNEL_STILL_EXISTS", ref)


@message("PIF.forget")
def forget(call: Call, ref: str) -> None:
    """Take the PIF of a NIC out of the database."""
    row = call.db.row("PIF", ref)
    require_unused(call.db, ref)
    if row["management"]:
        raise Failure("PIF_IS_MANAGEMENT_INTERFACE", ref)
    if not row["physical"]:
        raise Failure("PIF_IS_NOT_PHYSICAL", ref)
    if row["disallow_unplug"]:
        raise Failure("PIF_DOES_NOT_ALLOW_UNPLUG", ref)
    remove(call.db, ref)


@message("PIF.db_forget")
def db_forget(call: Call, ref: str) -> None:
    """Take a PIF out of the database and ask nothing."""
    remove(call.db, ref)


@message("PIF.pool_introduce", "PIF.db_introduce")
def pool_introduce(call: Call, *values: Any) -> str:
    """Make a PIF in the database alone, as another host of a pool describes it."""
    declared = call.db.schema.classes["PIF"].messages["pool_introduce"].params
    record = {param.name: value for param, value in zip(declared, values, strict=True)}
    for cls in ("network", "host"):
        call.db.row(cls, record[cls])
    record["metrics"] = new_metrics(call.db)
    return call.db.create("PIF", {**record, "currently_attached": False})


def base_of(call: Call, device: str, host: str) -> str:
    """Return the untagged PIF of that device on a host.

    :raises Failure: HANDLE_INVALID where there is none
    """
    for ref, row in call.db.rows("PIF"):
        if (row["device"], row["host"], row["VLAN"]) == (device, host, NO_VLAN):
            return ref
    raise handle_invalid("PIF", device)
