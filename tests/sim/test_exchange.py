# SPDX-License-Identifier: Apache-2.0
"""What every HTTP handler of the simulator shares: who asks, the task, the answer."""

import base64
import contextlib
import http.client

import pytest

from tests.sim.clients import HttpSender, Refused, XmlClient, behave, received
from xenapi_driver.sim.doors import exchange
from xenapi_driver.sim.failure import Failure

NOWHERE = "OpaqueRef:00000000-0000-0000-0000-000000000000"


def _whose(talk):
    """Say who asks, and what was sent."""
    session = talk.session()
    talk.answer("text/plain", session.encode() + b" " + talk.body.exactly(1 << 20))


def _work(talk):
    """Read the body under a task; the argument ``fail`` breaks it off."""
    with talk.transfer("test.work") as work:
        if "fail" in talk.arguments:
            raise Failure("VDI_IO_ERROR", "Device I/O errors")
        talk.begin(200, {"content-type": "application/octet-stream"})
        talk.write(talk.body.exactly(1 << 20)[::-1])
        work.result = "OpaqueRef:1"


def _chat(talk):
    """Talk a protocol of its own: answer each line in capitals."""
    talk.session()
    stream = talk.take_over()
    stream.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while data := stream.read(100):
        stream.write(data.upper())


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    monkeypatch.setattr(exchange, "_HANDLERS", dict(exchange._HANDLERS))
    exchange.handler("GET", "/test")(_whose)
    exchange.handler("PUT", "/test")(_whose)
    exchange.handler("PUT", "/test/work")(_work)
    exchange.handler("CONNECT", "/chat")(_chat)


@pytest.fixture
def web(sim):
    """A kept-alive connection to the host."""
    server = sim.serve()
    connection = http.client.HTTPConnection(server.url.partition("://")[2], timeout=10)
    yield connection
    connection.close()


def ask(web, method, path, body=None, headers=None):
    web.request(method, path, body, headers or {})
    answer = web.getresponse()
    return answer, answer.read().decode()


def basic(user, password):
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {text}"}


def test_a_session_is_taken_from_query_or_cookie(web, local):
    by_query = ask(web, "GET", f"/test?session_id={local.session}")[1]
    by_cookie = ask(
        web, "GET", "/test", None, {"Cookie": f"session_id={local.session}"}
    )[1]
    assert by_query.split() == by_cookie.split() == [local.session]


def test_basic_authentication_makes_a_session_for_one_request(web, sim):
    before = sim.world.db.refs("session")
    answer, session = ask(web, "GET", "/test", None, basic("root", "secret"))
    assert answer.status == 200
    assert session.strip().startswith("OpaqueRef:")
    assert sim.world.db.refs("session") == before


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", {}),
        (f"?session_id={NOWHERE}", {}),
        ("", basic("root", "wrong")),
        ("", {"Authorization": "Basic ###"}),
        ("", {"Authorization": "Bearer x"}),
    ],
)
def test_a_stranger_is_refused_in_the_name_of_the_handler(web, query, headers):
    answer, page = ask(web, "PUT", f"/test/work{query}", b"x", headers)
    assert answer.status == 401
    assert answer.getheader("WWW-Authenticate") == 'Basic realm="put_test_work"'
    assert "HTTP 401 unauthorised" in page


def test_the_longest_path_wins_for_each_method(web, local):
    assert ask(web, "PUT", f"/test/other?session_id={local.session}", b"abc")[1] == (
        f"{local.session} abc"
    )
    assert ask(web, "CONNECT", f"/test?session_id={local.session}")[0].status == 403


def test_a_connection_serves_the_next_request(web, local):
    path = f"/test?session_id={local.session}"
    ask(web, "GET", path, b"a body that nobody reads")
    socket = web.sock
    assert ask(web, "GET", path)[0].status == 200
    assert web.sock is socket is not None


def test_work_without_a_task_gets_one_that_the_answer_names(web, local):
    answer, text = ask(web, "PUT", f"/test/work?session_id={local.session}", b"abc")
    assert (answer.status, text) == (200, "cba")
    assert answer.getheader("Connection") == "close"
    record = local.call("task.get_record", answer.getheader("task-id"))
    assert (record["status"], record["name_label"]) == ("success", "test.work")
    assert record["result"] == "<value>OpaqueRef:1</value>"


def test_a_task_of_the_hosts_own_may_go_with_its_work(sim, web, local):
    behave(sim, keeps_own_tasks=False)
    path = f"/test/work?session_id={local.session}"
    answer, _ = ask(web, "PUT", path, b"abc")
    assert answer.getheader("task-id")
    assert local.call("task.get_all") == []
    task = local.call("task.create", "mine", "")
    ask(web, "PUT", f"{path}&task_id={task}", b"abc")
    assert local.call("task.get_all") == [task]


