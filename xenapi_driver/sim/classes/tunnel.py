# SPDX-License-Identifier: Apache-2.0
"""Classes tunnel and network_sriov: other ways to connect a network to a host."""

from xenapi_driver.sim.classes import network, pif
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.schema import NULL


@message("tunnel.create")
def create(call: Call, transport: str, net: str, protocol: str) -> str:
    """Connect a network to one host through a tunnel, and plug it.

    As on a real host, the tunnel stays where the plug at the end is refused.
    """
    db = call.db
    network.require_managed(db, net)
    row = db.row("PIF", transport)
    pif.require_free(db, net, row["host"])
    pif.require_managed(db, transport)
    if row["bond_slave_of"] != NULL:
        raise Failure("CANNOT_ADD_TUNNEL_TO_BOND_SLAVE", transport)
    if row["tunnel_access_PIF_of"]:
        raise Failure("IS_TUNNEL_ACCESS_PIF", transport)
    for _, host in db.rows("host"):
        if host["software_version"]["network_backend"] != "openvswitch":
            raise Failure("OPENVSWITCH_NOT_ACTIVE")
    number = len(db.refs("tunnel"))
    access = pif.access_pif(db, transport, net, device=f"tunnel{number}")
    ref = db.create(
        "tunnel",
        {
            "access_PIF": access,
            "transport_PIF": transport,
            "protocol": protocol,
            "status": {"active": "false"},
        },
    )
    pif.bring_up(db, access)
    return ref


@message("tunnel.destroy")
def destroy(call: Call, ref: str) -> None:
    """Disconnect the network from the host."""
    access = call.db.row("tunnel", ref)["access_PIF"]
    if call.db.exists("PIF", access):
        pif.remove(call.db, access)
    call.db.destroy("tunnel", ref)


@message("network_sriov.create")
def create_sriov(call: Call, physical: str, net: str) -> str:
    """Refuse: the simulated NICs share no virtual functions."""
    row = call.db.row("PIF", physical)
    if not row["physical"]:
        raise Failure("PIF_IS_NOT_PHYSICAL", physical)
    pif.require_free(call.db, net, row["host"])
    raise Failure("PIF_IS_NOT_SRIOV_CAPABLE", physical)
