# SPDX-License-Identifier: Apache-2.0
"""Classes GPU_group, PGPU, VGPU: graphics cards and what guests get of them.

A host as it is installed has none; :mod:`xenapi_driver.sim.start.graphics` puts one in.
"""

from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.vms import devices

_ONLY_DEVICE = "0"


@message("GPU_group.create")
def create_group(
    call: Call, label: str, description: str, config: dict[str, str]
) -> str:
    """Make a group that cards could be put into."""
    return call.db.create(
        "GPU_group",
        {
            "name_label": label,
            "name_description": description,
            "other_config": config,
        },
    )


@message("GPU_group.destroy")
def destroy_group(call: Call, ref: str) -> None:
    """Remove a group that no card is in."""
    cards = call.db.row("GPU_group", ref)["PGPUs"]
    if cards:
        raise Failure("GPU_GROUP_CONTAINS_PGPU", *cards)
    guests = call.db.row("GPU_group", ref)["VGPUs"]
    if guests:
        raise Failure("GPU_GROUP_CONTAINS_VGPU", *guests)
    call.db.destroy("GPU_group", ref)


def _require(call: Call, cls: str, ref: str) -> None:
    if not call.db.exists(cls, ref):
        raise handle_invalid(cls, ref)


@message("GPU_group.get_remaining_capacity")
def get_remaining_capacity(call: Call, ref: str, kind: str) -> int:
    """Return how many more guests the cards of a group can serve."""
    _require(call, "VGPU_type", kind)
    return devices.group_capacity(call.db, ref, kind)


@message("PGPU.get_remaining_capacity")
def get_card_capacity(call: Call, ref: str, kind: str) -> int:
    """Return how many more guests a card can serve."""
    _require(call, "VGPU_type", kind)
    return devices.capacity(call.db, ref, kind)


@message("PGPU.set_enabled_VGPU_types", "PGPU.add_enabled_VGPU_types")
@message("PGPU.remove_enabled_VGPU_types")
def change_enabled_types(call: Call, ref: str, value: str | list[str]) -> None:
    """Say which types guests may have of a card."""
    row = call.db.row("PGPU", ref)
    named = [value] if isinstance(value, str) else list(value)
    for kind in named:
        _require(call, "VGPU_type", kind)
    enabled = list(row["enabled_VGPU_types"])
    if call.method.startswith("PGPU.set"):
        enabled = named
    elif call.method.startswith("PGPU.add"):
        enabled += [kind for kind in named if kind not in enabled]
    else:
        enabled = [kind for kind in enabled if kind not in named]
    supported = row["supported_VGPU_types"]
    for kind in enabled:
        if kind not in supported:
            raise Failure("VGPU_TYPE_NOT_SUPPORTED", kind, ", ".join(supported))
    for guest in row["resident_VGPUs"]:
        if call.db.row("VGPU", guest)["type"] not in enabled:
            raise Failure("PGPU_IN_USE_BY_VM", call.db.row("VGPU", guest)["VM"])
    call.db.update("PGPU", ref, enabled_VGPU_types=enabled)
    update_group(call.db, row["GPU_group"])


def update_group(db: devices.Registry, group: str) -> None:
    """Work out which types the cards of a group have."""
    cards = [db.row("PGPU", ref) for ref in db.row("GPU_group", group)["PGPUs"]]
    for name in ("supported_VGPU_types", "enabled_VGPU_types"):
        kinds = [kind for card in cards for kind in card[name]]
        db.update("GPU_group", group, **{name: list(dict.fromkeys(kinds))})


@message("VGPU.create")
def create_vgpu(
    call: Call, vm: str, group: str, device: str, config: dict[str, str], kind: str
) -> str:
    """Give a halted VM a device of a group's; a card is chosen at each start."""
    db = call.db
    _require(call, "VM", vm)
    _require(call, "GPU_group", group)
    if kind != NULL:
        _require(call, "VGPU_type", kind)
    row = db.row("GPU_group", group)
    if not row["PGPUs"]:
        raise Failure("GPU_GROUP_CONTAINS_NO_PGPUS", group)
    kind = _passthrough(call, row["supported_VGPU_types"]) if kind == NULL else kind
    if kind not in row["supported_VGPU_types"]:
        supported = ", ".join(row["supported_VGPU_types"])
        raise Failure("VGPU_TYPE_NOT_SUPPORTED", kind, supported)
    state = db.row("VM", vm)["power_state"]
    if state != "Halted":
        raise Failure("VM_BAD_POWER_STATE", vm, "halted", state.lower())
    if device != _ONLY_DEVICE:
        raise Failure("INVALID_DEVICE", device)
    if db.find("VGPU", VM=vm, device=device):
        raise Failure("DEVICE_ALREADY_EXISTS", device)
    about = {"VM": vm, "GPU_group": group, "device": device, "type": kind}
    return db.create("VGPU", {**about, "other_config": config})


def _passthrough(call: Call, kinds: list[str]) -> str:
    """Return the type that is the whole card."""
    for kind in kinds:
        if call.db.row("VGPU_type", kind)["implementation"] == "passthrough":
            return kind
    return NULL


@message("VGPU.destroy")
def destroy_vgpu(call: Call, ref: str) -> None:
    """Take a device from a VM that does not run."""
    if call.db.row("VGPU", ref)["currently_attached"]:
        text = "vGPU currently attached to a running VM"
        raise Failure("OPERATION_NOT_ALLOWED", text)
    call.db.destroy("VGPU", ref)
