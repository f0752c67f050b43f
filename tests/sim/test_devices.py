# SPDX-License-Identifier: Apache-2.0
"""Cards and PCI devices of a host that guests get."""

import pytest

from tests.sim.clients import NULL, refusal, vm_record
from xenapi_driver.sim.start import graphics

ADDRESS = "0000:01:00.0"


@pytest.fixture
def card(sim):
    (host,) = sim.world.db.refs("host")
    return graphics.put_card(sim.world.db, host, "GRID K1", {"GRID K100": 2})


def kinds(client):
    found = client.call("VGPU_type.get_all_records")
    return {record["model_name"]: ref for ref, record in found.items()}


def with_vgpu(client, kind):
    vm = client.call("VM.create", vm_record())
    (group,) = client.call("GPU_group.get_all")
    return vm, client.call("VGPU.create", vm, group, "0", {"a": "b"}, kind)


def test_a_card_is_split_among_guests_of_one_type(client, card):
    kind = kinds(client)["GRID K100"]
    vms = [with_vgpu(client, kind) for _number in range(3)]
    (group,) = client.call("GPU_group.get_all")

    def left(name="GRID K100"):
        args = group, kinds(client)[name]
        return int(client.call("GPU_group.get_remaining_capacity", *args))

    # A guest that does not run has no card.
    assert (left(), left("passthrough")) == (2, 1)
    client.call("VM.start", vms[0][0], False, False)
    assert (left(), left("passthrough")) == (1, 0)
    assert client.call("VGPU.get_resident_on", vms[0][1]) == card
    assert client.call("PGPU.get_resident_VGPUs", card) == [vms[0][1]]
    client.call("VM.start", vms[1][0], False, False)
    (host,) = client.call("host.get_all")
    got = refusal(client, "VM.start_on", vms[2][0], host, False, False)
    assert got == ["VM_REQUIRES_VGPU", vms[2][0], group, kind]
    assert refusal(client, "VM.suspend", vms[0][0])[0] == "VM_HAS_VGPU"
    assert refusal(client, "VGPU.destroy", vms[0][1])[0] == "OPERATION_NOT_ALLOWED"
    client.call("VM.hard_shutdown", vms[0][0])
    client.call("VM.start", vms[2][0], False, False)
    client.call("VM.destroy", vms[0][0])
    assert set(client.call("VGPU.get_all")) == {vms[1][1], vms[2][1]}


def test_types_are_enabled_and_disabled(client, card):
    kind = kinds(client)["GRID K100"]
    (group,) = client.call("GPU_group.get_all")
    client.call("PGPU.remove_enabled_VGPU_types", card, kind)
    assert kind not in client.call("GPU_group.get_enabled_VGPU_types", group)
    capacity = client.call("PGPU.get_remaining_capacity", card, kind)
    assert int(capacity) == 0
    client.call("PGPU.add_enabled_VGPU_types", card, kind)
    vm, _device = with_vgpu(client, kind)
    client.call("VM.start", vm, False, False)
    got = refusal(client, "PGPU.set_enabled_VGPU_types", card, [])
    assert got == ["PGPU_IN_USE_BY_VM", vm]


def test_a_vgpu_is_made_for_a_halted_vm_once(client, card):
    kind = kinds(client)["passthrough"]
    vm, _device = with_vgpu(client, NULL)
    (group,) = client.call("GPU_group.get_all")
    (made,) = client.call("VGPU.get_all_records").values()
    assert made["type"] == kind
    got = refusal(client, "VGPU.create", vm, group, "0", {}, kind)
    assert got == ["DEVICE_ALREADY_EXISTS", "0"]
    assert refusal(client, "VGPU.create", vm, group, "7", {}, kind)[0] == (
        "INVALID_DEVICE"
    )
    assert refusal(client, "GPU_group.destroy", group)[0] == "GPU_GROUP_CONTAINS_PGPU"


def test_a_pci_device_goes_to_one_guest(local, sim):
    device = sim.world.db.find("PCI", pci_id=ADDRESS)[0]
    vms = [local.call("VM.create", vm_record()) for _number in range(2)]
    for vm in vms:
        local.call("VM.add_to_other_config", vm, "pci", f"0/{ADDRESS}")
    (host,) = local.call("host.get_all")

    def refused(vm):
        return refusal(local, "VM.start_on", vm, host, False, False)[0]

    # Dom0 has it still.
    assert refused(vms[0]) == "INTERNAL_ERROR"
    sim.world.db.update("PCI", device, driver_name="pciback")
    local.call("VM.start", vms[0], False, False)
    assert local.call("VM.get_attached_PCIs", vms[0]) == [device]
    assert refused(vms[1]) == "INTERNAL_ERROR"
    assert refusal(local, "VM.suspend", vms[0]) == ["VM_HAS_PCI_ATTACHED", vms[0]]
    local.call("VM.hard_shutdown", vms[0])
    assert local.call("VM.get_attached_PCIs", vms[0]) == []
    local.call("VM.start", vms[1], False, False)
    assert local.call("VM.get_attached_PCIs", vms[1]) == [device]


def test_an_address_that_no_device_has(local):
    vm = local.call("VM.create", vm_record())
    local.call("VM.add_to_other_config", vm, "pci", "0/0000:77:00.0")
    (host,) = local.call("host.get_all")
    got = refusal(local, "VM.start_on", vm, host, False, False)
    assert got[0] == "INTERNAL_ERROR"
    assert local.call("VM.get_power_state", vm) == "Halted"
