# SPDX-License-Identifier: Apache-2.0
"""Records of guests, through XAPI, on the embedded xenstore and on both real ones."""

import contextlib
import os
import subprocess

import pytest
from xenapi_dom0 import failures, xenstore

from tests.dom0 import conftest, guests, plugin_functions, xenstore_daemons
from tests.dom0.scratch_host import PluginFailed


@pytest.fixture(params=["embedded", "xenstored", "oxenstored"])
def stored(request, tmp_path):
    """A host with each kind of xenstore, its plugins under another Python each time."""
    kind = request.param
    python = {"embedded": "3.6", "xenstored": "3.12", "oxenstored": "current"}[kind]
    socket = None if kind == "embedded" else request.getfixturevalue(kind)
    with with_store(tmp_path, python, socket) as host:
        yield host


@pytest.fixture
def old(tmp_path, xenstored):
    """The same with Xen's xenstored, under a dom0's Python."""
    with with_store(tmp_path, "3.6", xenstored) as host:
        yield host


@contextlib.contextmanager
def with_store(folder, python, socket):
    with conftest.made(folder, python, xenstore=socket) as host:
        host.tools = xenstore_daemons.Tools(host.dom0.xenstore_path())
        yield host
    if socket is not None:
        for path in ("/local/domain", "/local/logconsole", "/vm"):
            xenstore_daemons.Tools(socket).remove(path)


def failure(call, *arguments):
    with pytest.raises(PluginFailed) as caught:
        call(*arguments)
    return [caught.value.code, *caught.value.params]


def refused(host, fn, **request):
    return failure(host.call, "xenstore", fn, request)


def test_a_record_is_written_read_listed_and_deleted(stored):
    domain = guests.Domain(stored)
    at = {"dom_id": domain.id, "path": "vm-data/user-metadata/role"}
    value = '"w\u00e9b \\"1\\"\n"'
    assert stored.call("xenstore", "write_record", {**at, "value": value}) == value
    assert stored.tools.read(f"{domain.home}/{at['path']}") == value
    assert stored.call("xenstore", "read_record", at) == value
    stored.tools.write(f"{domain.home}/vm-data/hostname", "one")
    found = stored.call("xenstore", "list_records", {**at, "path": "vm-data"})
    assert found == {
        "hostname": "one",
        "user-metadata": "",
        "user-metadata/role": value,
    }
    upper = {**at, "path": "vm-data/user-metadata"}
    assert stored.call("xenstore", "delete_record", upper) is None
    assert stored.tools.names(f"{domain.home}/vm-data") == ["hostname"]
    # Once more is harmless, and so is what never was.
    assert stored.call("xenstore", "delete_record", upper) is None
    gone = {**at, "path": "never/was/here"}
    assert stored.call("xenstore", "delete_record", gone) is None
    assert stored.call("xenstore", "list_records", gone) == {}


def test_what_is_missing_is_told_or_ignored(stored):
    at = {"dom_id": guests.Domain(stored).id, "path": "data/nothing"}
    assert refused(stored, "read_record", **at) == ["NOT_FOUND", "path"]
    ignored = {**at, "ignore_missing_path": True}
    assert stored.call("xenstore", "read_record", ignored) is None
    told = {**at, "ignore_missing_path": False}
    assert refused(stored, "read_record", **told) == ["NOT_FOUND", "path"]


def test_a_value_has_the_length_that_the_daemon_takes(stored, request):
    domain = guests.Domain(stored)
    path = "data/long"
    most = fits = 4096 - len(f"{domain.home}/{path}") - 1
    # Xen's C daemon alone limits no value of dom0's.
    if "[xenstored]" not in request.node.name:
        fits = 2048
    at = {"dom_id": domain.id, "path": path}
    stored.call("xenstore", "write_record", {**at, "value": "x" * fits})
    assert stored.tools.read(f"{domain.home}/{path}") == "x" * fits
    for length in (fits + 1, most + 1):
        code, name, why = refused(stored, "write_record", **at, value="y" * length)
        assert (code, name) == ("BAD_ARGUMENT", "value")
        assert why.startswith(f"makes a record of {length} bytes")
        assert "yy" not in why
    assert stored.tools.read(f"{domain.home}/{path}") == "x" * fits


