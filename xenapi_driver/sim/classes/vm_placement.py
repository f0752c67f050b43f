# SPDX-License-Identifier: Apache-2.0
"""Class VM: on which hosts a guest can start, and on which it does."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.vms import guests, memory


def fitting(call: Call, vm: str) -> list[str]:
    """Return the hosts that could start the VM now."""
    return [host for host in call.db.refs("host") if _fits(call, vm, host)]


def _fits(call: Call, vm: str, host: str) -> bool:
    try:
        guests.assert_can_boot(call.world, vm, host)
    except Failure:
        # That host is not one of them: this is the answer, not a fault.
        return False
    return True


def choose(call: Call, vm: str) -> str:
    """Return the host for a start: the affinity, or where there is most room.

    :raises Failure: NO_HOSTS_AVAILABLE
    """
    affinity = str(call.db.row("VM", vm)["affinity"])
    if call.db.exists("host", affinity) and _fits(call, vm, affinity):
        return affinity
    rivals, rank = _apart_from(call, vm), {}
    for host in call.db.refs("host"):
        rank[host] = _count(call, rivals, host), -memory.free(call.db, host)
    # The best first: the checks cost more than the order.
    for host in sorted(rank, key=lambda host: rank[host]):
        if _fits(call, vm, host):
            return host
    raise Failure("NO_HOSTS_AVAILABLE")


def _apart_from(call: Call, vm: str) -> set[str]:
    """Return the VMs that should rather run on other hosts."""
    found: set[str] = set()
    for ref in call.db.row("VM", vm)["groups"]:
        group = call.db.row("VM_group", ref)
        if group["placement"] == "anti_affinity":
            found.update(group["VMs"])
    return found - {vm}


def _count(call: Call, vms: set[str], host: str) -> int:
    return len(vms.intersection(call.db.row("host", host)["resident_VMs"]))


@message("VM.get_possible_hosts")
def get_possible_hosts(call: Call, ref: str) -> list[str]:
    """Return the hosts that could start the VM."""
    return fitting(call, ref)


@message("VM.assert_can_boot_here")
def assert_can_boot_here(call: Call, ref: str, host: str) -> None:
    """Make the checks of a start."""
    guests.assert_well_formed(ref, call.db.row("VM", ref))
    guests.assert_can_boot(call.world, ref, host)


@message("VM.assert_agile")
def assert_agile(call: Call, ref: str) -> None:
    """Refuse a VM that only some hosts could run: by its disks or its networks."""
    db = call.db
    hosts = db.refs("host")
    for vbd in db.row("VM", ref)["VBDs"]:
        disk = db.row("VBD", vbd)["VDI"]
        if disk == NULL:
            continue
        sr = db.row("VDI", disk)["SR"]
        if not db.row("SR", sr)["shared"]:
            raise Failure("HOST_CANNOT_SEE_SR", NULL, sr)
        for host in hosts:
            if not db.find("PBD", SR=sr, host=host, currently_attached=True):
                raise Failure("HOST_CANNOT_SEE_SR", host, sr)
    for vif in db.row("VM", ref)["VIFs"]:
        network = db.row("VIF", vif)["network"]
        places = {
            db.row("PIF", pif)["host"] for pif in db.row("network", network)["PIFs"]
        }
        for host in set(hosts) - places if places else ():
            raise Failure("HOST_CANNOT_ATTACH_NETWORK", host, network)
