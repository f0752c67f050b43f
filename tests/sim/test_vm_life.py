# SPDX-License-Identifier: Apache-2.0
"""Guests that run: what they tell, what they do by themselves, what they boot with."""

import time

import pytest

from tests.sim.clients import (
    GIB,
    NULL,
    JsonClient,
    XmlClient,
    behave,
    refusal,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
    wait_until,
)
from xenapi_driver.sim import Behaviour, Simulator
from xenapi_driver.sim.leases import Leases
from xenapi_driver.sim.vms import guests

MIB = 1024**2


def with_card(client, **changes):
    vm = client.call("VM.create", vm_record(**changes))
    network = client.call("network.get_all")[0]
    client.call("VIF.create", vif_record(vm, network))
    return vm


def told(client, vm):
    metrics = client.call("VM.get_guest_metrics", vm)
    return client.call("VM_guest_metrics.get_record", metrics)


# What a guest tells


def test_agent_comes_some_time_after_the_boot(sim, local):
    behave(sim, agent_delay=0.3)
    vm = with_card(local)
    local.call("VM.start", vm, False, False)
    assert local.call("VM.get_guest_metrics", vm) == NULL
    assert "clean_shutdown" not in local.call("VM.get_allowed_operations", vm)
    assert refusal(local, "VM.clean_shutdown", vm) == ["VM_LACKS_FEATURE", vm]
    wait_until(lambda: local.call("VM.get_guest_metrics", vm) != NULL)
    assert told(local, vm)["PV_drivers_detected"] is True
    local.call("VM.clean_shutdown", vm)


def test_compute_vm_is_up_from_the_start(tmp_path):
    sim = Simulator(tmp_path, behaviour=Behaviour(agents=False, agent_delay=60.0))
    try:
        local = XmlClient(sim.handle)
        vm = local.call("VM.get_by_uuid", sim.compute_vm_uuid)
        assert told(local, vm)["can_use_hotplug_vbd"] == "yes"
    finally:
        sim.close()


def test_agent_of_a_guest_that_went_does_not_come(sim, local):
    behave(sim, agent_delay=0.2)
    vm = local.call("VM.create", vm_record())
    local.call("VM.start", vm, False, False)
    local.call("VM.hard_shutdown", vm)
    time.sleep(0.4)
    assert local.call("VM.get_guest_metrics", vm) == NULL


def test_reboot_begins_anew(sim, local):
    vm = with_card(local)
    local.call("VM.start", vm, False, False)
    metrics = local.call("VM.get_guest_metrics", vm)
    behave(sim, agent_delay=0.3)
    before = int(local.call("VM.get_domid", vm))
    console = local.call("VM.get_consoles", vm)
    local.call("VM.clean_reboot", vm)
    assert int(local.call("VM.get_domid", vm)) != before
    assert local.call("VM.get_consoles", vm) != console
    assert local.call("VM.get_guest_metrics", vm) == metrics
    assert told(local, vm)["PV_drivers_detected"] is False
    assert told(local, vm)["networks"] == {}
    wait_until(lambda: told(local, vm)["PV_drivers_detected"])
    assert told(local, vm)["networks"]


def test_what_was_told_stays_until_the_next_start(client):
    vm = with_card(client)
    client.call("VM.start", vm, False, False)
    metrics = client.call("VM.get_guest_metrics", vm)
    client.call("VM.hard_shutdown", vm)
    assert client.call("VM.get_guest_metrics", vm) == metrics
    client.call("VM.start", vm, True, False)
    assert client.call("VM.get_guest_metrics", vm) == NULL
    client.call("VM.unpause", vm)
    assert told(client, vm)["live"] is True


def test_guests_have_addresses_of_their_own(client):
    vms = [with_card(client, name_label=str(n)) for n in range(2)]
    for vm in vms:
        client.call("VM.start", vm, False, False)
    first, second = (told(client, vm)["networks"] for vm in vms)
    assert first["0/ip"] == first["0/ipv4/0"] != second["0/ip"]
    assert first["0/ipv6/0"].startswith("fe80::")
    client.call("VM.hard_shutdown", vms[0])
    third = with_card(client)
    client.call("VM.start", third, False, False)
    assert told(client, third)["networks"]["0/ip"] == first["0/ip"]


