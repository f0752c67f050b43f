# SPDX-License-Identifier: Apache-2.0
"""What state a server is in."""

from __future__ import annotations

from xenapi_driver import exceptions
from xenapi_driver.xapi import vm
from xenapi_driver.xapi.home import Home


def power_state(home: Home, name: str, uuid: str) -> tuple[str, int | None]:
    """Return XAPI's power state of the server and its domain id (None if halted).

    :raises exceptions.ServerNotFound: the host answered, and it is not there
    """
    record = vm.find_server(home.session, name, uuid)
    if record is None:
        raise exceptions.ServerNotFound(f"Server {name} has no VM on the host.")
    return record.power_state, record.domid if record.domid >= 0 else None
