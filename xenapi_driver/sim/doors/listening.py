# SPDX-License-Identifier: Apache-2.0
"""Where the command's machines listen.

The coordinators listen at the address that was asked for, on consecutive ports. On
the loopback interface every machine has an address of its own besides, 127.0.0.1 and
those after it, on the same port as its coordinator: a client that is sent from a
supporter to its coordinator changes the address and keeps the port.
"""

import argparse
import ipaddress

from xenapi_driver.sim.doors.server import Server
from xenapi_driver.sim.simulator import Simulator

_ATTEMPTS = 20


class DoorRefused(Exception):
    """An address cannot be listened on; str() is one sentence that says why."""


def addresses(host: str, count: int) -> tuple[str, ...]:
    """Return the addresses of all machines, () where they can have none.

    :param host: address that was asked for
    """
    try:
        first = ipaddress.IPv4Address(host)
    except ValueError:
        return ()
    if not first.is_loopback:
        return ()
    return tuple(str(first + number) for number in range(count))


def open_doors(
    simulator: Simulator, arguments: argparse.Namespace
) -> list[tuple[Server, str]]:
    """Open the doors; return each with what is to be said of it.

    :raises DoorRefused: a port is taken, or the address is not this machine's
    """
    attempts = 1 if arguments.port else _ATTEMPTS
    opened: list[tuple[Server, str]] = []
    for left in reversed(range(attempts)):
        opened = []
        try:
            _open_all(simulator, arguments, opened)
        except (OSError, OverflowError) as error:
            simulator.close_doors()
            if not left:
                raise _refused(arguments, error) from error
        else:
            break
    return opened


def _refused(
    arguments: argparse.Namespace, error: OSError | OverflowError
) -> DoorRefused:
    ports = f"from port {arguments.port} on" if arguments.port else "on free ports"
    text = getattr(error, "strerror", None) or str(error)
    # Python adds the address, which is said already.
    why = text.partition(" (while ")[0]
    return DoorRefused(f"Cannot listen at {arguments.host} {ports}: {why}.")


def _open_all(
    simulator: Simulator,
    arguments: argparse.Namespace,
    opened: list[tuple[Server, str]],
) -> None:
    base, extra = arguments.port, []
    pools = simulator.pools()
    own = addresses(arguments.host, sum(map(len, pools)))
    # Without addresses of their own, supporters come after all pools.
    after = len(pools)
    for index, members in enumerate(pools):
        for position, machine in enumerate(members):
            number = machine.number
            where, port, who = arguments.host, base + index, ""
            if position:
                who = f" host {position + 1} of pool {index + 1}"
                where = own[number] if own else arguments.host
                port = base + (index if own else after)
                after += 0 if own else 1
            elif index:
                who = f" pool {index + 1}"
            server = simulator.serve(
                where, port, arguments.tls, arguments.admin, number
            )
            opened.append((server, who))
            base = base or server.port
            if own and where != own[number]:
                extra.append((own[number], server.port, number))
    for where, port, number in extra:
        simulator.serve(where, port, arguments.tls, arguments.admin, number)