def test_tasks_left_to_the_host_are_not_left_over(sim, web, local):
    before = sim.inventory()
    ask(web, "PUT", f"/test/work?session_id={local.session}", b"abc")
    assert len(local.call("task.get_all")) == 1
    assert sim.inventory() == before


def test_work_ends_the_task_that_the_caller_made(web, local):
    task = local.call("task.create", "mine", "")
    path = f"/test/work?session_id={local.session}&task_id={task}"
    answer, page = ask(web, "PUT", f"{path}&fail=1", b"abc")
    assert answer.status == 500
    assert "VDI_IO_ERROR: [ Device I/O errors ]" in page
    record = local.call("task.get_record", task)
    assert (record["status"], record["name_label"]) == ("failure", "mine")
    assert record["error_info"] == ["VDI_IO_ERROR", "Device I/O errors"]


def test_an_unknown_task_is_refused(web, local):
    path = f"/test/work?session_id={local.session}&task_id={NOWHERE}"
    answer, page = ask(web, "PUT", path, b"abc")
    assert answer.status == 500
    assert "Db_exn.DBCache_NotFound" in page
    assert local.call("task.get_all") == []


def test_a_new_task_can_have_a_parent(web, local):
    parent = local.call("task.create", "all", "")
    path = f"/test/work?session_id={local.session}&subtask_of={parent}"
    task = ask(web, "PUT", path, b"abc")[0].getheader("task-id")
    assert local.call("task.get_subtasks", parent) == [task]


def test_a_handler_can_talk_another_protocol(web, local):
    web.connect()
    web.sock.sendall(
        f"CONNECT /chat?session_id={local.session} HTTP/1.0\r\n\r\nhey".encode()
    )
    received(web.sock, b"HEY")
    web.sock.sendall(b"you")
    assert web.sock.recv(100) == b"YOU"


def test_a_length_that_is_no_number_is_a_bad_request(web):
    web.putrequest("PUT", "/test")
    web.putheader("Content-Length", "many")
    web.endheaders()
    assert web.getresponse().status == 400


def test_a_rule_hits_a_request_to_a_handler(sim, web):
    def asked():
        answer, text = ask(web, "GET", "/test", None, basic("root", "secret"))
        return answer.status, text

    sim.faults.add("GET /test", ["TOO_BUSY"])
    status, text = asked()
    assert (status, "TOO_BUSY" in text) == (500, True)
    sim.faults.add("GET /test", action="cut")
    with pytest.raises((http.client.HTTPException, OSError)):
        asked()
    web.close()
    assert asked()[0] == 200


# Rules hit transfers too


def test_a_rule_refuses_a_transfer(web, sim, local):
    sim.faults.add("PUT /test/work", ["SR_BACKEND_FAILURE_44", "", "full", ""])
    path = f"/test/work?session_id={local.session}"
    answer, page = ask(web, "PUT", path, b"abc")
    assert answer.status == 500
    assert "SR_BACKEND_FAILURE_44: [ ; full;  ]" in page
    assert ask(web, "PUT", path, b"abc")[0].status == 200


def test_a_rule_for_all_calls_is_for_calls(sim):
    client = XmlClient(HttpSender(sim.serve(), "/"))
    sim.faults.add("*", ["TOO_BUSY"], skip=2)
    client.call("VM.get_all")
    client.call("VM.get_all")
    with pytest.raises(Refused):
        client.call("VM.get_all")


def test_a_rule_cuts_an_upload_in_the_middle(web, sim, local):
    task = local.call("task.create", "mine", "")
    sim.faults.add("PUT /test/work", action="cut", bytes=1000)
    path = f"/test/work?session_id={local.session}&task_id={task}"
    # The head of the answer is out before the body is read, as on a host.
    with contextlib.suppress(ConnectionError):
        assert ask(web, "PUT", path, bytes(2000))[1] == ""
    assert local.call("task.get_status", task) == "failure"


def test_a_rule_cuts_a_download_in_the_middle(sim, local):
    def send(talk):
        talk.session()
        talk.begin(200, {"content-length": "5000"})
        for _ in range(5):
            talk.write(bytes(1000))

    exchange.handler("GET", "/test/file")(send)
    server = sim.serve()
    for limit in (0, 1500, 3000):
        sim.faults.add("GET /test/file", action="cut", bytes=limit)
        web = http.client.HTTPConnection(*server.address, timeout=10)
        web.request("GET", f"/test/file?session_id={local.session}")
        with pytest.raises(http.client.IncompleteRead) as caught:
            web.getresponse().read()
        assert len(caught.value.partial) == limit
        web.close()
