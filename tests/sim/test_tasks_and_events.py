# SPDX-License-Identifier: Apache-2.0
"""Async calls, the event loop, and rules that make calls fail."""

import threading
import time

from tests.sim.clients import XmlClient, behave, refusal, vm_record, wait_until


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
    behave(sim, shutdown_timeout=30)
    task = local.call("Async.VM.clean_shutdown", vm)
    wait_until(lambda: local.call("VM.get_current_operations", vm))
    local.call("task.cancel", task)
    wait_until(lambda: local.call("task.get_status", task) != "pending")
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


def test_a_token_of_another_life_reads_all_again(local):
    far = "00000000009999999999,00000000000000000000"
    assert seen(events(local, ["pool"], far)) == [("pool", "add")]


def test_classes_of_any_case_and_objects_of_no_class(client):
    vm = client.call("VM.create", vm_record())
    for wanted in ("vm", "VM", "Vm", f"vm/{vm}", f"VM/{vm}"):
        found = [event["ref"] for event in events(client, [wanted])["events"]]
        assert vm in found
    for wanted in ("nosuchclass", "", "/", "a/b/c", "vm/OpaqueRef:NULL", "host/"):
        assert events(client, [wanted])["events"] == []


def test_a_deletion_is_told_once_to_those_who_knew(client):
    vm = client.call("VM.create", vm_record())
    token = events(client, ["vm"])["token"]
    client.call("VM.destroy", vm)
    batch = events(client, ["vm"], token)
    (event,) = batch["events"]
    assert (event["operation"], event["ref"]) == ("del", vm)
    assert "snapshot" not in event
    assert events(client, ["vm"], batch["token"])["events"] == []


def test_deletions_are_forgotten_when_there_are_many(local):
    token = events(local, ["network"])["token"]
    for _ in range(600):
        ref = local.call("network.create", {"other_config": {}})
        local.call("network.destroy", ref)
    # Nobody who asked before knew them; now somebody does, and misses some.
    many = [local.call("network.create", {"other_config": {}}) for _ in range(600)]
    token = events(local, ["network"], token)["token"]
    for ref in many:
        local.call("network.destroy", ref)
    batch = events(local, ["network"], token)
    assert 0 < len(batch["events"]) < 600
    left = len(local.call("network.get_all"))
    assert int(batch["valid_ref_counts"]["network"]) == left


def test_a_negative_timeout_waits_for_a_change(sim, local):
    token = events(local, ["pool"])["token"]
    found = []
    other = XmlClient(sim.handle)
    waiting = threading.Thread(
        target=lambda: found.append(seen(events(other, ["pool"], token, -1.0)))
    )
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    pool = local.call("pool.get_all")[0]
    local.call("pool.set_name_label", pool, "changed")
    waiting.join(5)
    assert found == [[("pool", "mod")]]


def test_messages_are_told_when_they_come_and_go(client):
    vm = client.call("VM.create", vm_record())
    uuid = client.call("VM.get_uuid", vm)
    first = events(client, ["message", "pool"])
    assert seen(first) == [("pool", "add")]
    ref = client.call("message.create", "HELLO", "5", "VM", uuid, "text")
    batch = events(client, ["message"], first["token"])
    (event,) = batch["events"]
    assert (event["operation"], event["ref"]) == ("add", ref)
    assert event["snapshot"]["body"] == "text"
    client.call("message.destroy", ref)
    assert seen(events(client, ["*"], batch["token"])) == [("message", "del")]


# the old interface


def test_next_wants_a_registration(client):
    refused = refusal(client, "event.next")
    assert refused[0] == "SESSION_NOT_REGISTERED"
    assert client.session not in refused
    client.call("event.register", ["vm"])
    client.call("VM.create", vm_record(name_label="queued"))
    (event,) = client.call("event.next")
    assert (event["class"], event["operation"]) == ("vm", "add")
    assert event["snapshot"]["name_label"] == "queued"
    client.call("event.unregister", ["vm"])
    assert refusal(client, "event.next")[0] == "SESSION_NOT_REGISTERED"


