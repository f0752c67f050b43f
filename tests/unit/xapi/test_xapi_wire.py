# SPDX-License-Identifier: Apache-2.0
"""Two dialects: the same values, the same refusals, whatever the host says."""

import http.server
import json
import threading
import xmlrpc.client

import pytest
import XenAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xenapi_driver.sim import Simulator
from xenapi_driver.sim.doors import wire as host_side
from xenapi_driver.xapi import errors, transport, wire_json, wire_xml
from xenapi_driver.xapi.session import Session
from xenapi_driver.xapi.transport import Answer

XML, JSON = wire_xml.XmlRpc(), wire_json.JsonRpc()
BOTH = pytest.mark.parametrize("dialect", [XML, JSON], ids=lambda one: one.name)


def answering(value, refusal=None):
    """Return a carrier to a host that answers so, in the dialect of the request."""

    def carry(_path, content_type, body):
        if "xml" in content_type:
            envelope = host_side.success(value)
            if refusal is not None:
                envelope = host_side.failure(refusal)
            return Answer(host_side.encode_xml(envelope), "text/xml", "http://host")
        number = json.loads(body)["id"]
        answer = host_side.encode_json(value, refusal, number, True)
        return Answer(answer, "application/json", "http://host")

    return carry


def saying(body, content_type):
    """Return a carrier to a host that answers every request with these bytes."""
    return lambda *_request: Answer(body, content_type, "http://host")


def as_the_host_reads(dialect, *params):
    """Return method and parameters as they arrive on the other side."""
    sent = []

    def carry(path, content_type, body):
        sent.append((content_type, body))
        return answering("")(path, content_type, body)

    dialect.exchange(carry, "VM.create", params)
    ((content_type, body),) = sent
    if "xml" in content_type:
        return host_side.decode_xml(body)
    return host_side.decode_json(body)[:2]


TEXT = st.text(max_size=20) | st.text("\x00\x1f\r\n\t\ufffe\uffff<&>]é\U0001f600")
# The embedded host does not escape names of members, which a line end would need.
NAMES = TEXT.filter(lambda text: "\r" not in text)
VALUES = st.recursive(
    TEXT
    | st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    # XML-RPC has 16 digits of them.
    | st.floats().map(lambda number: float(f"{number:.16g}"))
    | st.just(host_side.Timestamp("20260821T02:00:23Z"))
    | st.integers(0, 99).map(host_side.WireInt),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner),
    max_leaves=10,
)


@settings(deadline=None, max_examples=200)
@given(VALUES)
@example("\x08\x0c\x00\uffff")
def test_values_are_the_same(value):
    told = [one.exchange(answering(value), "VM.get", ()) for one in (XML, JSON)]
    # As text, since no NaN equals another.
    assert repr(told[0]) == repr(told[1])


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=4))
def test_refusals_are_the_same(details):
    told = []
    for dialect in (XML, JSON):
        with pytest.raises(XenAPI.Failure) as caught:
            dialect.exchange(answering(None, details), "VM.start", ())
        told.append(caught.value.details)
    assert told[0] == told[1]


ARGUMENTS = st.recursive(
    st.text(st.characters(exclude_categories=["Cs", "Cc"])).filter(
        lambda text: "\ufffe" not in text and "\uffff" not in text
    )
    | st.text("\r\n\t <&>]")
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b-c"]), inner)
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=200)
@given(st.lists(ARGUMENTS, max_size=3))
def test_the_host_reads_the_same_parameters(params):
    xml, json_ = (as_the_host_reads(one, *params) for one in (XML, JSON))
    assert [*xml] == [*json_]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    sim = Simulator(tmp_path_factory.mktemp("host"), hosts=2)
    yield sim
    sim.close()


def test_records_of_every_class_are_the_same(host):
    carry = transport.InProcessTransport(host.handle, host.handle_json).request
    login = ("root", "secret", "1.0", "test")
    session = XML.exchange(carry, "session.login_with_password", login)
    methods = XML.exchange(carry, "system.listMethods", ())
    assert methods == JSON.exchange(carry, "system.listMethods", ())
    classes = [name for name in methods if name.endswith(".get_all_records")]
    assert len(classes) > 30
    filled = 0
    for name in classes:
        told = []
        for dialect in (XML, JSON):
            try:
                told.append(dialect.exchange(carry, name, (session,)))
            except XenAPI.Failure as refusal:  # a class that was removed
                told.append(refusal.details)
        assert told[0] == told[1], name
        filled += isinstance(told[0], dict) and bool(told[0])
    assert filled > 15
    # This one has real ints in XML, and only there.
    events = [
        one.exchange(carry, "event.from", (session, ["VM"], "", 0.0))
        for one in (XML, JSON)
    ]
    assert events[0]["valid_ref_counts"] == events[1]["valid_ref_counts"]
    assert int(events[0]["valid_ref_counts"]["vm"]) > 0


@BOTH
def test_ints_go_out_as_text_and_bools_as_bools(dialect):
    record = {"memory": 2**40, "on": True, "list": (1, 0.5), "map": {1: {2}}}
    assert [*as_the_host_reads(dialect, "ref", record)] == [
        "VM.create",
        [
            "ref",
            {
                "memory": "1099511627776",
                "on": True,
                "list": ["1", 0.5],
                "map": {"1": ["2"]},
            },
        ],
    ]


@BOTH
@pytest.mark.parametrize("value", [None, b"bytes", object(), {"a": None}])
def test_values_without_a_xapi_type_are_refused(dialect, value):
    with pytest.raises(TypeError, match="XAPI has no type"):
        dialect.exchange(answering(""), "VM.create", (value,))


