# SPDX-License-Identifier: Apache-2.0
"""Guests: their records, power states, devices and what they take."""

import pytest

from tests.sim.clients import (
    GIB,
    NULL,
    refusal,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)
from xenapi_driver.sim import Hardware, Simulator


@pytest.fixture
def guest(client, sr):
    """A halted VM with a disk and an interface: refs by class."""
    vm = client.call("VM.create", vm_record())
    vdi = client.call("VDI.create", vdi_record(sr))
    vbd = client.call("VBD.create", vbd_record(vm, vdi))
    record = {"name_label": "n", "other_config": {}, "bridge": "br-int"}
    network = client.call("network.create", {**record, "managed": False})
    vif = client.call("VIF.create", vif_record(vm, network))
    return {"VM": vm, "VDI": vdi, "VBD": vbd, "VIF": vif, "network": network}


def start(client, vm, paused=False):
    host = client.call("host.get_all")[0]
    client.call("VM.start_on", vm, host, paused, False)


def test_created_vm_is_halted_and_complete(client):
    vm = client.call("VM.create", vm_record())
    record = client.call("VM.get_record", vm)
    assert record["power_state"] == "Halted"
    assert record["guest_metrics"] == NULL
    assert "mac_seed" in record["other_config"]
    assert record["domain_type"] == "hvm"
    assert int(record["domid"]) == -1
    assert client.call("VM_metrics.get_record", record["metrics"])


def test_start_attaches_devices_and_makes_a_console(client, guest):
    start(client, guest["VM"])
    record = client.call("VM.get_record", guest["VM"])
    assert record["power_state"] == "Running"
    assert record["resident_on"] == client.call("host.get_all")[0]
    assert int(record["domid"]) > 0
    assert client.call("VBD.get_device", guest["VBD"]) == "xvda"
    assert client.call("VBD.get_currently_attached", guest["VBD"]) is True
    assert client.call("VIF.get_currently_attached", guest["VIF"]) is True
    location = client.call("console.get_location", record["consoles"][0])
    assert location.startswith("https://")
    metrics = client.call("VM_guest_metrics.get_record", record["guest_metrics"])
    assert metrics["PV_drivers_detected"] is True


def test_stop_takes_everything_away(client, guest):
    start(client, guest["VM"])
    client.call("VM.hard_shutdown", guest["VM"])
    record = client.call("VM.get_record", guest["VM"])
    assert record["power_state"] == "Halted"
    assert record["consoles"] == []
    assert record["resident_on"] == NULL
    assert client.call("VBD.get_currently_attached", guest["VBD"]) is False


@pytest.mark.parametrize(
    ("state", "operation", "expected"),
    [
        ("halted", "VM.pause", "running"),
        ("halted", "VM.unpause", "paused"),
        ("halted", "VM.hard_reboot", "paused, running"),
        ("halted", "VM.hard_shutdown", "paused, suspended, running"),
        ("running", "VM.destroy", "halted, suspended"),
        ("running", "VM.unpause", "paused"),
        ("paused", "VM.clean_shutdown", "running"),
        ("paused", "VM.pause", "running"),
    ],
)
def test_wrong_power_state(client, guest, state, operation, expected):
    vm = guest["VM"]
    if state != "halted":
        start(client, vm, paused=state == "paused")
    found = refusal(client, operation, vm)
    assert found == ["VM_BAD_POWER_STATE", vm, expected, state]


def test_power_operations(client, guest):
    vm = guest["VM"]
    start(client, vm, paused=True)
    for operation, state in (
        ("VM.unpause", "Running"),
        ("VM.pause", "Paused"),
        ("VM.unpause", "Running"),
        ("VM.clean_reboot", "Running"),
        ("VM.hard_reboot", "Running"),
        ("VM.clean_shutdown", "Halted"),
    ):
        client.call(operation, vm)
        assert client.call("VM.get_power_state", vm) == state


