# SPDX-License-Identifier: Apache-2.0
"""Class host: emptying a host before something is done to it."""

from xenapi_driver.sim import tasks
from xenapi_driver.sim.classes import migration
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.pools import forwarding
from xenapi_driver.sim.vms import operations, states


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
        if ref != host and row["enabled"] and forwarding.counts_as_live(call.db, ref)
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


@message("host.get_vms_which_prevent_evacuation")
def get_vms_which_prevent_evacuation(call: Call, host: str) -> dict[str, list[str]]:
    """Return the guests that cannot move or have nowhere to go, with the reasons."""
    found = {}
    for vm in _guests(call, host):
        try:
            states.require(call.db, vm, "pool_migrate")
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


@message("host.evacuate", blocking=True)
def evacuate(call: Call, host: str, network: str, batch: int) -> None:
    """Move all guests to other hosts; none is moved where one cannot be.

    :raises Failure: what stands in a guest's way, HOST_EVACUATE_IN_PROGRESS
    """
    db = call.db
    key = call.task or db.new_ref()
    with db.changed:
        going_on = db.row("host", host)["current_operations"]
        if "evacuate" in going_on.values():
            raise Failure("HOST_EVACUATE_IN_PROGRESS", host)
        for reason in get_vms_which_prevent_evacuation(call, host).values():
            raise Failure(*reason)
        vms = _guests(call, host)
        db.update("host", host, current_operations={**going_on, key: "evacuate"})
    try:
        for number, vm in enumerate(vms):
            call.check_cancelled()
            with db.changed:
                _move(call, vm, host)
            tasks.set_progress(call, (number + 1) / len(vms))
    finally:
        with db.changed:
            going_on = dict(db.row("host", host)["current_operations"])
            del going_on[key]
            db.update("host", host, current_operations=going_on)


def _move(call: Call, vm: str, host: str) -> None:
    """Move a guest away, once it does nothing else; one that left is no matter."""
    if not _is_there(call, vm, host):
        return
    try:
        with operations.under_way(call, vm, "pool_migrate"):
            migration.move(call, vm, _refuge(call, vm, host))
    except Failure:
        if _is_there(call, vm, host):
            raise


def _is_there(call: Call, vm: str, host: str) -> bool:
    db = call.db
    return db.exists("VM", vm) and bool(db.row("VM", vm)["resident_on"] == host)
