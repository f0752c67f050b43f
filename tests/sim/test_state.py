# SPDX-License-Identifier: Apache-2.0
"""State that is kept in a folder and found again."""

import sqlite3
import subprocess
import sys
import threading
from unittest.mock import Mock

import pytest

from tests.sim.clients import (
    GIB,
    NULL,
    Refused,
    XmlClient,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
    wait_until,
)
from tests.sim.pools import die, is_live
from xenapi_driver.sim import Behaviour, Simulator
from xenapi_driver.sim.state.keeper import FACTS, FORGOTTEN
from xenapi_driver.sim.state.ledger import FILE, StateRefused


@pytest.fixture
def start(tmp_path):
    """Start simulators, one after the other, on one folder."""
    running = []

    def start(**choices):
        while running:
            running.pop().close()
        choices.setdefault("behaviour", Behaviour(shutdown_timeout=0.2))
        running.append(Simulator(tmp_path / "state", keep=True, **choices))
        return running[0]

    yield start
    while running:
        running.pop().close()


def picture(simulator):
    """Return all that clients can see of all pools, lists in no order."""
    found = {}
    for world in simulator.machines.worlds():
        db = world.db
        for cls in set(db.schema.classes) - set(FORGOTTEN):
            for ref in db.refs(cls):
                found[cls, ref] = in_no_order(db.record(cls, ref))
    return found


def in_no_order(record):
    return {
        name: sorted(value, key=repr) if isinstance(value, list) else value
        for name, value in record.items()
    }


def machines(simulator):
    return [
        (one.number, one.address, one.host, one.home, one.world.coordinator)
        for one in simulator.machines.all
    ]


def guest_with_disk(simulator, client):
    sr = client.call("SR.get_by_uuid", simulator.default_sr_uuid)
    vm = client.call("VM.create", vm_record(name_label="with <odd> & näme"))
    vdi = client.call("VDI.create", vdi_record(sr))
    client.call("VBD.create", vbd_record(vm, vdi))
    return vm, vdi


def test_all_is_found_again(start):
    simulator = start(hosts=2, pools=2)
    client = XmlClient(simulator.handle)
    vm, vdi = guest_with_disk(simulator, client)
    client.call("VM.start", vm, False, False)
    client.call("VDI.snapshot", vdi, {})
    before = picture(simulator), machines(simulator), simulator.inventory()
    facts = [getattr(simulator.world, name) for name in FACTS]
    again = start(hosts=1, pools=1, sr_size_bytes=GIB)
    assert_same(picture(again), before[0])
    assert (machines(again), again.inventory()) == before[1:]
    assert [getattr(again.world, name) for name in FACTS] == facts
    client = XmlClient(again.handle)
    assert client.call("VM.get_power_state", vm) == "Running"
    client.call("VM.hard_shutdown", vm)
    client.call("VDI.resize", vdi, str(2 * GIB))


def test_nothing_is_written_unless_asked(tmp_path):
    simulator = Simulator(tmp_path)
    simulator.close()
    assert not list(tmp_path.glob("*.sqlite*"))
    assert simulator.world.db.unsaved is None


def test_a_changed_password_is_kept(start):
    client = XmlClient(start().handle)
    client.call("session.change_password", "secret", "other")
    with pytest.raises(Refused) as caught:
        XmlClient(start().handle)
    assert caught.value.code == "SESSION_AUTHENTICATION_FAILED"


def test_sessions_and_tasks_end_with_the_process(start):
    client = XmlClient(start().handle)
    task = client.call("task.create", "mine", "")
    again = start()
    client._send = again.handle
    with pytest.raises(Refused) as caught:
        client.call("task.get_record", task)
    assert caught.value.code == "SESSION_INVALID"
    assert XmlClient(again.handle).call("task.get_all") == []


def test_operations_under_way_are_over(start):
    simulator = start()
    client = XmlClient(simulator.handle)
    vm, _ = guest_with_disk(simulator, client)
    simulator.world.db.update("VM", vm, current_operations={"it": "clean_shutdown"})
    client = XmlClient(start().handle)
    assert client.call("VM.get_current_operations", vm) == {}
    client.call("VM.start", vm, False, False)