def test_silent_guest_has_drivers_but_does_not_answer(local):
    vm = local.call("VM.create", vm_record(other_config={"sim:agent": "none"}))
    local.call("VM.start", vm, False, False)
    assert told(local, vm)["other"] == {}
    assert "clean_shutdown" in local.call("VM.get_allowed_operations", vm)
    assert refusal(local, "VM.clean_shutdown", vm)[:2] == ["VM_SHUTDOWN_TIMEOUT", vm]
    local.call("VM.shutdown", vm)
    assert local.call("VM.get_power_state", vm) == "Halted"


def test_addresses_follow_the_cards(client):
    vm = with_card(client)
    client.call("VM.start", vm, False, False)
    (card,) = client.call("VM.get_VIFs", vm)
    assert "0/ip" in told(client, vm)["networks"]
    client.call("VIF.unplug", card)
    assert told(client, vm)["networks"] == {}
    client.call("VIF.plug", card)
    assert "0/ip" in told(client, vm)["networks"]


def test_numbers_are_lent_once():
    leases = Leases()
    assert [leases.take(holder) for holder in "abca"] == [0, 1, 2, 0]
    leases.give_back("b")
    assert leases.take("e") == 1


# What it does by itself


@pytest.mark.parametrize(
    ("what", "field", "follows", "state"),
    [
        ("halt", "actions_after_shutdown", "destroy", "Halted"),
        ("halt", "actions_after_shutdown", "restart", "Running"),
        ("reboot", "actions_after_reboot", "destroy", "Halted"),
        ("reboot", "actions_after_reboot", "restart", "Running"),
        ("crash", "actions_after_crash", "destroy", "Halted"),
        ("crash", "actions_after_crash", "restart", "Running"),
        ("crash", "actions_after_crash", "preserve", "Paused"),
    ],
)
def test_guest_stops_by_itself(sim, local, what, field, follows, state):
    vm = local.call("VM.create", vm_record(**{field: follows}))
    local.call("VM.start", vm, False, False)
    before = local.call("VM.get_record", vm)
    guests.by_itself(sim.world, vm, what)
    after = local.call("VM.get_record", vm)
    assert after["power_state"] == state
    if state == "Halted":
        assert (int(after["domid"]), after["resident_on"]) == (-1, NULL)
        assert after["consoles"] == []
    if state == "Running":
        assert after["domid"] != before["domid"]
        assert after["resident_on"] == before["resident_on"]
        assert after["consoles"] != before["consoles"]


def test_only_a_running_guest_does_something(sim, local):
    vm = local.call("VM.create", vm_record())
    with pytest.raises(ValueError, match="does not run"):
        guests.by_itself(sim.world, vm, "halt")


def test_history_is_told(local):
    vm = local.call("VM.create", vm_record())
    uuid = local.call("VM.get_uuid", vm)
    for name in ("start", "suspend", "resume", "clean_reboot", "clean_shutdown"):
        arguments = (False, False) if name in ("start", "resume") else ()
        local.call(f"VM.{name}", vm, *arguments)
    found = local.call("message.get_all_records").values()
    told_of = [message for message in found if message["obj_uuid"] == uuid]
    host = local.call("host.get_record", local.call("host.get_all")[0])
    where = f"on host: {host['name_label']} (uuid: {host['uuid']})"
    assert [(one["name"], one["body"]) for one in told_of] == [
        (name, f"VM 'vm' (uuid: {uuid}) {text}")
        for name, text in (
            ("VM_STARTED", f"started {where}"),
            ("VM_SUSPENDED", "suspended"),
            ("VM_RESUMED", f"resumed {where}"),
            ("VM_REBOOTED", "rebooted"),
            ("VM_SHUTDOWN", "shutdown"),
        )
    ]


# What it boots with


def test_first_start_furnishes_a_vm(client):
    vm = client.call("VM.create", vm_record())
    assert client.call("VM.get_generation_id", vm) == "0:0"
    client.call("VM.start", vm, False, False)
    record = client.call("VM.get_record", vm)
    assert record["platform"]["timeoffset"] == "0"
    assert record["bios_strings"]["bios-vendor"] == "Xen"
    assert record["generation_id"] != "0:0"
    metrics = client.call("VM_metrics.get_record", record["metrics"])
    assert metrics["current_domain_type"] == "hvm"
    assert int(metrics["VCPUs_number"]) == 1


