# SPDX-License-Identifier: Apache-2.0
"""Puts graphics cards into simulated hosts, which have none when they are new."""

from collections.abc import Mapping

from xenapi_driver.sim.classes import graphics
from xenapi_driver.sim.registry import Registry

_PASSTHROUGH = "passthrough"


def put_card(db: Registry, host: str, name: str, kinds: Mapping[str, int]) -> str:
    """Put a card into a host, as the toolstack finds it when it starts.

    :param name: of the card, such as ``GRID K1``; cards of one name are a group
    :param kinds: names of the types that it can be split into, and into how many;
        the whole card is always one more
    :returns: the PGPU
    """
    number = len(db.find("PCI", host=host)) + 1
    device = db.create(
        "PCI",
        {
            "host": host,
            "class_id": "0300",
            "class_name": "VGA compatible controller",
            "vendor_id": "10de",
            "vendor_name": "NVIDIA Corporation",
            "device_id": "0ff2",
            "device_name": name,
            "driver_name": "nvidia",
            "pci_id": f"0000:{number:02x}:00.0",
        },
    )
    counts = {_kind(db, name, _PASSTHROUGH): 1}
    counts.update({_kind(db, name, kind): most for kind, most in kinds.items()})
    group = _group(db, name)
    card = db.create(
        "PGPU",
        {
            "PCI": device,
            "GPU_group": group,
            "host": host,
            "supported_VGPU_types": list(counts),
            "enabled_VGPU_types": list(counts),
            "supported_VGPU_max_capacities": counts,
        },
    )
    graphics.update_group(db, group)
    return card


def _group(db: Registry, name: str) -> str:
    label = f"Group of NVIDIA Corporation {name} GPUs"
    found = db.find("GPU_group", name_label=label)
    if found:
        return found[0]
    return db.create("GPU_group", {"name_label": label, "GPU_types": ["10de/0ff2"]})


def _kind(db: Registry, card: str, model: str) -> str:
    whole = model == _PASSTHROUGH
    values = {
        "vendor_name": "" if whole else "NVIDIA Corporation",
        "model_name": model,
        "implementation": "passthrough" if whole else "nvidia",
        "identifier": "0000:passthrough" if whole else f"0001:nvidia,{card},{model}",
    }
    found = db.find("VGPU_type", identifier=values["identifier"])
    return found[0] if found else db.create("VGPU_type", values)
