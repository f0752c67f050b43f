# SPDX-License-Identifier: Apache-2.0
"""Trouble on demand: rules in process, and the test door."""

import json
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.sim.clients import Refused, XmlClient, vdi_record, vm_record
from xenapi_driver.sim import Simulator


def outcome(client, method, *params):
    """Return the error code of a call, "" where it succeeded."""
    try:
        client.call(method, *params)
    except Refused as error:
        return error.code
    return ""


def names(client):
    return [row["name_label"] for row in client.call("VM.get_all_records").values()]


# rules


def test_a_rule_hits_the_calls_that_it_counts(sim, client):
    sim.faults.add("VM.get_all", ["TOO_BUSY"], skip=1, times=2)
    got = [outcome(client, "VM.get_all") for _ in range(5)]
    assert got == ["", "TOO_BUSY", "TOO_BUSY", "", ""]


def test_rules_count_side_by_side(sim, local):
    sim.faults.add("VM.get_all", ["FIRST"])
    sim.faults.add("VM.get_all", ["SECOND"], skip=1)
    sim.faults.add("*", ["FOURTH_OF_ALL"], skip=3)
    got = [outcome(local, "VM.get_all") for _ in range(3)]
    assert got == ["FIRST", "SECOND", ""]
    assert outcome(local, "host.get_all") == "FOURTH_OF_ALL"


def test_an_error_names_what_the_call_named(sim, client):
    vm = client.call("VM.create", vm_record())
    sim.faults.add("VM.start", ["VM_CRASHED", "{0}", "{1}x"])
    with pytest.raises(Refused) as caught:
        client.call("VM.start", vm, False, False)
    assert caught.value.args[0] == ["VM_CRASHED", vm, "{1}x"]
    assert client.call("VM.get_power_state", vm) == "Halted"


def test_a_connection_is_cut_before_or_after_the_effect(sim, local):
    for after, made in ((False, 0), (True, 1)):
        sim.faults.add("VM.create", action="cut", after=after)
        with pytest.raises(ConnectionError):
            local.call("VM.create", vm_record(name_label=f"cut {after}"))
        assert names(local).count(f"cut {after}") == made


def test_a_cut_connection_ends_over_http(sim):
    server = sim.serve()
    client = XmlClient(lambda body: urllib.request.urlopen(server.url, body).read())
    sim.faults.add("VM.get_all", action="cut")
    with pytest.raises(OSError):
        client.call("VM.get_all")
    assert client.call("VM.get_all")


def test_a_session_expires_in_the_middle(sim, client):
    sim.faults.add("VM.get_all", action="expire")
    assert outcome(client, "VM.get_all") == "SESSION_INVALID"
    assert outcome(client, "VM.get_all") == "SESSION_INVALID"


def test_a_restarted_toolstack_has_forgotten_sessions_and_tasks(sim, local):
    task = local.call("task.create", "mine", "")
    vm = local.call("VM.create", vm_record())
    sim.faults.add("VM.get_all", action="restart")
    with pytest.raises(ConnectionError):
        local.call("VM.get_all")
    assert outcome(local, "VM.get_all") == "SESSION_INVALID"
    again = XmlClient(sim.handle)
    assert outcome(again, "task.get_record", task) == "HANDLE_INVALID"
    assert again.call("VM.get_power_state", vm) == "Halted"


def test_a_lost_event_is_never_told_and_the_change_is_there(sim, client):
    token = client.call("event.from", ["vm"], "", 0.0)["token"]
    sim.faults.add("VM.create", action="lose")
    client.call("VM.create", vm_record(name_label="unheard of"))
    answer = client.call("event.from", ["vm"], token, 0.2)
    assert answer["events"] == []
    assert "unheard of" in names(client)
    client.call("VM.create", vm_record(name_label="told"))
    answer = client.call("event.from", ["vm"], token, 5.0)
    assert [one["snapshot"]["name_label"] for one in answer["events"]] == ["told"]