def test_bios_strings_are_set_once(client):
    vm = client.call("VM.create", vm_record())
    for name, text in (("bogus", "x"), ("bios-vendor", "x" * 513), ("oem-1", "x")):
        found = refusal(client, "VM.set_bios_strings", vm, {name: text})
        assert found[:2] == ["INVALID_VALUE", name]
    client.call("VM.set_bios_strings", vm, {"bios-vendor": "Acme"})
    strings = client.call("VM.get_bios_strings", vm)
    assert (strings["bios-vendor"], strings["oem-1"]) == ("Acme", "Xen")
    again = ["VM_BIOS_STRINGS_ALREADY_SET"]
    assert refusal(client, "VM.set_bios_strings", vm, {"bios-vendor": "B"}) == again
    host = client.call("host.get_all")[0]
    assert refusal(client, "VM.copy_bios_strings", vm, host) == again


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"platform": {"cores-per-socket": "2"}, "VCPUs_max": "3"}, "VCPU_MAX_NOT"),
        ({"VCPUs_at_startup": "2"}, "INVALID_VALUE"),
        ({"VCPUs_max": "0", "VCPUs_at_startup": "0"}, "VM_NO_VCPUS"),
        ({"memory_dynamic_min": str(2 * GIB)}, "MEMORY_CONSTRAINT_VIOLATION_ORDER"),
        ({"actions_after_crash": "rename_restart"}, "INVALID_VALUE"),
        ({"platform": {"device-model": "qemu-trad"}}, "INVALID_VALUE"),
        (
            {"HVM_boot_policy": "", "PV_bootloader": "grub"},
            "UNKNOWN_BOOTLOADER",
        ),
        (
            {"HVM_boot_policy": "", "PV_kernel": "/var/lib/xcp/guest/../../../etc/x"},
            "INVALID_VALUE",
        ),
        ({"hardware_platform_version": "9"}, "VM_HOST_INCOMPATIBLE_VIRTUAL"),
    ],
)
def test_what_cannot_boot_is_made_but_not_started(local, changes, expected):
    vm = local.call("VM.create", vm_record(**changes))
    host = local.call("host.get_all")[0]
    found = refusal(local, "VM.start_on", vm, host, False, False)
    assert found[0].startswith(expected)
    assert local.call("VM.get_power_state", vm) == "Halted"
    assert local.call("VM.get_consoles", vm) == []


def test_more_processors_than_the_host_has(local):
    vm = local.call("VM.create", vm_record(VCPUs_max="512"))
    host = local.call("host.get_all")[0]
    cpus = local.call("host.get_cpu_info", host)["cpu_count"]
    found = refusal(local, "VM.assert_can_boot_here", vm, host)
    assert found == ["HOST_NOT_ENOUGH_PCPUS", "512", cpus]
    assert refusal(local, "VM.start", vm, False, False) == ["NO_HOSTS_AVAILABLE"]
    assert local.call("VM.get_possible_hosts", vm) == []
    local.call("VM.set_platform", vm, {"vcpu-unrestricted": "true"})
    assert local.call("VM.get_possible_hosts", vm) == [host]


def test_domain_type_and_boot_policy_go_together(client):
    vm = client.call("VM.create", vm_record())
    client.call("VM.set_HVM_boot_policy", vm, "")
    assert client.call("VM.get_domain_type", vm) == "pv"
    client.call("VM.set_domain_type", vm, "pvh")
    assert client.call("VM.get_HVM_boot_policy", vm) == "BIOS order"


