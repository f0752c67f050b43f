# SPDX-License-Identifier: Apache-2.0
"""What a VM may do in which state, what it is told, and what goes on meanwhile."""

import threading
import time

import pytest

from tests.sim.clients import (
    NULL,
    Refused,
    XmlClient,
    behave,
    vbd_record,
    vdi_record,
    vm_record,
)
from xenapi_driver.sim import Simulator

STATES = ("Halted", "Running", "Paused", "Suspended")
# Operation to the states in which it is allowed, arguments after the VM.
POWER = {
    "start": (("Halted",), (False, False)),
    "pause": (("Running",), ()),
    "unpause": (("Paused",), ()),
    "suspend": (("Running",), ()),
    "resume": (("Suspended",), (False, False)),
    "clean_shutdown": (("Running",), ()),
    "clean_reboot": (("Running",), ()),
    "hard_shutdown": (("Paused", "Suspended", "Running"), ()),
    "hard_reboot": (("Paused", "Running"), ()),
    "shutdown": (("Paused", "Suspended", "Running"), ()),
    "snapshot": (STATES, ("s",)),
    "checkpoint": (("Suspended", "Running"), ("c",)),
    "clone": (("Halted",), ("x",)),
    "copy": (("Halted",), ("x", NULL)),
    "destroy": (("Halted", "Suspended"), ()),
    "provision": ((), ()),
    "send_sysrq": ((), ("h",)),
    "send_trigger": ((), ("reset",)),
}
AFTER = {
    "start": "Running",
    "pause": "Paused",
    "unpause": "Running",
    "suspend": "Suspended",
    "resume": "Running",
    "clean_shutdown": "Halted",
    "clean_reboot": "Running",
    "hard_shutdown": "Halted",
    "hard_reboot": "Running",
    "shutdown": "Halted",
}
TOLD = {
    "Halted": "create_vtpm destroy metadata_export export make_into_template"
    " changing_NVRAM changing_shadow_memory changing_static_range"
    " changing_dynamic_range migrate_send start_on start copy clone snapshot",
    "Running": "sysprep metadata_export changing_VCPUs_live changing_dynamic_range"
    " migrate_send pool_migrate suspend hard_reboot hard_shutdown clean_reboot"
    " clean_shutdown pause checkpoint snapshot",
    "Paused": "metadata_export hard_reboot hard_shutdown unpause snapshot",
    "Suspended": "destroy metadata_export export migrate_send resume_on resume"
    " hard_shutdown checkpoint snapshot",
}


def code(client, method, *params):
    with pytest.raises(Refused) as caught:
        client.call(method, *params)
    return caught.value.code


def bring(client, vm, state):
    if state != "Halted":
        client.call("VM.start", vm, state == "Paused", False)
    if state == "Suspended":
        client.call("VM.suspend", vm)


@pytest.fixture
def vm(client):
    return client.call("VM.create", vm_record())


@pytest.mark.parametrize("state", STATES)
def test_every_operation_in_every_state(local, state):
    for name, (allowed, arguments) in POWER.items():
        vm = local.call("VM.create", vm_record(name_label=name))
        bring(local, vm, state)
        if state not in allowed:
            expected = "VM_BAD_POWER_STATE"
            if name.startswith("send_") and state == "Running":
                expected = "NOT_IMPLEMENTED"
            if name == "provision" and state == "Halted":
                expected = "PROVISION_ONLY_ALLOWED_ON_TEMPLATE"
            assert code(local, f"VM.{name}", vm, *arguments) == expected
            assert local.call("VM.get_power_state", vm) == state
        else:
            local.call(f"VM.{name}", vm, *arguments)
            if name != "destroy":
                after = AFTER.get(name, state)
                assert local.call("VM.get_power_state", vm) == after


@pytest.mark.parametrize("state", STATES)
def test_what_is_told_is_what_is_taken(client, vm, state):
    bring(client, vm, state)
    told = client.call("VM.get_allowed_operations", vm)
    assert sorted(told) == sorted(TOLD[state].split())
    for name in TOLD["Halted"].split() + TOLD["Running"].split():
        if name in told:
            client.call("VM.assert_operation_valid", vm, name)
        else:
            assert code(client, "VM.assert_operation_valid", vm, name)


def test_a_guest_without_drivers(local):
    vm = local.call("VM.create", vm_record(other_config={"sim:agent": "absent"}))
    bring(local, vm, "Running")
    assert local.call("VM.get_guest_metrics", vm) == NULL
    told = local.call("VM.get_allowed_operations", vm)
    assert sorted(told) == sorted(
        [
            "metadata_export",
            "changing_dynamic_range",
            "hard_reboot",
            "hard_shutdown",
            "pause",
            "snapshot",
            "sysprep",
        ]
    )
    for name in ("clean_shutdown", "clean_reboot", "suspend", "checkpoint"):
        arguments = ("c",) if name == "checkpoint" else ()
        assert code(local, f"VM.{name}", vm, *arguments) == "VM_LACKS_FEATURE"
    assert code(local, "VM.set_VCPUs_number_live", vm, "1") == "VM_LACKS_FEATURE"
    assert local.call("VM.get_power_state", vm) == "Running"