@BOTH
@pytest.mark.parametrize("value", ["a\x00b", {"\x01": ""}, ["\ud800"]])
def test_text_that_xml_cannot_carry_is_refused(dialect, value):
    with pytest.raises(ValueError, match="control characters"):
        dialect.exchange(answering(""), "VM.set_name_label", (value,))


@pytest.mark.parametrize(
    "body", [b"", b"<html>busy</html>", b"{}", b"\xff\xfe", b"<a>\x00</a>"]
)
def test_rubbish_is_no_xml_rpc(body):
    with pytest.raises(errors.BadAnswer, match="http://host did not .*no XML-RPC"):
        XML.exchange(saying(body, "text/xml"), "VM.get_all", ())


def test_value_without_an_envelope_is_no_answer():
    body = xmlrpc.client.dumps(("x",), methodresponse=True).encode()
    with pytest.raises(errors.BadAnswer, match="http://host .* Status"):
        XML.exchange(saying(body, "text/xml"), "VM.get_all", ())


def test_fault_is_an_internal_error():
    fault = xmlrpc.client.dumps(xmlrpc.client.Fault(7, "no"), methodresponse=True)
    with pytest.raises(XenAPI.Failure) as caught:
        XML.exchange(saying(fault.encode(), "text/xml"), "VM.get_all", ())
    assert caught.value.details == ["INTERNAL_ERROR", "7: no"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"nonsense", b"\xff\xfe"])
def test_rubbish_is_no_json_rpc(body):
    carry = saying(body, "application/json; charset=utf-8")
    with pytest.raises(errors.BadAnswer, match="http://host did not .*no JSON") as no:
        JSON.exchange(carry, "VM.get_all", ())
    assert not isinstance(no.value, errors.NoSuchDialect)


def test_answer_to_another_call_is_not_taken():
    body = b'{"jsonrpc": "2.0", "result": "x", "id": "other"}'
    with pytest.raises(errors.BadAnswer, match="another call"):
        JSON.exchange(saying(body, "application/json"), "VM.get_all", ())


@pytest.mark.parametrize(
    ("error", "details"),
    [
        ({"code": 1, "message": "A", "data": ["b", 3]}, ["A", "b", "3"]),
        ({"code": 1, "message": "A"}, ["A"]),
        ({"code": 1, "message": "A", "data": "b"}, ["A", "b"]),
        # Version 1.
        (["A", "b"], ["A", "b"]),
        ([], ["INTERNAL_ERROR"]),
        ("A", ["A"]),
    ],
)
def test_json_errors_of_either_version(error, details):
    body = json.dumps({"result": None, "error": error, "id": 1}).encode()
    with pytest.raises(XenAPI.Failure) as caught:
        JSON.exchange(saying(body, "application/json"), "VM.start", ())
    assert caught.value.details == details


class Old(http.server.BaseHTTPRequestHandler):
    """A host without JSON-RPC, in the way that its server says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, content_type, text = self.server.way
        if self.path == "/":
            status, content_type = 200, "text/xml"
            text = self.server.sim.handle(body)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_args):
        pass


@pytest.fixture
def old(host):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old)
    server.sim = host
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def asked(server):
    """Ask the host something in JSON, over the network."""
    carrier = transport.HttpTransport(f"http://127.0.0.1:{server.server_port}")
    try:
        return JSON.exchange(carrier.request, "system.listMethods", ())
    finally:
        carrier.close()


WAYS = [
    (404, "text/html", b"<html>no</html>"),
    (500, "text/html", b"<html>Xmlm.Error</html>"),
    (200, "text/html", b"<html>welcome</html>"),
    (200, "text/xml", b"<methodResponse/>"),
    (200, "application/json", b"<?xml version='1.0'?><methodResponse/>"),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_host_without_json_is_told_from_others(old, way):
    old.way = way
    with pytest.raises(errors.NoSuchDialect):
        asked(old)


def test_a_session_finds_out_at_login_what_the_host_speaks(old):
    old.way = WAYS[1]
    url = f"http://127.0.0.1:{old.server_port}"
    session = Session(lambda: transport.HttpTransport(url), "root", "secret", "test")
    with session.requests.recording() as names, session:
        login = "session.login_with_password"
        assert names[:3] == [login, login, "session.get_this_host"]
        assert names.count(login) == 2
        assert session.call("VM.get_all")


def test_a_session_prefers_json(host):
    kinds = []

    class Door(transport.InProcessTransport):
        def request(self, path, content_type, *rest):
            kinds.append(content_type)
            return super().request(path, content_type, *rest)

    with Session(
        lambda: Door(host.handle, host.handle_json), "root", "secret", "test"
    ) as session:
        assert session.call("VM.get_all")
    assert set(kinds) == {"application/json"}


def test_a_busy_host_may_have_json(old):
    old.way = (503, "text/html", b"<html>busy</html>")
    with pytest.raises(errors.BadAnswer, match="503") as caught:
        asked(old)
    assert not isinstance(caught.value, errors.NoSuchDialect)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # As recorded from xapi 26.17, conformance scenario 13-tasks.
        ("<value>OpaqueRef:1</value>", "OpaqueRef:1"),
        ("<value></value>", ""),
        ("<value>66014150656</value>", "66014150656"),
        (
            "<value><array><data><value>OpaqueRef:1</value></data></array></value>",
            ["OpaqueRef:1"],
        ),
        ("<value>{&quot;a&quot;: 1}</value>", '{"a": 1}'),
        ("", ""),
        # What some old hosts stored.
        ("OpaqueRef:1", "OpaqueRef:1"),
    ],
)
def test_task_results_are_decoded(text, value):
    assert wire_xml.task_result(text) == value


def test_broken_task_result_is_told():
    with pytest.raises(ValueError, match="tag"):
        wire_xml.task_result("<value><array></value>")