def test_an_agent_that_was_coming_up_comes_up(start):
    slow = Behaviour(agent_delay=3600.0)
    client = XmlClient(start(behaviour=slow).handle)
    vm = client.call("VM.create", vm_record())
    network = client.call("network.get_all")[0]
    vif = client.call("VIF.create", vif_record(vm, network))
    client.call("VM.start", vm, False, False)
    again = start(behaviour=Behaviour(agent_delay=0.05))
    client = XmlClient(again.handle)
    with again.world.db.changed:
        seen = again.world.db.changed.wait_for(lambda: _reported(again, vm), 10)
    assert seen
    metrics = client.call("VM.get_guest_metrics", vm)
    address = client.call("VM_guest_metrics.get_networks", metrics)["0/ip"]
    last = start(behaviour=slow)
    assert last.world.leases.held[vif] == again.world.leases.held[vif]
    client = XmlClient(last.handle)
    assert client.call("VM_guest_metrics.get_networks", metrics)["0/ip"] == address


def _reported(simulator, vm):
    metrics = simulator.world.db.row("VM", vm)["guest_metrics"]
    found = simulator.world.db.exists("VM_guest_metrics", metrics)
    return found and simulator.world.db.row("VM_guest_metrics", metrics)["networks"]


def test_old_tokens_tell_what_changed_since(start):
    client = XmlClient(start().handle)
    vm = client.call("VM.create", vm_record())
    token = client.call("event.from", ["*"], "", 0.0)["token"]
    for _ in range(3):
        # Changes of what is not kept count too: a token is never from the future.
        client.call("task.destroy", _own_task(client))
    late = client.call("event.from", ["task"], token, 0.0)["token"]
    client = XmlClient(start().handle)
    batch = client.call("event.from", ["VM"], late, 0.0)
    assert batch["events"] == []
    assert _place(batch["token"]) > _place(late)
    client.call("VM.set_name_label", vm, "later")
    batch = client.call("event.from", ["VM"], late, 0.0)
    found = [(one["operation"], one["ref"]) for one in batch["events"]]
    assert found == [("mod", vm)]


def _place(token):
    """Return where in the order of all changes a token stands."""
    return int(token.partition(",")[0])


def _own_task(client):
    task = client.call("task.create", "mine", "")
    client.call("task.set_status", task, "success")
    return task


def test_hosts_that_changed_pools_stay_there(start):
    simulator = start(pools=2)
    second = XmlClient(simulator.door(1))
    address = simulator.machines.all[0].address
    (guest,) = second.call("VM.get_by_name_label", "nova-compute")
    second.call("VM.hard_shutdown", guest)
    second.call("pool.join", address, "root", "secret")
    assert len(simulator.machines.worlds()) == 1
    before = picture(simulator), machines(simulator)
    again = start()
    assert_same(picture(again), before[0])
    assert machines(again) == before[1]
    client = XmlClient(again.handle)
    host = again.machines.all[1].host
    client.call("pool.eject", host)
    before = picture(again), machines(again)
    last = start()
    assert len(last.machines.worlds()) == 2
    assert (picture(last), machines(last)) == before


def test_a_dead_host_is_started_with_the_simulation(start):
    simulator = start(hosts=2, behaviour=Behaviour(dead_after=0.1))
    client = XmlClient(simulator.handle)
    vm = client.call("VM.create", vm_record())
    host = simulator.machines.all[1].host
    client.call("VM.start_on", vm, host, False, False)
    die(simulator, 2)
    wait_until(lambda: not is_live(client, host))
    client = XmlClient(start().handle)
    assert is_live(client, host)
    assert client.call("VM.get_power_state", vm) == "Halted"


def test_one_call_is_one_transaction(start):
    """What is written between the calls is what clients see between them."""
    simulator = start()
    client = XmlClient(simulator.handle)
    written = []
    ledger = simulator._keeper._ledger
    write = ledger.write
    ledger.write = lambda *changes: (written.append(changes), write(*changes))
    vm, vdi = guest_with_disk(simulator, client)
    assert len(written) == 3
    client.call("VM.get_record", vm)
    assert len(written) == 3
    client.call("VM.start", vm, False, False)
    with pytest.raises(Refused):
        client.call("VDI.destroy", vdi)
    client.call("VM.hard_shutdown", vm)
    before = picture(simulator)
    assert picture(start()) == before