def test_uefi_and_secure_boot(local):
    vm = local.call("VM.create", vm_record())
    assert local.call("VM.get_secureboot_readiness", vm) == "not_supported"
    assert refusal(local, "VM.set_uefi_mode", vm, "setup")[0] == "INVALID_VALUE"
    local.call("VM.set_HVM_boot_params", vm, {"firmware": "uefi"})
    assert local.call("VM.get_secureboot_readiness", vm) == "disabled"
    local.call("VM.set_platform", vm, {"secureboot": "true"})
    assert local.call("VM.get_secureboot_readiness", vm) == "first_boot"
    local.call("VM.start", vm, False, False)
    assert "EFI-variables" in local.call("VM.get_NVRAM", vm)
    assert refusal(local, "VM.set_NVRAM", vm, {})[0] == "VM_BAD_POWER_STATE"
    local.call("VM.hard_shutdown", vm)
    local.call("VM.set_uefi_mode", vm, "setup")
    assert local.call("VM.get_secureboot_readiness", vm) == "setup_mode"


def test_a_start_makes_the_tpm_that_the_platform_asks_for(local):
    vm = local.call("VM.create", vm_record())
    local.call("VM.set_platform", vm, {"vtpm": "true"})
    local.call("VM.start", vm, False, False)
    # A BIOS does not know it.
    assert local.call("VM.get_VTPMs", vm) == []
    local.call("VM.hard_shutdown", vm)
    local.call("VM.set_HVM_boot_params", vm, {"firmware": "uefi"})
    for _start in range(2):
        local.call("VM.start", vm, False, False)
        assert len(local.call("VM.get_VTPMs", vm)) == 1
        local.call("VM.hard_shutdown", vm)


def test_a_vm_has_one_tpm_that_copies_get_too(client):
    vm = client.call("VM.create", vm_record())
    tpm = client.call("VTPM.create", vm, False)
    assert refusal(client, "VTPM.create", vm, False) == ["VTPM_MAX_AMOUNT_REACHED", "1"]
    client.call("VTPM.set_contents", tpm, "c2VjcmV0")
    twin = client.call("VM.clone", vm, "twin")
    (copied,) = client.call("VM.get_VTPMs", twin)
    assert client.call("VTPM.get_contents", copied) == "c2VjcmV0"
    client.call("VM.start", vm, False, False)
    assert refusal(client, "VTPM.destroy", tpm)[0] == "VM_BAD_POWER_STATE"
    client.call("VM.hard_shutdown", vm)
    client.call("VTPM.destroy", tpm)
    assert client.call("VM.get_VTPMs", vm) == []
    secrets = len(client.call("secret.get_all"))
    client.call("VM.destroy", twin)
    assert len(client.call("secret.get_all")) == secrets - 1


# Memory and processors


def test_memory_of_a_running_guest_moves(client):
    vm = client.call("VM.create", vm_record(memory_static_min=str(128 * MIB)))
    host = client.call("host.get_all")[0]
    client.call("VM.start", vm, False, False)
    free = int(client.call("host.compute_free_memory", host))
    half = str(512 * MIB)
    client.call("VM.set_memory_dynamic_range", vm, half, str(GIB))
    assert int(client.call("VM.get_memory_target", vm)) == int(half)
    after = int(client.call("host.compute_free_memory", host))
    assert after - free == 512 * MIB
    client.call("VM.set_memory_target_live", vm, str(GIB))
    assert int(client.call("VM.get_memory_dynamic_min", vm)) == GIB
    assert refusal(client, "VM.set_memory", vm, half)[0] == "VM_BAD_POWER_STATE"


def test_processors_come_and_go_while_it_runs(client):
    vm = client.call("VM.create", vm_record(VCPUs_max="4"))
    assert refusal(client, "VM.set_VCPUs_number_live", vm, "2")[0] == (
        "VM_BAD_POWER_STATE"
    )
    client.call("VM.start", vm, False, False)
    client.call("VM.set_VCPUs_number_live", vm, "3")
    metrics = client.call("VM.get_metrics", vm)
    assert int(client.call("VM_metrics.get_VCPUs_number", metrics)) == 3
    assert refusal(client, "VM.set_VCPUs_number_live", vm, "5")[0] == "INVALID_VALUE"
    client.call("VM.add_to_VCPUs_params_live", vm, "weight", "512")
    assert client.call("VM.get_VCPUs_params", vm) == {"weight": "512"}