def test_only_an_hvm_guest_needs_drivers(local):
    changes = {"other_config": {"sim:agent": "absent"}, "domain_type": "pvh"}
    changes["PV_bootloader"] = "pygrub"
    vm = local.call("VM.create", vm_record(**changes))
    bring(local, vm, "Running")
    # What the next start will be does not matter yet.
    local.call("VM.set_domain_type", vm, "hvm")
    assert "clean_shutdown" in local.call("VM.get_allowed_operations", vm)
    local.call("VM.hard_shutdown", vm)
    bring(local, vm, "Running")
    assert "clean_shutdown" not in local.call("VM.get_allowed_operations", vm)


def test_devices_of_a_guest_without_drivers(sim, client):
    sr = client.call("SR.get_by_uuid", sim.default_sr_uuid)
    vm = client.call("VM.create", vm_record(other_config={"sim:agent": "absent"}))
    vbds = []
    for device in "01":
        vdi = client.call("VDI.create", vdi_record(sr))
        vbds.append(client.call("VBD.create", vbd_record(vm, vdi, userdevice=device)))
        if device == "0":
            bring(client, vm, "Running")
    plugged, unplugged = vbds
    for vbd in vbds:
        told = client.call("VBD.get_allowed_operations", vbd)
        assert sorted(told) == ["attach", "pause", "unpause"]
    assert code(client, "VBD.plug", unplugged) == "VM_MISSING_PV_DRIVERS"
    for name in ("unplug", "unplug_force"):
        assert code(client, f"VBD.{name}", plugged) == "VM_MISSING_PV_DRIVERS"
    assert client.call("VBD.get_currently_attached", plugged) is True


def test_devices_stay_while_a_guest_stops(sim, local):
    behave(sim, shutdown_timeout=30.0)
    sr = local.call("SR.get_by_uuid", sim.default_sr_uuid)
    vm = local.call("VM.create", vm_record(other_config={"sim:agent": "none"}))
    vdi = local.call("VDI.create", vdi_record(sr))
    vbd = local.call("VBD.create", vbd_record(vm, vdi))
    bring(local, vm, "Running")
    task = local.call("Async.VM.clean_shutdown", vm)
    end = time.monotonic() + 5
    while not local.call("VM.get_current_operations", vm):
        assert time.monotonic() < end
    assert code(local, "VBD.unplug", vbd) == "OPERATION_NOT_ALLOWED"
    local.call("task.cancel", task)
    while local.call("VM.get_current_operations", vm):
        assert time.monotonic() < end
    local.call("VBD.unplug", vbd)


def test_blocked_operations_are_not_told_and_not_taken(client, vm):
    client.call("VM.add_to_blocked_operations", vm, "start", "because")
    assert "start" not in client.call("VM.get_allowed_operations", vm)
    with pytest.raises(Refused) as caught:
        client.call("VM.start", vm, False, True)
    assert caught.value.args[0] == ["OPERATION_BLOCKED", vm, "because"]
    client.call("VM.remove_from_blocked_operations", vm, "start")
    client.call("VM.start", vm, False, False)


def test_control_domain_is_left_alone(local):
    host = local.call("host.get_all")[0]
    dom0 = local.call("host.get_control_domain", host)
    told = local.call("VM.get_allowed_operations", dom0)
    expected = ["metadata_export", "changing_static_range", "changing_dynamic_range"]
    assert sorted(told) == sorted(expected)
    for name in ("pause", "suspend", "clean_shutdown", "hard_shutdown", "hard_reboot"):
        assert code(local, f"VM.{name}", dom0) == "OPERATION_NOT_ALLOWED"
    assert code(local, "VM.destroy", dom0) == "VM_BAD_POWER_STATE"
    assert local.call("VM.get_power_state", dom0) == "Running"


def test_what_goes_on_is_shown_and_waited_for(sim, local):
    vm = local.call("VM.create", vm_record())
    behave(sim, operation_delay=0.4)
    task = local.call("Async.VM.start", vm, False, False)
    end = time.monotonic() + 5
    while not (ongoing := local.call("VM.get_current_operations", vm)):
        assert time.monotonic() < end
    assert ongoing == {task: "start"}
    told = local.call("VM.get_allowed_operations", vm)
    assert told == []
    # Waits for the start, then does what it was asked to.
    snapshot = local.call("VM.snapshot", vm, "s")
    record = local.call("VM.get_record", vm)
    assert record["power_state"] == "Running"
    assert record["current_operations"] == {}
    about = local.call("VM.get_snapshot_info", snapshot)
    assert about["power-state-at-snapshot"] == "Running"