def test_a_batch_is_done_whole(stored):
    domain = guests.Domain(stored)
    stored.tools.write(f"{domain.home}/data/old", "1", f"{domain.home}/data/b", "2")
    records = [
        {"act": "read", "path": "data/old"},
        {"act": "write", "path": "vm-data/new", "value": "3"},
        {"act": "delete", "path": "data/old"},
        {"act": "read", "path": "data/old"},
        {"act": "list", "path": "vm-data"},
    ]
    request = {"dom_id": domain.id, "vm_uuid": domain.uuid, "records": records}
    answer = stored.call("xenstore", "batch", request)
    assert answer == ["1", "3", None, None, {"new": "3"}]
    assert stored.tools.read(f"{domain.home}/vm-data/new") == "3"
    assert "old" not in stored.tools.names(f"{domain.home}/data")


def test_a_domain_that_is_another_vms_is_left_alone(stored):
    domain = guests.Domain(stored)
    other = {"vm_uuid": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", "dom_id": domain.id}
    names = ["NOT_FOUND", f"domain {domain.id}"]
    found = refused(stored, "write_record", **other, path="vm-data/x", value="1")
    assert found == names
    assert stored.tools.read(f"{domain.home}/vm-data/x") is None
    mine = {"vm_uuid": domain.uuid, "dom_id": domain.id, "path": "name"}
    assert stored.call("xenstore", "read_record", mine) == "guest"
    # And where there is no domain, none is begun.
    found = refused(stored, "write_record", dom_id=999, path="vm-data/x", value="1")
    assert found == ["NOT_FOUND", "domain 999"]
    assert "999" not in stored.tools.names("/local/domain")


BAD_PATHS = [
    "",
    "/",
    "/name",
    "//name",
    "../0/name",
    "data/../../0/name",
    "data/./x",
    "data//x",
    "data/",
    "a b",
    "a\0b",
    "a\nb",
    "d\u00e4ta",
    "\ud800",
    "@releaseDomain\n",
    "x" * 513,
    5,
    None,
    ["name"],
]


FNS = ("read_record", "list_records", "delete_record", "write_record", "batch")


def with_path(fn, path):
    """Return the arguments of a function for a path."""
    if fn == "write_record":
        return {"path": path, "value": "x"}
    if fn == "batch":
        fine = {"act": "write", "path": "data/a", "value": "1"}
        return {"records": [fine, {"act": "delete", "path": path}]}
    return {"path": path}


def test_no_path_leads_out_of_the_domain():
    plugin = plugin_functions.load("xenstore")
    for path in BAD_PATHS:
        for fn in FNS:
            request = {"dom_id": 1, **with_path(fn, path)}
            found = plugin_functions.refusal(plugin, fn, request)
            assert found[:2] == ["BAD_ARGUMENT", "path"], (fn, path)


def test_a_refused_call_leaves_the_store_as_it_was(old):
    domain = guests.Domain(old)
    before = old.tools.run("ls", "-f").stdout
    for fn in FNS:
        found = refused(old, fn, dom_id=domain.id, **with_path(fn, "../0/name"))
        assert found[:2] == ["BAD_ARGUMENT", "path"]
    assert old.tools.run("ls", "-f").stdout == before


def test_dom0_and_no_domain_are_refused():
    plugin = plugin_functions.load("xenstore")
    for dom_id in (0, -1, 0x7FF0, 1.5, True, "1", None, 10**40):
        for fn in FNS:
            request = {"dom_id": dom_id, **with_path(fn, "name")}
            found = plugin_functions.refusal(plugin, fn, request)
            assert found[:2] == ["BAD_ARGUMENT", "dom_id"], dom_id


def test_a_value_is_text():
    plugin = plugin_functions.load("xenstore")
    for value in (None, 5, {}, "secret\0b", "secret\udc80"):
        request = {"dom_id": 1, "path": "data/x", "value": value}
        found = plugin_functions.refusal(plugin, "write_record", request)
        assert found[:2] == ["BAD_ARGUMENT", "value"], value
        assert "secret" not in found[2]


def test_a_batch_is_checked_before_it_is_begun():
    plugin = plugin_functions.load("xenstore")
    fine = {"act": "write", "path": "data/a", "value": "1"}
    for records in (
        5,
        [fine, 5],
        [fine, {"act": "read"}],
        [fine, {"act": "chmod", "path": "data"}],
        [fine, {"act": "read", "path": "data", "dom_id": 0}],
        [fine] * 501,
    ):
        request = {"dom_id": 1, "records": records}
        found = plugin_functions.refusal(plugin, "batch", request)
        assert found[0] == "BAD_ARGUMENT", records


def test_bytes_of_a_guest_come_as_text(old):
    domain = guests.Domain(old)
    at = f"{domain.home}/data/rubbish".encode()
    # A shell carries bytes that are no text.
    subprocess.run(
        ["xenstore-write", at, b"\xff\xfe<b>\x01"],
        env={**os.environ, "XENSTORED_PATH": str(old.tools.path)},
        check=True,
    )
    request = {"dom_id": domain.id, "path": "data/rubbish"}
    assert old.call("xenstore", "read_record", request) == "\ufffd\ufffd<b>\x01"


@pytest.mark.parametrize("kind", ["xenstored", "oxenstored"])
def test_a_guest_that_fills_its_records_gets_no_endless_answer(
    kind, tmp_path, request
):
    with with_store(tmp_path, "3.6", request.getfixturevalue(kind)) as host:
        domain = guests.Domain(host)
        records = [f"{domain.home}/data/many/a-long-name-{n:04}" for n in range(300)]
        for first in range(0, 300, 50):
            pairs = [(at, "x" * 1000) for at in records[first : first + 50]]
            host.tools.write(*[text for pair in pairs for text in pair])
        listed = {"dom_id": domain.id, "path": "data/many"}
        found = refused(host, "list_records", **listed)
        assert found[:2] == ["BAD_ARGUMENT", "path"]
        # Names that do not fit into one message of the protocol come all the same.
        host.tools.run("rm", *records[:60])
        assert len(host.call("xenstore", "list_records", listed)) == 240
        twice = [{"act": "list", "path": "data/many"}] * 2
        found = refused(host, "batch", dom_id=domain.id, records=twice)
        assert found[:2] == ["BAD_ARGUMENT", "path"]


def test_a_transaction_that_others_spoil_is_done_again(tmp_path):
    conftest.require_daemon(ocaml=True)
    with (
        xenstore_daemons.oxenstored(eagain=True) as socket,
        with_store(tmp_path, "3.6", socket) as host,
    ):
        domain = guests.Domain(host)
        for number in range(4):
            records = [
                {"act": "write", "path": "data/a", "value": str(number)},
                {"act": "write", "path": "data/b", "value": str(number)},
            ]
            request = {"dom_id": domain.id, "records": records}
            host.call("xenstore", "batch", request)
            assert host.tools.read(f"{domain.home}/data/a") == str(number)
            assert host.tools.read(f"{domain.home}/data/b") == str(number)


def test_half_a_transaction_is_none(xenstored, monkeypatch):
    monkeypatch.setenv("XENSTORED_PATH", str(xenstored))
    tools = xenstore_daemons.Tools(xenstored)

    def work():
        store.write("/trial/a", b"1")
        raise failures.Failure(failures.NOT_FOUND, "something")

    with xenstore.connected() as store, pytest.raises(failures.Failure):
        store.transact(work)
    assert tools.read("/trial/a") is None


def test_a_daemon_that_is_not_there_is_told(old, tmp_path):
    environment = {**old.environment(), "XENSTORED_PATH": str(tmp_path / "none")}
    old.environment = lambda: environment
    request = {"dom_id": 1, "path": "name"}
    process = old.start_call("xenstore", "read_record", request)
    out, err = process.communicate(timeout=30)
    assert err == b"" and b"talk to xenstored" in out and b"COMMAND_FAILED" in out
