# SPDX-License-Identifier: Apache-2.0
"""Steps that give a VM its network interfaces."""

from __future__ import annotations

from xenapi_driver import exceptions, flow
from xenapi_driver.steps.build import Built, Server
from xenapi_driver.xapi import vif
from xenapi_driver.xapi.home import Home

# The dom0 service that follows OVS ports copies this key into the port's
# external-ids:iface-id, by which Neutron's agent knows it.
IFACE_ID_KEY = "nicira-iface-id"
# What earlier releases wrote; clean-up tools look for it.
PORT_ID_KEY = "neutron-port-id"


class CreateVifs(flow.Step[Built]):
    """Create one VIF a port, on the integration bridge; they go with the VM."""

    name = "create-vifs"

    def __init__(self, home: Home, server: Server) -> None:
        self._home = home
        self._server = server

    def run(self, state: Built) -> None:
        ports = self._server.network.ports
        if ports and self._home.integration_network is None:
            raise exceptions.UnfitConfiguration(
                "The server has network ports, but [xenserver] "
                "ovs_integration_bridge is not set: name the bridge that Neutron's "
                "agent manages in dom0, usually br-int."
            )
        for device, port in enumerate(ports):
            record = {
                "device": str(device),
                "network": self._home.integration_network,
                "VM": state.vm,
                "MAC": port.mac,
                "MTU": port.mtu,
                "other_config": {
                    IFACE_ID_KEY: port.port_id,
                    PORT_ID_KEY: port.port_id,
                },
                "qos_algorithm_type": "",
                "qos_algorithm_params": {},
                "locking_mode": "network_default",
                "ipv4_allowed": [],
                "ipv6_allowed": [],
            }
            state.vifs.append(vif.create(self._home.session, record))
