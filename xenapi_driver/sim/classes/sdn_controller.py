# SPDX-License-Identifier: Apache-2.0
"""Class SDN_controller: who may tell the hosts' switches what to do."""

import ipaddress

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message

_PORT = 6640
_HIGHEST_PORT = 65535


@message("SDN_controller.introduce")
def introduce(call: Call, protocol: str, address: str, port: int) -> str:
    """Let all switches connect to a controller, or wait for one; there is one only."""
    if call.db.count("SDN_controller"):
        raise Failure("OPERATION_NOT_ALLOWED", "SDN controller has been configured")
    if protocol == "pssl":
        if address:
            raise Failure("OPERATION_NOT_ALLOWED", "pssl takes no address")
        if port:
            raise Failure("OPERATION_NOT_ALLOWED", "pssl takes no port")
    else:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise Failure("INVALID_IP_ADDRESS_SPECIFIED", "address") from None
        if not 0 <= port <= _HIGHEST_PORT:
            raise Failure("VALUE_NOT_SUPPORTED", "port", str(port), "out of range")
    return call.db.create(
        "SDN_controller",
        {"protocol": protocol, "address": address, "port": port or _PORT},
    )


@message("SDN_controller.forget")
def forget(call: Call, ref: str) -> None:
    """Let the switches be; a port that is locked is no matter any more."""
    call.db.destroy("SDN_controller", ref)
