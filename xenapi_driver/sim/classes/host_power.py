# SPDX-License-Identifier: Apache-2.0
"""Class host: stopping and starting hosts.

A host that is asked to go answers first and goes a moment later. One that is
restarted is back ``Behaviour.boot_time`` seconds after that.
"""

import threading
from collections.abc import Callable

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.pools import power, settlement
from xenapi_driver.sim.pools.machines import Machine

# The answer is on its way when the host goes, this many seconds later.
_MOMENT = 0.1


@message("host.disable")
def disable(call: Call, host: str, auto_enable: bool) -> None:
    """Take no more guests; ``auto_enable``: until the toolstack or the host starts."""
    with call.db.changed:
        call.db.update("host", host, enabled=False)
        stay = call.world.stay_disabled
        (stay.discard if auto_enable else stay.add)(host)


@message("host.enable")
def enable(call: Call, host: str) -> None:
    """Take guests again.

    :raises Failure: HOST_DISABLED_UNTIL_REBOOT of a host that is going down
    """
    if host in call.world.going:
        raise Failure("HOST_DISABLED_UNTIL_REBOOT", host)
    with call.db.changed:
        call.world.stay_disabled.discard(host)
        call.db.update("host", host, enabled=True)


@message("host.shutdown")
def shutdown(call: Call, host: str) -> None:
    """Turn the host off: it must be disabled and empty."""
    machine = _prepare(call, host)
    _later(_MOMENT, power.off, machine, True)


@message("host.reboot")
def reboot(call: Call, host: str) -> None:
    """Restart the host: it must be disabled and empty."""
    machine = _prepare(call, host)
    _later(_MOMENT, _restart, machine, call.world.behaviour.boot_time)


def _restart(machine: Machine, seconds: float) -> None:
    """Turn the host off, and on when it went, never before."""
    power.off(machine, True)
    _later(seconds, power.on, machine)


def _machine(call: Call, host: str) -> Machine:
    machine = settlement.machines_of(call.world).of(call.world, host)
    if machine is None:
        raise RuntimeError(f"{host} stands nowhere.")
    return machine


def _prepare(call: Call, host: str) -> Machine:
    """Check that the host may go, and let nobody enable it meanwhile.

    :raises Failure: HOST_NOT_DISABLED, HOST_HAS_RESIDENT_VMS
    """
    row = call.db.row("host", host)
    if row["enabled"]:
        raise Failure("HOST_NOT_DISABLED")
    for vm in row["resident_VMs"]:
        if not call.db.row("VM", vm)["is_control_domain"]:
            raise Failure("HOST_HAS_RESIDENT_VMS", host)
    call.world.going.add(host)
    return _machine(call, host)


def _later(seconds: float, do: Callable[..., None], *arguments: object) -> None:
    timer = threading.Timer(seconds, do, arguments)
    timer.daemon = True
    timer.start()
