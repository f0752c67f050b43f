# SPDX-License-Identifier: Apache-2.0
"""The log of requests and tasks: what can be followed, and what never stands there."""

import http.client
import io
import re

import pytest

from tests.sim.clients import (
    HttpSender,
    JsonClient,
    Refused,
    XmlClient,
    vdi_record,
    wait_until,
)
from xenapi_driver.sim import Simulator
from xenapi_driver.sim.request_log import RequestLog

NOWHERE = "OpaqueRef:00000000-0000-0000-0000-000000000000"
LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?P<who>\S+) (?P<what>.+) "
    r"(?P<ms>\d+\.\d) ms (?P<outcome>.+)"
)


@pytest.fixture
def text():
    return io.StringIO()


@pytest.fixture
def sim(tmp_path, text):
    simulator = Simulator(tmp_path / "state", log=RequestLog(text))
    yield simulator
    simulator.close()


def last(text):
    found = LINE.fullmatch(text.getvalue().splitlines()[-1])
    assert found, text.getvalue()
    return found["who"], found["what"], found["outcome"]


def test_a_line_for_each_call(local, text):
    local.call("VM.get_all")
    assert last(text) == ("in-process", "VM.get_all", "ok")
    with pytest.raises(Refused):
        local.call("VM.get_uuid", NOWHERE)
    assert last(text) == ("in-process", "VM.get_uuid", f"HANDLE_INVALID VM {NOWHERE}")


def test_over_http_it_names_the_caller(sim, text):
    sender = HttpSender(sim.serve(), "/")
    XmlClient(sender)
    port = sender.connection.sock.getsockname()[1]
    sender.connection.close()
    assert last(text) == (f"127.0.0.1:{port}", "session.login_with_password", "ok")


def test_requests_that_are_no_calls(sim, local, text):
    web = http.client.HTTPConnection(*sim.serve().address, timeout=10)
    for method, path, outcome in (
        ("GET", "/nope", "403"),
        ("GET", f"/rrd_updates?start=0&session_id={local.session}", "200"),
        ("GET", "/host_rrd", "401"),
        ("POST", "/", "500"),
    ):
        before = len(text.getvalue())
        web.request(method, path, b"" if method == "POST" else None)
        web.getresponse().read()
        web.close()
        # It is written when the answer is out.
        wait_until(lambda length=before: len(text.getvalue()) > length)
        _, what, found = last(text)
        assert (what, found) == (f"{method} {path.partition('?')[0]}", outcome)
    assert local.session not in text.getvalue()


def test_no_secret_is_written(sim, local, text):
    session = local.session
    with pytest.raises(Refused):
        local.raw("session.login_with_password", "root", "a wrong guess")
    with pytest.raises(Refused):
        local.raw("session.login_with_password", "root", ["also secret"])
    with pytest.raises(Refused):
        local.raw("VM.get_all", {"session_id": session})
    local.call("session.logout")
    with pytest.raises(Refused):
        local.call("VM.get_all")
    written = text.getvalue()
    assert written.endswith("SESSION_INVALID OpaqueRef:***\n")
    for secret in (session, "guess", "also", "secret"):
        assert secret not in written


def test_a_line_stays_one_line(sim, text):
    client = JsonClient(sim.handle_json)
    before = text.getvalue().count("\n")
    with pytest.raises(Refused):
        client.raw("VM.start\nand more\x1b[2J")
    assert text.getvalue().count("\n") == before + 1
    assert r"VM.start\nand more\x1b[2J" in text.getvalue()


def test_a_cut_connection_is_told(sim, local, text):
    sim.faults.add("VM.get_all", action="cut")
    with pytest.raises(ConnectionError):
        local.call("VM.get_all")
    assert last(text)[2] == "cut"


def test_tasks_are_followed(local, text):
    (pool,) = local.call("pool.get_all")
    sr = local.call("pool.get_default_SR", pool)
    vdi = local.call("VDI.create", vdi_record(sr))
    assert local.task("Async.VDI.copy", vdi, sr)["status"] == "success"
    failed = local.task("Async.VDI.resize", vdi, "1")
    assert failed["status"] == "failure"
    steps = [
        line.split(" ", 3)[3]
        for line in text.getvalue().splitlines()
        if line.split(" ")[1] == "task"
    ]
    assert [step for step in steps if "%" not in step] == [
        "Async.VDI.copy begins",
        "Async.VDI.copy success",
        "Async.VDI.resize begins",
        f"Async.VDI.resize failure {' '.join(failed['error_info'])}",
    ]