def test_a_task_hangs_until_it_is_cancelled(sim, client):
    vm = client.call("VM.create", vm_record())
    sim.faults.add("VM.start", action="hang")
    task = client.call("Async.VM.start", vm, False, False)
    client.call("event.from", [f"task/{task}"], "", 0.1)
    assert client.call("task.get_status", task) == "pending"
    client.call("task.cancel", task)
    token = ""
    while (record := client.call("task.get_record", task))["status"] == "pending":
        token = client.call("event.from", [f"task/{task}"], token, 5.0)["token"]
    assert (record["status"], record["error_info"]) == (
        "cancelled",
        ["TASK_CANCELLED", task],
    )
    assert client.call("VM.get_power_state", vm) == "Halted"


def test_what_hangs_goes_on_when_the_rules_are_cleared(sim, local):
    vm = local.call("VM.create", vm_record())
    sim.faults.add("VM.start", action="hang")
    task = local.call("Async.VM.start", vm, False, False)
    assert local.call("task.get_status", task) == "pending"
    sim.faults.clear()
    token = ""
    while local.call("task.get_status", task) == "pending":
        token = local.call("event.from", ["task"], token, 5.0)["token"]
    assert local.call("VM.get_power_state", vm) == "Running"


def test_a_rule_for_work_fails_the_task_and_one_for_its_start_the_call(sim, local):
    vm = local.call("VM.create", vm_record())
    sim.faults.add("VM.start", ["TOO_BUSY"])
    assert local.task("Async.VM.start", vm, False, False)["error_info"] == ["TOO_BUSY"]
    sim.faults.add("Async.VM.start", ["TOO_BUSY"])
    assert outcome(local, "Async.VM.start", vm, False, False) == "TOO_BUSY"
    sim.faults.add("VM.start", action="cut")
    record = local.task("Async.VM.start", vm, False, False)
    assert (record["status"], record["error_info"][0]) == ("failure", "INTERNAL_ERROR")
    assert local.call("VM.get_power_state", vm) == "Halted"


def test_a_dying_host_takes_the_answer_along(sim, local):
    sim.faults.add("VM.create", action="die", after=True)
    with pytest.raises(ConnectionError):
        local.call("VM.create", vm_record(name_label="last act"))
    with pytest.raises(ConnectionError):
        local.call("VM.get_all")
    sim.act("host", what="start")
    assert outcome(local, "VM.get_all") == "SESSION_INVALID"
    assert "last act" in names(XmlClient(sim.handle))


def test_who_waits_for_events_learns_of_the_death(sim, local):
    token = local.call("event.from", ["vm"], "", 0.0)["token"]
    found = []

    def wait():
        try:
            local.call("event.from", ["vm"], token, 30.0)
        except ConnectionError as error:
            found.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.1)
    sim.act("host", what="die")
    waiting.join(5)
    assert len(found) == 1


def test_another_host_leads_in_the_middle_of_a_call(tmp_path):
    sim = Simulator(tmp_path, hosts=2)
    try:
        client = XmlClient(sim.handle)
        sim.faults.add("VM.get_all", action="lead")
        with pytest.raises(ConnectionError):
            client.call("VM.get_all")
        assert outcome(client, "VM.get_all") == "HOST_IS_SLAVE"
        assert XmlClient(sim.door(1)).call("VM.get_all")
    finally:
        sim.close()


def test_rules_that_make_no_sense_are_refused(sim):
    for wrong in ({"action": "explode"}, {"colour": "red"}):
        with pytest.raises((ValueError, TypeError)):
            sim.faults.add("VM.start", **wrong)
    assert sim.faults.rules() == []


# the test door