def test_maximise_memory_fits_with_its_overhead(local):
    vm = local.call("VM.create", vm_record())
    total = 4 * GIB
    size = int(local.call("VM.maximise_memory", vm, str(total), False))
    assert 0.9 * total < size < total
    local.call("VM.set_memory", vm, str(size))
    overhead = int(local.call("VM.compute_memory_overhead", vm))
    assert size + overhead <= total < size + MIB + overhead + 2 * MIB
    assert int(local.call("VM.maximise_memory", vm, "1", True)) == 0


def test_suspend_image_is_given_back(sim, local):
    vm = local.call("VM.create", vm_record())
    local.call("VM.start", vm, False, False)
    local.call("VM.suspend", vm)
    image = local.call("VM.get_suspend_VDI", vm)
    assert int(local.call("VDI.get_virtual_size", image)) > GIB
    assert local.call("VM.get_last_booted_record", vm)
    twin = local.call("VDI.clone", image, {})
    local.call("VM.set_suspend_VDI", vm, twin)
    sr = local.call("VDI.get_SR", image)
    other = local.call("VDI.create", vdi_record(sr))
    found = refusal(local, "VM.set_suspend_VDI", vm, other)
    assert found == ["SUSPEND_VDI_REPLACEMENT_IS_NOT_IDENTICAL", twin, other]
    local.call("VM.resume", vm, False, False)
    assert refusal(local, "VDI.get_uuid", twin)[0] == "HANDLE_INVALID"


def test_resume_without_an_image(local):
    vm = local.call("VM.create", vm_record())
    local.call("VM.start", vm, False, False)
    local.call("VM.suspend", vm)
    local.call("VDI.destroy", local.call("VM.get_suspend_VDI", vm))
    found = refusal(local, "VM.resume", vm, False, False)
    assert found == ["VM_HAS_NO_SUSPEND_VDI", vm]
    local.call("VM.shutdown", vm)
    assert local.call("VM.get_power_state", vm) == "Halted"


def test_nowhere_to_suspend_to(local):
    vm = local.call("VM.create", vm_record())
    local.call("VM.start", vm, False, False)
    pool, host = local.call("pool.get_all")[0], local.call("host.get_all")[0]
    local.call("pool.set_suspend_image_SR", pool, NULL)
    local.call("host.set_suspend_image_sr", host, NULL)
    assert refusal(local, "VM.suspend", vm) == ["VM_NO_SUSPEND_SR", vm]
    assert local.call("VM.get_power_state", vm) == "Running"


# What belongs together


def test_appliance_starts_in_order_and_stops_backwards(local):
    appliance = local.call("VM_appliance.create", {"name_label": "a"})
    vms = []
    for order in ("2", "0", "1"):
        vm = local.call("VM.create", vm_record(name_label=order))
        local.call("VM.set_order", vm, order)
        local.call("VM.set_appliance", vm, appliance)
        vms.append(vm)
    assert local.call("VM_appliance.get_allowed_operations", appliance) == ["start"]
    local.call("VM_appliance.start", appliance, False)
    domids = [int(local.call("VM.get_domid", vm)) for vm in vms]
    assert sorted(domids) == [domids[1], domids[2], domids[0]]
    found = refusal(local, "VM_appliance.start", appliance, False)
    assert found[0] == "OPERATION_NOT_ALLOWED"
    local.call("VM_appliance.clean_shutdown", appliance)
    assert {local.call("VM.get_power_state", vm) for vm in vms} == {"Halted"}
    local.call("VM_appliance.destroy", appliance)
    assert local.call("VM.get_appliance", vms[0]) == NULL


def test_appliance_stops_at_a_member_that_fails(local):
    appliance = local.call("VM_appliance.create", {"name_label": "a"})
    found = refusal(local, "VM_appliance.start", appliance, False)
    assert found == ["OPERATION_NOT_ALLOWED", "Appliance has no VMs."]
    vms = []
    for order, cpus in (("0", "1"), ("1", "512"), ("2", "1")):
        vm = local.call("VM.create", vm_record(name_label=order, VCPUs_max=cpus))
        local.call("VM.set_order", vm, order)
        local.call("VM.set_appliance", vm, appliance)
        vms.append(vm)
    found = refusal(local, "VM_appliance.start", appliance, False)
    assert found == ["OPERATION_PARTIALLY_FAILED", "VM_appliance.start", vms[1]]
    states = [local.call("VM.get_power_state", vm) for vm in vms]
    assert states == ["Running", "Halted", "Halted"]
    assert local.call("VM_appliance.get_current_operations", appliance) == {}