def test_a_busy_vm_is_refused_when_patience_ends(sim, local):
    vm = local.call("VM.create", vm_record())
    behave(sim, operation_delay=1.0, busy_timeout=0.0)
    task = local.call("Async.VM.start", vm, False, False)
    end = time.monotonic() + 5
    while not local.call("VM.get_current_operations", vm):
        assert time.monotonic() < end
    with pytest.raises(Refused) as caught:
        local.call("VM.clone", vm, "x")
    assert caught.value.args[0] == [
        "OTHER_OPERATION_IN_PROGRESS", "VM", vm, "start", task,
    ]  # fmt: skip
    local.call("task.cancel", task)
    while local.call("task.get_status", task) == "pending":
        assert time.monotonic() < end
    assert local.call("task.get_status", task) == "cancelled"
    assert local.call("VM.get_power_state", vm) == "Halted"
    assert local.call("VM.get_current_operations", vm) == {}


def test_hard_shutdown_breaks_into_a_clean_one(sim, local):
    behave(sim, shutdown_timeout=30.0)
    vm = local.call("VM.create", vm_record(other_config={"sim:agent": "none"}))
    bring(local, vm, "Running")
    task = local.call("Async.VM.clean_shutdown", vm)
    end = time.monotonic() + 5
    while not local.call("VM.get_current_operations", vm):
        assert time.monotonic() < end
    told = local.call("VM.get_allowed_operations", vm)
    assert sorted(told) == ["hard_reboot", "hard_shutdown"]
    local.call("VM.hard_shutdown", vm)
    assert local.call("VM.get_power_state", vm) == "Halted"
    while local.call("task.get_status", task) == "pending":
        assert time.monotonic() < end
    assert local.call("VM.get_current_operations", vm) == {}


def test_boot_record_is_read_while_nothing_else_goes_on(client, vm):
    assert code(client, "VM.get_boot_record", vm) == "VM_BAD_POWER_STATE"
    bring(client, vm, "Running")
    record = client.call("VM.get_boot_record", vm)
    assert record["uuid"] == client.call("VM.get_uuid", vm)
    assert list(record["current_operations"].values()) == ["get_boot_record"]
    assert sorted(record["allowed_operations"]) == ["hard_reboot", "hard_shutdown"]
    assert client.call("VM.get_current_operations", vm) == {}


def test_a_disk_that_resets_forbids_snapshots(sim, local):
    sr = local.call("SR.get_by_uuid", sim.default_sr_uuid)
    vm = local.call("VM.create", vm_record())
    vdi = local.call("VDI.create", vdi_record(sr))
    local.call("VBD.create", vbd_record(vm, vdi))
    local.call("VDI.set_on_boot", vdi, "reset")
    assert "snapshot" not in local.call("VM.get_allowed_operations", vm)
    expected = "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"
    assert code(local, "VM.snapshot", vm, "s") == expected
    assert local.call("VM.get_snapshots", vm) == []


def test_pinned_guests_stay(local):
    vm = local.call("VM.create", vm_record(platform={"nomigrate": "true"}))
    bring(local, vm, "Running")
    assert code(local, "VM.suspend", vm) == "VM_IS_IMMOBILE"
    nested = local.call("VM.create", vm_record(platform={"nested-virt": "true"}))
    bring(local, nested, "Running")
    assert code(local, "VM.suspend", nested) == "VM_IS_USING_NESTED_VIRT"


def test_many_threads_leave_one_truth(sim, local):
    vm = local.call("VM.create", vm_record())
    refused = []

    def work():
        for method in ("VM.start", "VM.hard_shutdown"):
            arguments = (False, False) if method == "VM.start" else ()
            try:
                local.call(method, vm, *arguments)
            except Refused as error:
                refused.append(error.code)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refused) <= {"VM_BAD_POWER_STATE"}
    record = local.call("VM.get_record", vm)
    running = record["power_state"] == "Running"
    assert len(record["consoles"]) == int(running)
    assert record["current_operations"] == {}


def test_a_guest_without_drivers_moves_by_force_only(tmp_path):
    sim = Simulator(tmp_path, hosts=2)
    try:
        local = XmlClient(sim.handle)
        vm = local.call("VM.create", vm_record(other_config={"sim:agent": "absent"}))
        here, there = local.call("host.get_all")
        local.call("VM.start_on", vm, here, False, False)
        assert code(local, "VM.pool_migrate", vm, there, {}) == "VM_LACKS_FEATURE"
        assert local.call("VM.get_resident_on", vm) == here
        local.call("VM.pool_migrate", vm, there, {"force": "true"})
        assert local.call("VM.get_resident_on", vm) == there
    finally:
        sim.close()
