# SPDX-License-Identifier: Apache-2.0
"""Async calls, the event loop, and rules that make calls fail."""

import threading
import time

import pytest

from tests.sim.clients import Refused, XmlClient, vm_record


def refusal(client, method, *params):
    with pytest.raises(Refused) as caught:
        client.call(method, *params)
    return caught.value.args[0]


def events(client, classes, token="", timeout=0.0):
    return client.call("event.from", classes, token, timeout)


def seen(batch):
    return [(event["class"], event["operation"]) for event in batch["events"]]


def test_task_result_is_xml_text(client):
    record = client.task("Async.VM.create", vm_record())
    assert record["status"] == "success"
    ref = record["result"].removeprefix("<value>").removesuffix("</value>")
    assert client.call("VM.get_power_state", ref) == "Halted"


def test_void_task_result_is_an_empty_value(client):
    vm = client.call("VM.create", vm_record())
    host = client.call("host.get_all")[0]
    record = client.task("Async.VM.start_on", vm, host, False, False)
    assert record["result"] == "<value></value>"


def test_failed_task_carries_the_error(client):
    vm = client.call("VM.create", vm_record())
    record = client.task("Async.VM.hard_shutdown", vm)
    assert record["status"] == "failure"
    assert record["error_info"][0] == "VM_BAD_POWER_STATE"


def test_destroyed_task_is_gone(sim, client):
    client.task("Async.VM.create", vm_record())
    assert sim.inventory()["task"] == 0


def test_clean_shutdown_can_be_cancelled(sim, local):
    vm = local.call("VM.create", vm_record(other_config={"sim:agent": "none"}))
    local.call("VM.start", vm, False, False)
    sim.world.behaviour = type(sim.world.behaviour)(shutdown_timeout=30)
    task = local.call("Async.VM.clean_shutdown", vm)
    time.sleep(0.1)
    local.call("task.cancel", task)
    end = time.monotonic() + 5
    while local.call("task.get_status", task) == "pending" and time.monotonic() < end:
        time.sleep(0.02)
    assert local.call("task.get_status", task) == "cancelled"
    assert local.call("task.get_error_info", task) == ["TASK_CANCELLED", task]


def test_empty_token_reads_everything(client):
    batch = events(client, ["pool", "host"])
    assert sorted(seen(batch)) == [("host", "add"), ("pool", "add")]
    assert int(batch["valid_ref_counts"]["pool"]) == 1


def test_changes_since_a_token(client):
    token = events(client, ["vm"])["token"]
    vm = client.call("VM.create", vm_record())
    batch = events(client, ["VM"], token)
    assert seen(batch) == [("vm", "add")]
    assert batch["events"][0]["snapshot"]["name_label"] == "vm"
    client.call("VM.set_name_label", vm, "a")
    client.call("VM.set_name_label", vm, "b")
    batch = events(client, [f"VM/{vm}"], batch["token"])
    assert seen(batch) == [("vm", "mod")]
    client.call("VM.destroy", vm)
    batch = events(client, ["vm"], batch["token"])
    assert seen(batch) == [("vm", "del")]
    assert "snapshot" not in batch["events"][0]


def test_same_value_is_no_event(local):
    vm = local.call("VM.create", vm_record())
    token = events(local, ["vm"])["token"]
    local.call("VM.set_name_label", vm, "vm")
    assert seen(events(local, ["vm"], token)) == []


def test_what_came_and_went_is_invisible(local):
    token = events(local, ["vm"])["token"]
    vm = local.call("VM.create", vm_record())
    local.call("VM.destroy", vm)
    assert seen(events(local, ["vm"], token)) == []


def test_wait_ends_with_the_change(sim, client):
    token = events(client, ["pool"])["token"]
    other = XmlClient(sim.handle)
    pool = other.call("pool.get_all")[0]
    timer = threading.Timer(0.2, other.call, ("pool.set_name_label", pool, "x"))
    timer.start()
    begin = time.monotonic()
    batch = events(client, ["pool"], token, 10.0)
    assert seen(batch) == [("pool", "mod")]
    assert time.monotonic() - begin < 5
    timer.join()


def test_wait_ends_with_the_session(sim, local):
    token = events(local, ["pool"])["token"]
    threading.Timer(0.2, local.call, ("session.logout",)).start()
    assert refusal(local, "event.from", ["pool"], token, 10.0)[0] == "SESSION_INVALID"


def test_timeout_gives_a_new_token(client):
    token = events(client, ["pool"])["token"]
    batch = events(client, ["pool"], token, 0.2)
    assert batch["events"] == []


def test_bad_token(client):
    found = refusal(client, "event.from", ["pool"], "garbage", 0.0)
    assert found == ["EVENT_FROM_TOKEN_PARSE_FAILURE", "garbage"]


def test_injected_event(client):
    vm = client.call("VM.create", vm_record())
    token = client.call("event.inject", "VM", vm)
    assert seen(events(client, ["vm"], token)) == [("vm", "mod")]


def test_fault_comes_instead_of_the_call(sim, client):
    sim.faults.add("VM.create", ["TOO_BUSY"], skip=1)
    client.call("VM.create", vm_record())
    assert refusal(client, "VM.create", vm_record()) == ["TOO_BUSY"]
    client.call("VM.create", vm_record())
    assert len(client.call("VM.get_by_name_label", "vm")) == 2


def test_fault_after_the_call(sim, client):
    sim.faults.add("VM.create", ["SESSION_INVALID", "x"], after=True)
    assert refusal(client, "VM.create", vm_record())[0] == "SESSION_INVALID"
    assert len(client.call("VM.get_by_name_label", "vm")) == 1


def test_fault_in_a_task(sim, client):
    vm = client.call("VM.create", vm_record())
    host = client.call("host.get_all")[0]
    sim.faults.add("VM.start_on", ["INTERNAL_ERROR", "boom"])
    record = client.task("Async.VM.start_on", vm, host, False, False)
    assert record["error_info"] == ["INTERNAL_ERROR", "boom"]
