# SPDX-License-Identifier: Apache-2.0
"""A guest's physical and graphics devices: who has which, and how many are left."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL

# Dom0's driver of a device that is set aside for guests.
_SET_ASIDE = "pciback"
_KEY = "pci"


def capacity(db: Registry, card: str, kind: str) -> int:
    """Return how many more virtual devices of a type a card can carry.

    All that a card carries at one time are of one type.
    """
    row = db.row("PGPU", card)
    if kind not in row["enabled_VGPU_types"]:
        return 0
    resident = [db.row("VGPU", ref) for ref in row["resident_VGPUs"]]
    if any(one["type"] != kind for one in resident):
        return 0
    most = int(row["supported_VGPU_max_capacities"].get(kind, 0))
    return max(0, most - len(resident))


def group_capacity(db: Registry, group: str, kind: str) -> int:
    """Return how many more virtual devices of a type a group's cards can carry."""
    cards = db.row("GPU_group", group)["PGPUs"]
    return sum(capacity(db, card, kind) for card in cards)


def _free_card(db: Registry, device: Row, host: str) -> str | None:
    for card in db.row("GPU_group", device["GPU_group"])["PGPUs"]:
        on_host = db.row("PGPU", card)["host"] == host
        if on_host and capacity(db, card, device["type"]) > 0:
            return card
    return None


def assert_there(db: Registry, vm: str, host: str) -> None:
    """Refuse a host that has not what the VM is to get.

    :raises Failure: VM_REQUIRES_VGPU; INTERNAL_ERROR where the toolstack would find
        that out when it builds the domain
    """
    for ref in db.row("VM", vm)["VGPUs"]:
        device = db.row("VGPU", ref)
        if _free_card(db, device, host) is None:
            group, kind = device["GPU_group"], device["type"]
            raise Failure("VM_REQUIRES_VGPU", vm, group, kind)
    for ref in _wanted(db, vm, host):
        row = db.row("PCI", ref)
        holders = [one for one in row["attached_VMs"] if one != vm]
        if row["driver_name"] != _SET_ASIDE or holders:
            text = f"Xenopsd: cannot add PCI device {row['pci_id']}"
            raise Failure("INTERNAL_ERROR", text)


def _wanted(db: Registry, vm: str, host: str) -> list[str]:
    """Return the PCI devices that ``other_config:pci`` names on a host.

    :raises Failure: INTERNAL_ERROR, one is not there
    """
    text = db.row("VM", vm)["other_config"].get(_KEY, "")
    found = []
    for item in filter(None, text.split(",")):
        address = item.partition("/")[2]
        refs = db.find("PCI", host=host, pci_id=address)
        if not refs:
            raise Failure("INTERNAL_ERROR", f"Xenopsd: no PCI device {item}")
        found += refs
    return found


def give(db: Registry, vm: str, host: str) -> None:
    """Give a guest that is built its devices; they were seen to be there."""
    for ref in db.row("VM", vm)["VGPUs"]:
        card = _free_card(db, db.row("VGPU", ref), host) or NULL
        db.update("VGPU", ref, resident_on=card, currently_attached=True)
    for ref in _wanted(db, vm, host):
        db.update("PCI", ref, attached_VMs=[vm])


def take_back(db: Registry, vm: str) -> None:
    """Take the devices of a guest that is gone."""
    row = db.row("VM", vm)
    for ref in row["VGPUs"]:
        db.update("VGPU", ref, resident_on=NULL, currently_attached=False)
    for ref in list(row["attached_PCIs"]):
        db.update("PCI", ref, attached_VMs=[])


def copy_vgpus(db: Registry, source: str, new: str) -> None:
    """Give a copy of a VM virtual graphics devices like its own."""
    for ref in db.row("VM", source)["VGPUs"]:
        row = db.row("VGPU", ref)
        kept = ("GPU_group", "device", "other_config", "type", "extra_args")
        db.create("VGPU", {"VM": new, **{name: row[name] for name in kept}})
