# SPDX-License-Identifier: Apache-2.0
"""Class VLAN: a tagged network on a NIC or bond."""

from xenapi_driver.sim.classes import network, pif
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.pools import forwarding
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.schema import NULL

_MAX_TAG = 4094


@message("VLAN.create")
def create(call: Call, tagged: str, tag: int, net: str) -> str:
    """Connect a network to one host through a tag; plugged if the NIC is."""
    db = call.db
    network.require_managed(db, net)
    if not 0 <= tag <= _MAX_TAG:
        raise Failure("VLAN_TAG_INVALID", str(tag))
    row = db.row("PIF", tagged)
    pif.require_free(db, net, row["host"])
    pif.require_managed(db, tagged)
    if row["tunnel_access_PIF_of"]:
        raise Failure("IS_TUNNEL_ACCESS_PIF", tagged)
    if row["bond_slave_of"] != NULL:
        raise Failure("CANNOT_ADD_VLAN_TO_BOND_SLAVE", tagged)
    if row["VLAN_master_of"] != NULL:
        raise Failure("PIF_IS_VLAN", tagged)
    if any(db.row("VLAN", other)["tag"] == tag for other in row["VLAN_slave_of"]):
        raise Failure("PIF_VLAN_EXISTS", tagged)
    untagged = pif.access_pif(
        db, tagged, net, VLAN=tag, properties=dict(row["properties"])
    )
    values = {"tagged_PIF": tagged, "untagged_PIF": untagged, "tag": tag}
    ref = db.create("VLAN", values)
    db.update("PIF", untagged, VLAN_master_of=ref)
    if row["currently_attached"]:
        pif.bring_up(db, untagged)
    return ref


@message("VLAN.destroy")
def destroy(call: Call, ref: str) -> None:
    """Disconnect the network from the host."""
    db = call.db
    untagged = db.row("VLAN", ref)["untagged_PIF"]
    if db.exists("PIF", untagged):
        row = db.row("PIF", untagged)
        if row["management"]:
            raise Failure("PIF_IS_MANAGEMENT_INTERFACE", untagged)
        if row["tunnel_transport_PIF_of"]:
            raise Failure("PIF_TUNNEL_STILL_EXISTS", untagged)
        if row["disallow_unplug"]:
            raise Failure("PIF_DOES_NOT_ALLOW_UNPLUG", untagged)
        pif.remove(db, untagged)
    db.destroy("VLAN", ref)


@message("VLAN.pool_introduce")
def pool_introduce(
    call: Call, tagged: str, untagged: str, tag: int, other_config: dict[str, str]
) -> str:
    """Make a VLAN in the database alone."""
    call.db.row("PIF", untagged)
    if tagged == untagged or call.db.row("PIF", tagged)["VLAN_master_of"] != NULL:
        raise Failure("PIF_IS_VLAN", tagged)
    values = {"tagged_PIF": tagged, "untagged_PIF": untagged, "tag": tag}
    ref = call.db.create("VLAN", {**values, "other_config": other_config})
    call.db.update("PIF", untagged, VLAN_master_of=ref)
    return ref


def _untagged(db: Registry, vlan: str) -> str:
    return str(db.row("VLAN", vlan)["untagged_PIF"])


@message("PIF.create_VLAN")
def create_by_device(call: Call, device: str, net: str, host: str, tag: int) -> str:
    """Make a VLAN by its NIC's name and return the PIF."""
    call.db.row("network", net)
    call.db.row("host", host)
    return _untagged(call.db, create(call, pif.base_of(call, device, host), tag, net))


@message("PIF.destroy")
def destroy_pif(call: Call, ref: str) -> None:
    """Destroy the VLAN whose PIF this is."""
    pif.require_managed(call.db, ref)
    row = call.db.row("PIF", ref)
    if row["physical"] or row["VLAN_master_of"] == NULL:
        raise Failure("PIF_IS_PHYSICAL")
    destroy(call, row["VLAN_master_of"])


@message("pool.create_VLAN")
def create_everywhere(call: Call, device: str, net: str, tag: int) -> list[str]:
    """Make a VLAN on the NICs of that name of all hosts."""
    call.db.row("network", net)
    bases = [pif.base_of(call, device, host) for host in call.db.refs("host")]
    return _create_all(call, bases, net, tag)


@message("pool.create_VLAN_from_PIF")
def create_from_pif(call: Call, base: str, net: str, tag: int) -> list[str]:
    """Make a VLAN on all live hosts' PIFs of the network that ``base`` is on."""
    call.db.row("network", net)
    below = call.db.row("PIF", base)["network"]
    there = [
        base
        for base in call.db.row("network", below)["PIFs"]
        if forwarding.counts_as_live(call.db, call.db.row("PIF", base)["host"])
    ]
    return _create_all(call, there, net, tag)


def _create_all(call: Call, bases: list[str], net: str, tag: int) -> list[str]:
    """Make the VLAN on each PIF; what was made goes again when one fails."""
    made: list[str] = []
    try:
        for base in bases:
            made.append(create(call, base, tag, net))
    except Failure:
        for vlan in made:
            destroy(call, vlan)
        raise
    return [_untagged(call.db, vlan) for vlan in made]
