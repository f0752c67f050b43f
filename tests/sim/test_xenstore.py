# SPDX-License-Identifier: Apache-2.0
"""The xenstore: its tree, its protocol, and what guests and dom0 see in it."""

import os
import shutil
import socket
import subprocess
import threading

import pytest

from tests.sim.clients import Refused, received, vm_record, wait_until
from xenapi_driver.sim.doors import xenstore_socket as wire
from xenapi_driver.sim.doors.xenstore_socket import XenstoreSocket
from xenapi_driver.sim.vms import guest_store
from xenapi_driver.sim.xenstore import (
    MAX_PATH,
    MAX_PAYLOAD,
    MAX_VALUE,
    Refusal,
    Xenstore,
)
from xenapi_driver.sim.xenstore_client import RemoteXenstore


def errno(function, *arguments):
    with pytest.raises(Refusal) as caught:
        function(*arguments)
    return caught.value.errno


@pytest.fixture
def tree():
    return Xenstore()


@pytest.fixture
def door(tree):
    door = XenstoreSocket(tree)
    yield door
    door.close()


@pytest.fixture(params=["here", "remote"])
def store(request, tree, door):
    """The same store, in this process and over its socket."""
    if request.param == "here":
        yield tree
        return
    client = RemoteXenstore(door.path)
    yield client
    client.close()


def test_what_lies_above_is_made(store):
    store.write("/local/domain/1/data/host", b"text")
    assert store.read("/local/domain/1/data/host") == b"text"
    assert store.read("/local/domain/1") == b""
    assert store.list("/local/domain/1") == ["data"]
    assert store.exists("/local")
    assert not store.exists("/nowhere")


def test_what_is_removed_takes_along_what_lies_below(store):
    store.write("/a/b/c", b"1")
    store.write("/a/d", b"2")
    store.remove("/a/b")
    assert store.list("/a") == ["d"]
    assert errno(store.read, "/a/b/c") == "ENOENT"
    # Gone already is no fault, unless what lies above is gone as well.
    store.remove("/a/b")
    assert errno(store.remove, "/x/y") == "ENOENT"


@pytest.mark.parametrize("path", ["/a b", "/a//b", "/a/", "/\u00e4", ""])
def test_no_path(tree, path):
    if path:
        assert errno(tree.write, path, b"") == "EINVAL"
    else:
        assert errno(tree.remove, "/") == "EINVAL"


# With the longest path one message is the limit, with others that of a value.
@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/local/domain/1/data/x", MAX_VALUE),
        ("/" + "x" * (MAX_PATH - 1), MAX_PAYLOAD - MAX_PATH - 1),
    ],
)
def test_a_record_has_the_length_that_a_host_takes(store, path, most):
    store.write(path, b"x" * most)
    assert len(store.read(path)) == most
    assert errno(store.write, path, b"y" * (most + 1)) == "E2BIG"
    assert store.read(path) == b"x" * most


def test_relative_paths_are_dom0s(store):
    store.write("name", b"Domain-0")
    assert store.read("/local/domain/0/name") == b"Domain-0"


def test_watches_tell_of_changes_and_removals(store):
    seen = []
    store.watch(seen.append)
    store.write("/local/domain/7/data/x", b"1")
    wait_until(lambda: "/local/domain/7/data/x" in seen)
    store.remove("/local/domain/7/data")
    wait_until(lambda: "/local/domain/7/data" in seen)


def test_transaction_is_taken_whole_or_not(tree):
    tree.write("/a", b"1")
    twin, since = tree.copy(), tree.generation
    twin.write("/a", b"2")
    assert tree.read("/a") == b"1"
    tree.take(twin, since)
    assert tree.read("/a") == b"2"
    twin, since = tree.copy(), tree.generation
    twin.write("/a", b"3")
    tree.write("/b", b"meanwhile")
    assert errno(tree.take, twin, since) == "EAGAIN"
    assert tree.read("/a") == b"2"


def test_what_is_no_transaction_is_not_ended(door):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(door.path))
        for number in (0, 7):
            end = wire.HEADER.pack(wire.TRANSACTION_END, 0, number, 2) + b"T\0"
            sock.sendall(end)
            answer = received(sock, b"ENOENT\0")
            assert wire.HEADER.unpack(answer[: wire.HEADER.size])[0] == wire.ERROR