def test_next_waits_and_numbers_what_it_tells(sim, local):
    local.call("event.register", ["*"])
    first = int(local.call("event.get_current_id"))
    pool = local.call("pool.get_all")[0]
    found = []
    waiting = threading.Thread(target=lambda: found.extend(local.call("event.next")))
    waiting.start()
    waiting.join(0.2)
    assert found == []
    XmlClient(sim.handle).call("pool.set_name_label", pool, "changed")
    waiting.join(5)
    assert "pool" in [event["class"] for event in found]
    assert [int(event["id"]) for event in found] == list(
        range(first, first + len(found))
    )
    assert int(local.call("event.get_current_id")) == first + len(found)


def test_who_does_not_come_for_events_has_lost_some(local):
    local.call("event.register", ["vm"])
    vm = local.call("VM.create", vm_record())
    for number in range(600):
        local.call("VM.set_name_label", vm, str(number))
    assert refusal(local, "event.next") == ["EVENTS_LOST"]
    local.call("VM.set_name_label", vm, "after all")
    (event,) = local.call("event.next")
    assert event["snapshot"]["name_label"] == "after all"


def test_next_ends_with_the_session(sim, local):
    local.call("event.register", ["pool"])
    codes = []
    waiting = threading.Thread(
        target=lambda: codes.append(refusal(local, "event.next")[0])
    )
    waiting.start()
    waiting.join(0.1)
    XmlClient(sim.handle).raw("session.logout", local.session)
    waiting.join(5)
    assert codes == ["SESSION_INVALID"]


# the life of tasks


def test_the_oldest_finished_tasks_go_when_there_are_many(local):
    first = local.call("task.create", "first", "")
    pending = local.call("task.create", "pending", "")
    local.call("task.set_status", first, "success")
    for number in range(210):
        ref = local.call("task.create", str(number), "")
        local.call("task.set_status", ref, "failure")
    tasks = local.call("task.get_all")
    assert len(tasks) <= 201
    assert first not in tasks
    assert pending in tasks


def test_a_task_of_old_is_gone(sim, local):
    vm = local.call("VM.create", vm_record())
    old = local.call("Async.VM.get_possible_hosts", vm)
    wait_until(lambda: local.call("task.get_status", old) != "pending")
    row = {"finished": "20200101T00:00:00Z", "created": "20200101T00:00:00Z"}
    sim.world.db.update("task", old, **row)
    local.call("Async.VM.get_possible_hosts", vm)
    assert refusal(local, "task.get_record", old)[0] == "HANDLE_INVALID"


def test_work_with_domains_notes_where_it_could_stop(client):
    vm = client.call("VM.create", vm_record())
    key = "debug_info:cancel_points_seen"
    started = client.task("Async.VM.start", vm, False, False)
    assert int(started["other_config"][key]) > 0
    assert key not in client.task("Async.VM.start", vm, False, False)["other_config"]
    assert key not in client.task("Async.VM.get_possible_hosts", vm)["other_config"]


def test_a_pending_task_of_ones_own_goes_when_it_is_done(client):
    ref = client.call("task.create", "mine", "of my own")
    client.call("task.set_progress", ref, 0.5)
    client.call("task.destroy", ref)
    record = client.call("task.get_record", ref)
    assert list(record["current_operations"].values()) == ["destroy"]
    assert float(record["progress"]) == 0.5
    client.call("task.set_status", ref, "success")
    assert refusal(client, "task.get_record", ref)[0] == "HANDLE_INVALID"


def test_messages_come_and_go_by_events(client):
    """A host keeps them in files, tells of them all the same, and counts none."""
    pool = client.call("pool.get_all")[0]
    uuid = client.call("pool.get_uuid", pool)
    token = client.call("event.from", ["message"], "", 0.0)["token"]
    ref = client.call("message.create", "NEWS", 3, "Pool", uuid, "all is well")
    batch = client.call("event.from", ["message"], token, 5.0)
    (event,) = batch["events"]
    assert (event["class"], event["operation"], event["ref"]) == ("message", "add", ref)
    assert event["snapshot"] == client.call("message.get_record", ref)
    assert batch["valid_ref_counts"]["message"] == 0
    client.call("message.destroy", ref)
    (event,) = client.call("event.from", ["message"], batch["token"], 5.0)["events"]
    assert (event["operation"], event["ref"]) == ("del", ref)
