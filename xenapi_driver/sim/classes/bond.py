# SPDX-License-Identifier: Apache-2.0
"""Class Bond: several NICs of a host as one."""

from xenapi_driver.sim.classes import network, pif
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL

_ADDRESS = ("ip_configuration_mode", "IP", "netmask", "gateway", "DNS")
_PROPERTIES = {
    "hashing_algorithm": ("src_mac", "tcpudp_ports"),
    "lacp-time": ("fast", "slow"),
    "lacp-aggregation-key": None,
    "lacp-fallback-ab": ("true", "false"),
    "lacp-actor-sys-id": None,
    "lacp-actor-sys-prio": None,
    "miimon": None,
    "downdelay": None,
    "updelay": None,
    "use_carrier": None,
}


def _check_property(name: str, value: str) -> None:
    known = _PROPERTIES.get(name, ())
    if known is not None and value not in known:
        raise Failure("INVALID_VALUE", "properties", f"{name} = {value}")


def _members(db: Registry, given: list[str]) -> list[str]:
    """Return the members, each once, that may be joined.

    :raises Failure: too few, bonded already, VLANs, of several hosts
    """
    members = list(dict.fromkeys(given))
    if len(members) < 2:
        raise Failure("PIF_BOND_NEEDS_MORE_MEMBERS")
    for ref in members:
        row = db.row("PIF", ref)
        pif.require_managed(db, ref)
        if row["bond_slave_of"] != NULL:
            raise Failure("PIF_ALREADY_BONDED", ref)
        if row["VLAN_master_of"] != NULL:
            raise Failure("PIF_VLAN_EXISTS", ref)
        if row["tunnel_access_PIF_of"]:
            raise Failure("IS_TUNNEL_ACCESS_PIF", ref)
        if row["bond_master_of"]:
            raise Failure("PIF_ALREADY_BONDED", ref)
    if len({db.row("PIF", ref)["host"] for ref in members}) > 1:
        raise Failure("PIF_CANNOT_BOND_CROSS_HOST")
    return members


def _primary(db: Registry, members: list[str]) -> str:
    """Return the member whose address the bond takes over.

    :raises Failure: PIF_BOND_MORE_THAN_ONE_IP
    """
    rows = {ref: db.row("PIF", ref) for ref in members}
    management = [ref for ref, row in rows.items() if row["management"]]
    configured = [
        ref for ref, row in rows.items() if row["ip_configuration_mode"] != "None"
    ]
    if len(configured) > 1 and not management:
        raise Failure("PIF_BOND_MORE_THAN_ONE_IP")
    return (management or configured or members)[0]


@message("Bond.create")
def create(call: Call, net: str, given: list[str], mac: str, *more: object) -> str:
    """Join NICs of one host; ``more`` are mode and properties."""
    db = call.db
    mode, properties = more
    network.require_managed(db, net)
    if not given:
        raise Failure("PIF_BOND_NEEDS_MORE_MEMBERS")
    host = db.row("PIF", given[0])["host"]
    pif.require_free(db, net, host)
    members = _members(db, given)
    if mac:
        pif.check_mac(mac)
    assert isinstance(properties, dict)  # noqa: S101 (the schema says so)
    for name, value in properties.items():
        _check_property(name, value)
    primary = _primary(db, members)
    row = db.row("PIF", primary)
    taken = {name: row[name] for name in (*_ADDRESS, "management")}
    master = pif.access_pif(
        db,
        primary,
        net,
        device=_free_device(db, host),
        MAC=mac or row["MAC"],
        properties=dict(row["properties"]),
        **taken,
    )
    ref = db.create(
        "Bond",
        {
            "master": master,
            "primary_slave": primary,
            "mode": mode,
            "properties": properties,
            "links_up": len(members),
            "auto_update_mac": mac == "",
        },
    )
    for member in members:
        _move_in(db, member, ref, master)
    pif.bring_up(db, master)
    return ref


def _free_device(db: Registry, host: str) -> str:
    taken = {row["device"] for _, row in db.rows("PIF") if row["host"] == host}
    number = 0
    while f"bond{number}" in taken:
        number += 1
    return f"bond{number}"


def _without_address(row: Row) -> Row:
    empty: Row = {name: "" for name in _ADDRESS}
    return {**empty, "ip_configuration_mode": "None", "management": False}


def _move_in(db: Registry, member: str, bond: str, master: str) -> None:
    """Make a NIC part of the bond; its VLANs, tunnels and VIFs go to the bond."""
    row = db.row("PIF", member)
    for vlan in row["VLAN_slave_of"]:
        db.update("VLAN", vlan, tagged_PIF=master)
        above = db.row("VLAN", vlan)["untagged_PIF"]
        db.update("PIF", above, device=db.row("PIF", master)["device"])
    for tunnel in row["tunnel_transport_PIF_of"]:
        db.update("tunnel", tunnel, transport_PIF=master)
    new = db.row("PIF", master)["network"]
    for vif in db.row("network", row["network"])["VIFs"]:
        if _resident(db, vif) == row["host"]:
            db.update("VIF", vif, network=new)
    db.update("PIF", member, bond_slave_of=bond, **_without_address(row))


def _resident(db: Registry, vif: str) -> str:
    return str(db.row("VM", db.row("VIF", vif)["VM"])["resident_on"])


@message("Bond.destroy")
def destroy(call: Call, ref: str) -> None:
    """Take the NICs apart; the first one gets what the bond had."""
    db = call.db
    row = db.row("Bond", ref)
    master, primary = row["master"], row["primary_slave"]
    above = db.row("PIF", master)
    for vlan in above["VLAN_slave_of"]:
        db.update("VLAN", vlan, tagged_PIF=primary)
        untagged = db.row("VLAN", vlan)["untagged_PIF"]
        db.update("PIF", untagged, device=db.row("PIF", primary)["device"])
    for tunnel in above["tunnel_transport_PIF_of"]:
        db.update("tunnel", tunnel, transport_PIF=primary)
    home = db.row("PIF", primary)["network"]
    for vif in db.row("network", above["network"])["VIFs"]:
        if _resident(db, vif) == above["host"]:
            db.update("VIF", vif, network=home)
    for member in row["slaves"]:
        db.update("PIF", member, bond_slave_of=NULL)
    taken = {name: above[name] for name in (*_ADDRESS, "management")}
    db.update("PIF", primary, **taken)
    pif.bring_up(db, primary)
    db.destroy("Bond", ref)
    pif.remove(db, master)


@message("Bond.set_mode")
def set_mode(call: Call, ref: str, value: str) -> None:
    """Choose how traffic is spread."""
    call.db.update("Bond", ref, mode=value)


@message("Bond.set_property")
def set_property(call: Call, ref: str, name: str, value: str) -> None:
    """Set a property of the mode."""
    _check_property(name, value)
    old = call.db.row("Bond", ref)["properties"]
    call.db.update("Bond", ref, properties={**old, name: value})