def test_a_vm_is_in_one_group(local):
    groups = [
        local.call("VM_group.create", {"name_label": n, "placement": "anti_affinity"})
        for n in "ab"
    ]
    vm = local.call("VM.create", vm_record())
    assert refusal(local, "VM.set_groups", vm, groups) == ["TOO_MANY_GROUPS"]
    local.call("VM.set_groups", vm, groups[:1])
    assert local.call("VM_group.get_VMs", groups[0]) == [vm]
    local.call("VM_group.destroy", groups[0])
    assert local.call("VM.get_groups", vm) == []


@pytest.mark.parametrize("kind", ["snapshot", "checkpoint"])
def test_schedule_keeps_so_many_snapshots(sim, local, kind):
    record = {
        "name_label": "s",
        "type": kind,
        "frequency": "daily",
        "retained_snapshots": "2",
        "schedule": {"hour": "3", "min": "15"},
    }
    wrong = {**record, "retained_snapshots": "11"}
    assert refusal(local, "VMSS.create", wrong)[:2] == [
        "INVALID_VALUE", "retained_snapshots",
    ]  # fmt: skip
    schedule = local.call("VMSS.create", record)
    sr = local.call("SR.get_by_uuid", sim.default_sr_uuid)
    vm = local.call("VM.create", vm_record())
    local.call("VBD.create", vbd_record(vm, local.call("VDI.create", vdi_record(sr))))
    local.call("VM.start", vm, False, False)
    local.call("VM.set_snapshot_schedule", vm, schedule)
    for _ in range(3):
        local.call("VMSS.snapshot_now", schedule)
    snapshots = local.call("VM.get_snapshots", vm)
    assert len(snapshots) == 2
    rows = local.call("VDI.get_all_records").values()
    images = [row for row in rows if row["type"] == "suspend"]
    assert len(images) == (2 if kind == "checkpoint" else 0)
    assert all(local.call("VM.get_is_vmss_snapshot", one) for one in snapshots)
    local.call("VM.hard_shutdown", vm)
    found = refusal(local, "VM.set_is_a_template", vm, True)
    assert found == ["VM_ASSIGNED_TO_SNAPSHOT_SCHEDULE", vm, schedule]


# Setters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ha_restart_priority", "bogus"),
        ("start_delay", "-1"),
        ("shutdown_delay", "-1"),
        ("order", "-1"),
    ],
)
def test_setters_refuse_nonsense(local, name, value):
    vm = local.call("VM.create", vm_record())
    before = local.call(f"VM.get_{name}", vm)
    assert refusal(local, f"VM.set_{name}", vm, value)[0] == "INVALID_VALUE"
    assert local.call(f"VM.get_{name}", vm) == before


def test_agent_plugin_is_not_there_and_not_twice(local):
    vm = local.call("VM.create", vm_record())
    plugin = "guest-agent-operation"
    call = ("VM.call_plugin", vm, plugin, "run-script", {})
    assert refusal(local, *call)[0] == "VM_BAD_POWER_STATE"
    local.call("VM.start", vm, False, False)
    assert refusal(local, "VM.call_plugin", vm, "x", "y", {}) == [
        "XENAPI_MISSING_PLUGIN", "x",
    ]  # fmt: skip
    assert refusal(local, *call) == ["VM_LACKS_FEATURE", vm]
    assert refusal(local, *call)[0] == "VM_CALL_PLUGIN_RATE_LIMIT"


def test_what_is_measured(client):
    vm = with_card(client)
    assert refusal(client, "VM.get_data_sources", vm)[0] == "VM_BAD_POWER_STATE"
    client.call("VM.start", vm, False, False)
    sources = {one["name_label"] for one in client.call("VM.get_data_sources", vm)}
    assert {"cpu0", "memory", "vif_0_tx"} <= sources
    assert client.call("VM.query_data_source", vm, "memory") == float(GIB)
    assert refusal(client, "VM.query_data_source", vm, "no")[0] == "INTERNAL_ERROR"