def test_suspend_and_resume(sim, client, guest):
    before = sim.inventory()
    vm = guest["VM"]
    start(client, vm)
    client.call("VM.suspend", vm)
    assert client.call("VM.get_power_state", vm) == "Suspended"
    image = client.call("VM.get_suspend_VDI", vm)
    assert client.call("VDI.get_type", image) == "suspend"
    assert client.call("VBD.get_currently_attached", guest["VBD"]) is True
    client.call("VM.resume", vm, False, False)
    assert client.call("VM.get_power_state", vm) == "Running"
    client.call("VM.suspend", vm)
    client.call("VM.hard_shutdown", vm)
    assert client.call("VM.get_power_state", vm) == "Halted"
    assert sim.inventory() == before


def test_silent_guest_times_out(client):
    record = vm_record(other_config={"sim:agent": "none"})
    vm = client.call("VM.create", record)
    start(client, vm)
    assert refusal(client, "VM.clean_shutdown", vm)[0] == "VM_SHUTDOWN_TIMEOUT"
    assert client.call("VM.get_power_state", vm) == "Running"
    client.call("VM.shutdown", vm)
    assert client.call("VM.get_power_state", vm) == "Halted"


def test_destroy_keeps_disks(client, guest):
    client.call("VM.destroy", guest["VM"])
    assert client.call("VDI.get_VBDs", guest["VDI"]) == []
    for cls in ("VBD", "VIF"):
        assert refusal(client, f"{cls}.get_record", guest[cls])[0] == "HANDLE_INVALID"


def test_relations_are_true_on_both_sides(client, guest):
    assert client.call("VM.get_VBDs", guest["VM"]) == [guest["VBD"]]
    assert client.call("VDI.get_VBDs", guest["VDI"]) == [guest["VBD"]]
    assert client.call("network.get_VIFs", guest["network"]) == [guest["VIF"]]
    start(client, guest["VM"])
    host = client.call("host.get_all")[0]
    assert guest["VM"] in client.call("host.get_resident_VMs", host)


def test_memory_is_taken_and_given_back(client, guest):
    host = client.call("host.get_all")[0]
    before = int(client.call("host.compute_free_memory", host))
    start(client, guest["VM"])
    overhead = int(client.call("VM.get_memory_overhead", guest["VM"]))
    during = int(client.call("host.compute_free_memory", host))
    assert before - during == GIB + overhead
    client.call("VM.hard_shutdown", guest["VM"])
    assert int(client.call("host.compute_free_memory", host)) == before


def test_too_large_a_guest_is_refused(client):
    size = str(1024 * GIB)
    record = vm_record(
        memory_static_max=size, memory_dynamic_max=size, memory_dynamic_min=size
    )
    vm = client.call("VM.create", record)
    host = client.call("host.get_all")[0]
    found = refusal(client, "VM.start_on", vm, host, False, False)
    assert found[0] == "HOST_NOT_ENOUGH_FREE_MEMORY"
    assert client.call("VM.get_power_state", vm) == "Halted"


def test_missing_bridge_is_found_at_start(client):
    vm = client.call("VM.create", vm_record())
    record = {"name_label": "n", "other_config": {}, "bridge": "br-no"}
    network = client.call("network.create", {**record, "managed": False})
    client.call("VIF.create", vif_record(vm, network))
    host = client.call("host.get_all")[0]
    found = refusal(client, "VM.start_on", vm, host, False, False)
    assert found == ["BRIDGE_NOT_AVAILABLE", "br-no"]


def test_disk_of_a_running_vm_is_protected(client, guest):
    start(client, guest["VM"])
    vdi = guest["VDI"]
    assert refusal(client, "VDI.destroy", vdi) == ["VDI_IN_USE", vdi, "destroy"]
    assert refusal(client, "VDI.resize", vdi, str(2 * GIB))[0] == "VDI_IN_USE"
    assert refusal(client, "VBD.destroy", guest["VBD"])[0] == "OPERATION_NOT_ALLOWED"
    other = client.call("VM.create", vm_record())
    client.call("VBD.create", vbd_record(other, vdi))
    host = client.call("host.get_all")[0]
    found = refusal(client, "VM.start_on", other, host, False, False)
    assert found == ["VDI_IN_USE", vdi]