def test_what_could_not_be_written_is_written_with_the_next_change(start, monkeypatch):
    simulator = start()
    client = XmlClient(simulator.handle)
    ledger = simulator._keeper._ledger
    with monkeypatch.context() as patch, pytest.raises(Exception, match="full"):
        patch.setattr(ledger, "write", Mock(side_effect=OSError("disk full")))
        client.call("VM.create", vm_record(name_label="unwritten"))
    vm, _vdi = guest_with_disk(simulator, client)
    before = picture(simulator)
    again = start()
    assert_same(picture(again), before)
    assert XmlClient(again.handle).call("VM.get_by_name_label", "unwritten")


def test_nobody_else_reads_the_passwords(start, tmp_path):
    simulator = start()
    guest_with_disk(simulator, XmlClient(simulator.handle))
    files = list((tmp_path / "state").glob(f"{FILE}*"))
    assert files
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_record_without_its_file_goes_and_so_do_its_drives(start):
    """As left by a kill between the removal of a file and that of its record."""
    simulator = start()
    client = XmlClient(simulator.handle)
    vm, vdi = guest_with_disk(simulator, client)
    uuid = client.call("VDI.get_uuid", vdi)
    (simulator.sr_path / f"{uuid}.vhd").unlink()
    client = XmlClient(start().handle)
    assert vdi not in client.call("VDI.get_all")
    assert client.call("VM.get_VBDs", vm) == []


def test_a_file_whose_record_was_not_written_goes(start):
    """As left by a kill between the making of a file and the end of its call."""
    simulator = start()
    keeper, path = simulator._keeper, simulator.sr_path
    store = next(s for s in simulator.world.stores.values() if s.path == path)
    stray = store.path_of(simulator.world.db.new_uuid())
    with simulator.world.db.changed:
        keeper._note_made(stray)
        store.create(stray.stem, GIB)
        keeper._made.__dict__.clear()
    assert stray.exists()
    again = start()
    assert not stray.exists()
    assert stray.stem not in again.inventory()["VDI"]


def test_files_of_others_are_found_by_the_scan_of_the_start(start):
    simulator = start()
    path = simulator.sr_path
    client = XmlClient(simulator.handle)
    _, vdi = guest_with_disk(simulator, client)
    uuid = client.call("VDI.get_uuid", vdi)
    other = simulator.world.db.new_uuid()
    (path / f"{other}.vhd").write_bytes((path / f"{uuid}.vhd").read_bytes())
    assert {other, uuid} <= set(start().inventory()["VDI"])


def test_files_for_records_are_made_under_the_lock(start):
    simulator = start()
    with pytest.raises(RuntimeError):
        simulator.world.before_making(simulator.sr_path / "x.vhd")


def test_an_installation_that_did_not_end_is_made_again(start, tmp_path):
    start()
    start()._keeper._ledger.clear()
    again = start()
    assert len(again.world.db.refs("host")) == 1
    assert XmlClient(again.handle).call("pool.get_all")


# A folder that cannot be used


def test_a_folder_in_use_is_refused(start, tmp_path):
    start()
    with pytest.raises(StateRefused) as caught:
        Simulator(tmp_path / "state", keep=True)
    assert "is in use by process" in str(caught.value)


def test_another_format_is_refused(start, tmp_path):
    start().close()
    with sqlite3.connect(tmp_path / "state" / FILE) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StateRefused) as caught:
        start()
    assert "has format 99; this release reads 1." in str(caught.value)


def test_a_damaged_file_is_refused(start, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FILE).write_bytes(b"no database " * 99)
    with pytest.raises(StateRefused) as caught:
        start()
    assert "cannot be read" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_command_refuses_in_one_sentence(start, tmp_path):
    start()
    command = [sys.executable, "-m", "xenapi_driver.sim", "--state"]
    done = subprocess.run(
        [*command, str(tmp_path / "state")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "is in use by process" in done.stderr


def test_waiting_on_the_lock_writes_first(start):
    """Who waits for others lets them see only what is already kept."""
    simulator = start()
    db, seen = simulator.world.db, []
    vm = XmlClient(simulator.handle).call("VM.create", vm_record())

    def other():
        with db.changed:
            seen.append(bool(db.unsaved))
            db.changed.notify_all()

    with db.changed:
        db.update("VM", vm, name_label="half way", affinity=NULL)
        thread = threading.Thread(target=other)
        thread.start()
        db.changed.wait(10)
    thread.join()
    assert seen == [False]


def assert_same(one, other):
    for key in one.keys() | other.keys():
        assert one.get(key) == other.get(key), key