def test_many_writers_leave_whole_values(tree):
    def work(text):
        for _ in range(50):
            tree.write("/a/b", text * 100)
            tree.remove("/a")

    threads = [threading.Thread(target=work, args=(t,)) for t in (b"x", b"y")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not tree.exists("/a")
    assert tree.list("/") == []


@pytest.mark.skipif(not shutil.which("xenstore-read"), reason="missing: xenstore-utils")
def test_real_tools_read_and_write(tree, door):
    environment = {**os.environ, "XENSTORED_PATH": str(door.path)}

    def run(*command):
        answer = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=30
        )
        return answer.returncode, answer.stdout

    assert run("xenstore-write", "/local/domain/7/data/host", "hello")[0] == 0
    assert tree.read("/local/domain/7/data/host") == b"hello"
    assert run("xenstore-read", "/local/domain/7/data/host") == (0, "hello\n")
    assert run("xenstore-list", "/local/domain/7") == (0, "data\n")
    assert run("xenstore-exists", "/nowhere")[0] == 1
    assert run("xenstore-read", "/nowhere")[0] == 1
    assert 'host = "hello"' in run("xenstore-ls", "/local/domain/7")[1]
    assert run("xenstore-write", "/a b", "x")[0] != 0
    assert run("xenstore-write", "/big", "x" * (MAX_VALUE + 1))[0] != 0
    assert run("xenstore-rm", "/local/domain/7")[0] == 0
    assert not tree.exists("/local/domain/7/data")


# A guest's part of it


def guest(client, **changes):
    vm = client.call("VM.create", vm_record(**changes))
    client.call("VM.start", vm, False, False)
    return vm, f"/local/domain/{client.call('VM.get_domid', vm)}"


def test_a_domain_is_there_as_long_as_it_lives(sim, client):
    data = {"vm-data/a": "1", "vm-data/deep/b": "2", "other": "x"}
    vm, home = guest(client, xenstore_data=data)
    store = sim.world.dom0.xenstore
    uuid = client.call("VM.get_uuid", vm)
    assert store.read(f"{home}/vm") == f"/vm/{uuid}".encode()
    assert store.read(f"{home}/vm-data/a") == b"1"
    assert store.read(f"{home}/vm-data/deep/b") == b"2"
    assert not store.exists(f"{home}/other")
    assert store.read(f"{home}/control/feature-shutdown") == b"1"
    client.call("VM.hard_reboot", vm)
    after = f"/local/domain/{client.call('VM.get_domid', vm)}"
    assert after != home
    assert not store.exists(home)
    assert store.read(f"{after}/vm-data/a") == b"1"
    client.call("VM.hard_shutdown", vm)
    assert not store.exists(after)
    assert not store.exists(f"/vm/{uuid}")


def test_data_is_rewritten_while_the_guest_runs(sim, client):
    vm, home = guest(client, xenstore_data={"vm-data/a": "1"})
    client.call("VM.set_xenstore_data", vm, {"vm-data/b": "2"})
    store = sim.world.dom0.xenstore
    assert store.list(f"{home}/vm-data") == ["b"]
    # Single keys change the database only.
    client.call("VM.add_to_xenstore_data", vm, "vm-data/c", "3")
    assert store.list(f"{home}/vm-data") == ["b"]
    with pytest.raises(Refused):
        client.call("VM.set_xenstore_data", vm, {"vm-data/x": "x" * (MAX_VALUE + 1)})
    assert store.read(f"{home}/vm-data/b") == b"2"


def test_what_a_guest_writes_comes_back(sim, client):
    vm, home = guest(client, xenstore_data={"vm-data/a": "1", "kept": "x"})
    store = sim.world.dom0.xenstore
    store.write(f"{home}/vm-data/answer/b", b"2")
    expected = {"vm-data/a": "1", "vm-data/answer/b": "2", "kept": "x"}
    wait_until(lambda: client.call("VM.get_xenstore_data", vm) == expected)
    store.remove(f"{home}/vm-data/answer")
    del expected["vm-data/answer/b"]
    wait_until(lambda: client.call("VM.get_xenstore_data", vm) == expected)


@pytest.mark.parametrize("length", [MAX_VALUE + 1, MAX_PAYLOAD])
def test_what_does_not_fit_does_not_start(local, length):
    data = {"vm-data/x": "x" * length}
    vm = local.call("VM.create", vm_record(xenstore_data=data))
    with pytest.raises(Refused) as caught:
        local.call("VM.start", vm, False, False)
    assert caught.value.code == "INTERNAL_ERROR"
    assert local.call("VM.get_power_state", vm) == "Halted"
    assert local.call("VM.get_consoles", vm) == []


def test_plugins_find_the_store(sim, local):
    vm, home = guest(local)
    client = RemoteXenstore(sim.world.dom0.xenstore_path())
    client.write(f"{home}/data/host/1", b"{}")
    assert sim.world.dom0.xenstore.read(f"{home}/data/host/1") == b"{}"
    client.close()


def test_guests_are_found_in_a_store_that_was_emptied(sim, local):
    vm, home = guest(local, xenstore_data={"vm-data/a": "1"})
    sim.world.dom0.xenstore = Xenstore()
    guest_store.go_on(sim.world)
    store = sim.world.dom0.xenstore
    assert store.read(f"{home}/vm-data/a") == b"1"
    store.write(f"{home}/vm-data/b", b"2")
    wait_until(lambda: "vm-data/b" in local.call("VM.get_xenstore_data", vm))