def test_hot_plug_and_unplug(client, guest, sr):
    start(client, guest["VM"])
    vdi = client.call("VDI.create", vdi_record(sr))
    record = vbd_record(guest["VM"], vdi, userdevice="autodetect")
    vbd = client.call("VBD.create", record)
    client.call("VBD.plug", vbd)
    assert client.call("VBD.get_device", vbd) == "xvdb"
    assert refusal(client, "VBD.plug", vbd) == ["DEVICE_ALREADY_ATTACHED", vbd]
    client.call("VBD.unplug", vbd)
    assert refusal(client, "VBD.unplug", vbd) == ["DEVICE_ALREADY_DETACHED", vbd]
    client.call("VBD.destroy", vbd)


@pytest.mark.parametrize("device", ["0", "xvda", "hda"])
def test_taken_position(client, guest, device):
    record = vbd_record(guest["VM"], guest["VDI"], userdevice=device)
    assert refusal(client, "VBD.create", record) == ["DEVICE_ALREADY_EXISTS", device]


def test_cd_rules(client, guest):
    record = vbd_record(guest["VM"], NULL, userdevice="3", type="CD", empty=True)
    assert refusal(client, "VBD.create", record) == ["VBD_CDS_MUST_BE_READONLY"]
    drive = client.call("VBD.create", {**record, "mode": "RO"})
    assert refusal(client, "VBD.eject", drive) == ["VBD_IS_EMPTY", drive]
    client.call("VBD.insert", drive, guest["VDI"])
    assert client.call("VBD.get_empty", drive) is False


def test_generated_mac_is_stable_and_local(client, guest):
    record = client.call("VIF.get_record", guest["VIF"])
    assert record["MAC_autogenerated"] is True
    assert int(record["MAC"][:2], 16) & 3 == 2
    bad = vif_record(guest["VM"], guest["network"], device="1", MAC="bogus")
    assert refusal(client, "VIF.create", bad) == ["MAC_INVALID", "bogus"]


def test_network_bridge_rules(client):
    record = {"name_label": "n", "other_config": {}}
    for bridge in ("xenbr0", "a-name-that-is-too-long"):
        found = refusal(client, "network.create", {**record, "bridge": bridge})
        assert found == ["INVALID_VALUE", "bridge", bridge]
    network = client.call("network.create", record)
    assert client.call("network.get_bridge", network).startswith("xapi")


def test_clone_and_snapshot_of_a_vm(client, guest):
    twin = client.call("VM.clone", guest["VM"], "twin")
    assert len(client.call("VM.get_VBDs", twin)) == 1
    (copied,) = client.call("VM.get_VIFs", twin)
    old = client.call("VIF.get_MAC", guest["VIF"])
    assert client.call("VIF.get_MAC", copied) != old
    snapshot = client.call("VM.snapshot", guest["VM"], "kept")
    assert client.call("VM.get_snapshots", guest["VM"]) == [snapshot]
    assert client.call("VM.get_is_a_template", snapshot) is True
    (kept,) = client.call("VM.get_VIFs", snapshot)
    assert client.call("VIF.get_MAC", kept) == old


def test_memory_and_processors_are_checked_by_setters(client):
    vm = client.call("VM.create", vm_record())
    wrong = [str(2 * GIB), str(GIB), str(GIB), str(GIB)]
    found = refusal(client, "VM.set_memory_limits", vm, *wrong)
    assert found == ["MEMORY_CONSTRAINT_VIOLATION_ORDER"]
    assert refusal(client, "VM.set_VCPUs_max", vm, "0")[0] == "INVALID_VALUE"


def test_two_hosts_have_their_own_storage(tmp_path):
    sim = Simulator(tmp_path, hosts=2, hardware=Hardware(memory=8 * GIB))
    try:
        stores = sim.world.stores
        local = [ref for ref in stores if sim.world.db.row("SR", ref)["type"] == "ext"]
        assert len({stores[ref].path for ref in local}) == 2
        assert len(sim.world.db.refs("host")) == 2
    finally:
        sim.close()