@pytest.fixture
def door(sim):
    """What asks the test door: a path, a query, a body; the answer and the status."""
    server = sim.serve(admin=True)

    def ask(path, body=None, **query):
        url = f"{server.url}/_sim{path}"
        if query:
            url += "?" + urllib.parse.urlencode(query, doseq=True)
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(url, data, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return ask


@pytest.mark.parametrize(
    "what, state", [("halt", "Halted"), ("reboot", "Running"), ("crash", "Running")]
)
@pytest.mark.parametrize("form", ["query", "post", "document"])
def test_a_guest_acts_by_itself(door, local, what, state, form):
    vm = local.call("VM.create", vm_record())
    local.call("VM.start", vm, False, False)
    domid = local.call("VM.get_domid", vm)
    wanted = {"uuid": local.call("VM.get_uuid", vm), "what": what}
    if form == "query":
        answer = door("/guest", **wanted)
    elif form == "post":
        answer = door("/guest", wanted)
    else:
        answer = door("", {"guest": wanted})
    assert answer == {"guest": {"power_state": state}}
    assert local.call("VM.get_power_state", vm) == state
    assert local.call("VM.get_domid", vm) != domid


def test_a_document_does_several_things(door, local, sim):
    vm = local.call("VM.create", vm_record(name_label="by name"))
    local.call("VM.start", vm, False, False)
    rules = [{"method": "VM.start", "error": ["A"]}, {"method": "VM.pause"}]
    door("", {"guest": [{"uuid": "by name", "what": "halt"}], "rules": rules})
    assert local.call("VM.get_power_state", vm) == "Halted"
    assert [rule["method"] for rule in sim.faults.rules()] == ["VM.start", "VM.pause"]
    assert door("/rules") == sim.faults.rules()
    assert outcome(local, "VM.start", vm, False, False) == "A"
    door("/rules", clear="true")
    assert door("/rules") == []


def test_a_rule_is_one_line(door, local):
    door("/rules", method="VM.get_all", error=["NO", "way"], times="2", skip="1")
    got = [outcome(local, "VM.get_all") for _ in range(4)]
    assert got == ["", "NO", "NO", ""]


def test_a_full_sr_takes_no_more(door, local, sim):
    sr = local.call("SR.get_by_uuid", sim.default_sr_uuid)
    door("/sr", uuid=sim.default_sr_uuid, size="full")
    vdi = vdi_record(sr, virtual_size=str(1024**2))
    assert outcome(local, "VDI.create", vdi).startswith("SR_BACKEND_FAILURE")
    door("/sr", uuid=sim.default_sr_uuid, size=str(1024**3))
    assert local.call("SR.get_physical_size", sr) == str(1024**3)
    assert outcome(local, "VDI.create", vdi) == ""


def test_the_door_says_what_it_knows(door, sim, local):
    names = door("")
    assert {"requests", "inventory", "ports", "hosts"} <= set(names["look"])
    (host,) = door("/hosts")
    assert host["uuid"] == sim.host_uuid
    assert (host["coordinator"], host["running"]) == (True, True)
    assert door("/requests")["by_method"]["session.login_with_password"] == 1


@pytest.mark.parametrize(
    "path, query",
    [
        ("/guest", {"uuid": "nobody", "what": "halt"}),
        ("/guest", {"what": "halt"}),
        ("/host", {"host": "7", "what": "die"}),
        ("/host", {"what": "explode"}),
        ("/rules", {"method": "VM.start", "times": "many"}),
        ("/rules", {"colour": "red"}),
        ("/nothing", {}),
        ("/nothing", {"what": "die"}),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(door, path, query):
    status, text = door(path, **query)
    assert status == 400
    assert len(text.strip()) > 5


def test_a_guest_that_does_not_run_cannot_act(door, local):
    vm = local.call("VM.create", vm_record())
    uuid = local.call("VM.get_uuid", vm)
    status, text = door("/guest", uuid=uuid, what="halt")
    assert (status, text) == (400, "the guest does not run\n")
    status, _ = door("", {"world": {}})
    assert status == 400


def test_the_same_is_done_in_process(sim, local):
    vm = local.call("VM.create", vm_record())
    local.call("VM.start", vm, False, False)
    uuid = local.call("VM.get_uuid", vm)
    assert sim.act("guest", uuid=uuid, what="halt") == {"power_state": "Halted"}
    sim.act("rules", method="VM.get_all", error="TOO_BUSY")
    assert outcome(local, "VM.get_all") == "TOO_BUSY"
    for what, fields in (("world", {}), ("host", {"host": "9", "what": "die"})):
        with pytest.raises(LookupError):
            sim.act(what, **fields)