def test_what_the_database_cannot_hold_is_refused(sim):
    json = JsonClient(sim.handle_json)
    vm = json.call("VM.create", vm_record(name_label="kept\x01 not"))
    assert json.call("VM.get_name_label", vm) == "kept"
    found = refusal(json, "VM.add_to_other_config", vm, "", "x")
    assert found == ["INTERNAL_ERROR", "Db_exn.Empty_key_in_map"]
    assert "" not in json.call("VM.get_other_config", vm)
    found = refusal(json, "VM.set_name_label", vm, "tab\t and \x01")
    assert found == ["INTERNAL_ERROR", "Db_exn.Invalid_value"]
    json.call("VM.set_name_label", vm, "tab\t")
    assert json.call("VM.get_name_label", vm) == "tab\t"


def test_small_files_are_kept_with_a_vm(client):
    vm = client.call("VM.create", vm_record())
    blob = client.call("VM.create_new_blob", vm, "notes", "text/plain")
    assert client.call("VM.get_blobs", vm) == {"notes": blob}
    found = refusal(client, "VM.create_new_blob", vm, "notes", "", True)
    assert found == ["BLOB_ALREADY_EXISTS"]
    assert client.call("blob.get_all") == [blob]
    client.call("blob.destroy", blob)
    assert client.call("VM.get_blobs", vm) == {}


def test_device_models_restart_under_the_guest(local):
    vm = local.call("VM.create", vm_record())
    assert refusal(local, "VM.restart_device_models", vm)[0] == "VM_BAD_POWER_STATE"
    local.call("VM.start", vm, False, False)
    before = local.call("VM.get_domid", vm)
    local.call("VM.restart_device_models", vm)
    assert local.call("VM.get_domid", vm) != before
    assert local.call("VM.get_power_state", vm) == "Running"
    assert refusal(local, "VM.sysprep", vm, "<unattend/>", 1.0)[0] == "SYSPREP"


def test_a_suspended_guest_resumes_where_its_image_is(tmp_path):
    sim = Simulator(tmp_path, hosts=2)
    try:
        local = XmlClient(sim.handle)
        vm = local.call("VM.create", vm_record())
        here, there = local.call("host.get_all")
        local.call("VM.start_on", vm, here, False, False)
        srs = [
            ref
            for ref, record in local.call("SR.get_all_records").items()
            if record["content_type"] == "user" and not record["shared"]
        ]
        seen = {
            local.call("PBD.get_host", local.call("SR.get_PBDs", sr)[0]): sr
            for sr in srs
        }
        # One that the guest's host does not see is passed over.
        local.call("VM.set_suspend_SR", vm, seen[there])
        local.call("VM.suspend", vm)
        image = local.call("VM.get_suspend_VDI", vm)
        sr = local.call("VDI.get_SR", image)
        assert sr == seen[here]
        found = refusal(local, "VM.resume_on", vm, there, False, False)
        assert found == ["VM_REQUIRES_SR", vm, sr]
        local.call("VM.resume", vm, False, False)
        assert local.call("VM.get_resident_on", vm) == here
    finally:
        sim.close()


def test_a_full_sr_takes_no_suspend_image(tmp_path):
    sim = Simulator(tmp_path, sr_size_bytes=3 * MIB)
    try:
        local = XmlClient(sim.handle)
        vm = local.call("VM.create", vm_record())
        local.call("VM.start", vm, False, False)
        sr = local.call("SR.get_by_uuid", sim.default_sr_uuid)
        full = local.call("VDI.create", vdi_record(sr))
        where = local.call("VDI.get_location", full)
        sim.world.stores[sr].write(where, 0, b"x" * 2 * MIB)
        before = sim.inventory()["VDI"]
        found = refusal(local, "VM.suspend", vm)
        assert found[0] == "SR_BACKEND_FAILURE_44"
        assert sim.inventory()["VDI"] == before
        record = local.call("VM.get_record", vm)
        assert (record["power_state"], record["suspend_VDI"]) == ("Running", NULL)
    finally:
        sim.close()
