# SPDX-License-Identifier: Apache-2.0
"""Sessions, errors and types as a real host answers them, through every door."""

import http.client
import json
import xmlrpc.client

import pytest

from tests.sim.clients import NULL, Refused, refusal, vm_record

NOWHERE = "OpaqueRef:00000000-0000-0000-0000-000000000000"


def test_wrong_password_is_refused(client):
    with pytest.raises(Refused) as caught:
        client.raw("session.login_with_password", "root", "wrong")
    expected = ["SESSION_AUTHENTICATION_FAILED", "root", "Authentication failure"]
    assert caught.value.args[0] == expected


def test_logged_out_session_is_invalid(client):
    client.call("session.logout")
    assert refusal(client, "VM.get_all") == ["SESSION_INVALID", client.session]


def test_unknown_method(client):
    expected = ["MESSAGE_METHOD_UNKNOWN", "VM.frobnicate"]
    assert refusal(client, "VM.frobnicate") == expected


def test_unknown_class(client):
    assert refusal(client, "Nope.get_all") == ["MESSAGE_METHOD_UNKNOWN", "Nope.get_all"]


def test_wrong_number_of_arguments(client):
    expected = ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.start", "3", "1"]
    assert refusal(client, "VM.start", NOWHERE) == expected


def test_dead_reference(client):
    expected = ["HANDLE_INVALID", "VM", NOWHERE]
    assert refusal(client, "VM.get_record", NOWHERE) == expected


def test_unknown_uuid(client):
    assert refusal(client, "VM.get_by_uuid", "x") == ["UUID_INVALID", "VM", "x"]


def test_wrong_type(client):
    expected = ["INTERNAL_ERROR", "Failure(\"Expected string, got 'I(5)'\")"]
    assert refusal(client, "VM.get_record", 5) == expected


def test_missing_constructor_field(client):
    record = vm_record()
    del record["affinity"]
    text = 'Server_helpers.Dispatcher_FieldNotFound("affinity")'
    assert refusal(client, "VM.create", record) == ["INTERNAL_ERROR", text]


def test_unknown_enum_value(client):
    record = vm_record(actions_after_shutdown="explode")
    expected = ["INTERNAL_ERROR", 'Failure("Unknown tag/contents")']
    assert refusal(client, "VM.create", record) == expected


def test_getter_has_no_async_form(client):
    expected = ["Fault", "No async mode for this operation (rpc: VM.get_record)"]
    assert refusal(client, "Async.VM.get_record", NOWHERE) == expected


def test_old_spelling_of_a_method(client):
    assert client.call("VM_get_all") == client.call("VM.get_all")


def test_map_keys_are_added_and_removed(client):
    vm = client.call("VM.create", vm_record())
    client.call("VM.add_to_other_config", vm, "k", "v")
    expected = ["MAP_DUPLICATE_KEY", "VM", "other_config", vm, "k"]
    assert refusal(client, "VM.add_to_other_config", vm, "k", "w") == expected
    client.call("VM.remove_from_other_config", vm, "k")
    client.call("VM.remove_from_other_config", vm, "k")
    assert "k" not in client.call("VM.get_other_config", vm)


def test_text_survives_the_wire(client):
    name = 'déjà <&> "中" ]]>'
    vm = client.call("VM.create", vm_record(name_label=name))
    assert client.call("VM.get_name_label", vm) == name
    assert client.call("VM.get_by_name_label", name) == [vm]


def test_ints_are_text_in_xml(sim):
    server = sim.serve()
    proxy = xmlrpc.client.ServerProxy(server.url)
    session = proxy.session.login_with_password("root", "secret")["Value"]
    host = proxy.host.get_all(session)["Value"][0]
    free = proxy.host.compute_free_memory(session, host)["Value"]
    assert isinstance(free, str)
    counts = getattr(proxy.event, "from")(session, ["pool"], "", 0.0)["Value"]
    assert counts["valid_ref_counts"]["pool"] == 1
    proxy("close")()


def test_json_version_1(sim):
    request = {"method": "VM.get_uuid", "params": [NULL, NULL], "id": 4}
    answer = json.loads(sim.handle_json(json.dumps(request).encode()))
    assert answer == {"result": None, "error": ["SESSION_INVALID", NULL], "id": 4}


def test_body_beyond_the_limit_is_refused(sim):
    server = sim.serve()
    connection = http.client.HTTPConnection(server.url.partition("://")[2], timeout=10)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", str(301 * 1024))
    connection.endheaders()
    assert connection.getresponse().status == 500
    connection.close()


def test_malformed_body_is_a_server_error(sim):
    server = sim.serve()
    connection = http.client.HTTPConnection(server.url.partition("://")[2], timeout=10)
    connection.request("POST", "/", b"<methodCall><methodName>")
    assert connection.getresponse().status == 500
    connection.close()


def test_admin_door_is_closed_unless_asked_for(sim):
    for admin, status in ((False, 403), (True, 200)):
        server = sim.serve(admin=admin)
        netloc = server.url.partition("://")[2]
        connection = http.client.HTTPConnection(netloc, timeout=10)
        connection.request("GET", "/_sim/inventory")
        assert connection.getresponse().status == status
        connection.close()


def test_requests_are_counted_polls_apart(sim, local):
    sim.requests.reset()
    local.call("VM.get_all")
    local.call("event.from", ["vm"], "", 0.0)
    assert sim.requests.by_method == {"VM.get_all": 1}
    assert (sim.requests.total, sim.requests.polls) == (1, 1)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0x10", "16"), ("+5", "5"), ("1_000", "1000"), ("0xffffffffffffffff", "-1")],
)
def test_ints_are_read_as_the_host_does(client, text, number):
    net = client.call("network.create", {"other_config": {}, "MTU": text})
    assert str(client.call("network.get_MTU", net)) == number


@pytest.mark.parametrize("text", ["", " 5", "5 ", "1.5", "9223372036854775808", "0b2"])
def test_what_is_no_int_of_64_bits_is_refused(client, text):
    with pytest.raises(Refused) as found:
        client.call("network.create", {"other_config": {}, "MTU": text})
    assert found.value.args[0] == ["INTERNAL_ERROR", 'Failure("Int64.of_string")']
