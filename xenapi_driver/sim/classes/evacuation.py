# SPDX-License-Identifier: Apache-2.0
"""Class host: emptying a host before something is done to it."""

from xenapi_driver.sim.classes import migration
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message


def _guests(call: Call, host: str) -> list[str]:
    return [
        ref
        for ref in call.db.row("host", host)["resident_VMs"]
        if not call.db.row("VM", ref)["is_control_domain"]
    ]


def _refuge(call: Call, vm: str, host: str) -> str:
    """Return a host that the guest can go to.

    :raises Failure: of the only other host its own refusal, else NO_HOSTS_AVAILABLE
    """
    others = [
        ref
        for ref, row in call.db.rows("host")
        if ref != host and row["enabled"] and _live(call, ref)
    ]
    refusal = Failure("NO_HOSTS_AVAILABLE", vm)
    for other in others:
        try:
            migration.check_host(call.world, vm, other)
        except Failure as failure:
            if len(others) == 1:
                refusal = failure
        else:
            return other
    raise refusal


def _live(call: Call, host: str) -> bool:
    metrics = call.db.row("host", host)["metrics"]
    return bool(call.db.row("host_metrics", metrics)["live"])


@message("host.get_vms_which_prevent_evacuation")
def get_vms_which_prevent_evacuation(call: Call, host: str) -> dict[str, list[str]]:
    """Return the guests that have nowhere to go, each with the reason."""
    found = {}
    for vm in _guests(call, host):
        try:
            _refuge(call, vm, host)
        except Failure as failure:
            found[vm] = failure.description
    return found


@message("host.assert_can_evacuate")
def assert_can_evacuate(call: Call, host: str) -> None:
    """Refuse a host with guests that have nowhere to go."""
    stuck = get_vms_which_prevent_evacuation(call, host)
    if stuck:
        reasons = [",".join(reason) for reason in stuck.values()]
        raise Failure("CANNOT_EVACUATE_HOST", "|".join(reasons))


@message("host.evacuate")
def evacuate(call: Call, host: str, network: str, batch: int) -> None:
    """Move all guests to other hosts; none is moved where one cannot be."""
    stuck = get_vms_which_prevent_evacuation(call, host)
    for reason in stuck.values():
        raise Failure(*reason)
    for vm in _guests(call, host):
        call.check_cancelled()
        migration.move(call, vm, _refuge(call, vm, host))
