# SPDX-License-Identifier: Apache-2.0
"""Several hosts in a pool, several pools in a process."""

import time

import pytest

from tests.sim.clients import (
    GIB,
    NULL,
    HttpSender,
    JsonClient,
    Refused,
    XmlClient,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)
from xenapi_driver.sim import Behaviour, Simulator


@pytest.fixture
def make(tmp_path):
    made = []

    def start(**choices):
        behaviour = Behaviour(shutdown_timeout=0.2, dead_after=0.1)
        made.append(Simulator(tmp_path / "state", behaviour=behaviour, **choices))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def pair(make):
    """A pool of two hosts."""
    return make(hosts=2)


def hosts_of(client):
    """Return the coordinator and the others."""
    master = client.call("pool.get_master", client.call("pool.get_all")[0])
    others = [ref for ref in client.call("host.get_all") if ref != master]
    return (master, *others)


def refused(code, call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.code == code
    return caught.value.params


def shared_sr(client):
    master = hosts_of(client)[0]
    place = {"server": "nfs.example.org", "serverpath": "/shared"}
    sr = client.call(
        *("SR.create", master, place, "0", "shared", "", "nfs", "", True, {})
    )
    for pbd in client.call("SR.get_PBDs", sr):
        if not client.call("PBD.get_currently_attached", pbd):
            client.call("PBD.plug", pbd)
    return sr


def local_sr(client, host):
    for ref, row in client.call("SR.get_all_records").items():
        if row["type"] == "ext" and not row["shared"]:
            pbds = client.call("SR.get_PBDs", ref)
            if client.call("PBD.get_host", pbds[0]) == host:
                return ref
    raise AssertionError("no local SR")


def guest(client, sr, **changes):
    """Return a VM with a disk on an SR."""
    vm = client.call("VM.create", vm_record(**changes))
    vdi = client.call("VDI.create", vdi_record(sr, virtual_size=str(GIB // 64)))
    client.call("VBD.create", vbd_record(vm, vdi))
    return vm, vdi


def store_of(world, vdi):
    row = world.db.row("VDI", vdi)
    return world.stores[row["SR"]], row["location"]


# who answers


@pytest.fixture(params=["in-process", "json"])
def supporter(request, pair):
    """What sends requests to the second host, and the class of its clients."""
    if request.param == "in-process":
        yield lambda: XmlClient(pair.door(1))
        return
    senders = []

    def connect():
        senders.append(HttpSender(pair.serve(machine=1), "/jsonrpc"))
        return JsonClient(senders[-1])

    yield connect
    for one in senders:
        one.connection.close()


def test_a_supporter_sends_everybody_to_the_coordinator(pair, supporter):
    client = XmlClient(pair.handle)
    address = client.call("host.get_address", hosts_of(client)[0])
    with pytest.raises(Refused) as caught:
        supporter()
    assert caught.value.args[0] == ["HOST_IS_SLAVE", address]


@pytest.mark.parametrize(
    "method, params",
    [
        ("session.login_with_password", ["root", "wrong", "1.0", ""]),
        ("VM.get_all", ["{session}"]),
        ("VM.get_all", ["OpaqueRef:nobody"]),
        ("VM.no_such", ["{session}"]),
        ("host.get_all", []),
    ],
)
def test_a_supporter_answers_whatever_is_asked_with_the_address(pair, method, params):
    client = XmlClient(pair.handle)
    there = object.__new__(XmlClient)
    there._send = pair.door(1)
    given = [client.session if one == "{session}" else one for one in params]
    address = client.call("host.get_address", hosts_of(client)[0])
    assert refused("HOST_IS_SLAVE", there.raw, method, *given) == [address]


def test_a_local_login_to_a_supporter_is_good_for_emergencies_only(pair):
    there = object.__new__(XmlClient)
    there._send = pair.door(1)
    login = "session.slave_local_login_with_password"
    refused("SESSION_AUTHENTICATION_FAILED", there.raw, login, "root", "wrong")
    there.session = there.raw(login, "root", "secret")
    assert there.session.startswith("OpaqueRef:")
    refused("HOST_IS_SLAVE", there.call, "VM.get_all")
    there.call("session.local_logout")
    refused("HOST_IS_SLAVE", there.call, "session.local_logout")


def test_sessions_end_where_another_host_leads_now(pair):
    client = XmlClient(pair.handle)
    old, new = hosts_of(client)
    address = client.call("host.get_address", new)
    client.call("pool.designate_new_master", new)
    assert refused("HOST_IS_SLAVE", client.call, "VM.get_all") == [address]
    there = XmlClient(pair.door(1))
    assert hosts_of(there) == (new, old)


def test_a_plugin_runs_in_the_dom0_of_the_host_that_was_asked(tmp_path, make):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    script = plugins / "where"
    script.write_text(
        "#!/usr/bin/python3\n"
        "import os\n"
        "import xmlrpc.client\n"
        "answer = {'Status': 'Success', 'Value': os.environ['XENAPI_DOM0_ROOT']}\n"
        "print(xmlrpc.client.dumps((answer,), '', True))\n"
    )
    script.chmod(0o755)
    client = XmlClient(make(hosts=2, plugins_dir=plugins).handle)
    answers = {
        client.call("host.call_plugin", host, "where", "main", {})
        for host in hosts_of(client)
    }
    assert {answer.rpartition("/")[2] for answer in answers} == {"dom0", "dom0-2"}


# placement and live migration


def test_a_guest_goes_to_the_other_host_and_runs_on(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, _ = guest(client, shared_sr(client))
    client.call("VM.start_on", vm, first, False, False)
    before = client.call("VM.get_record", vm)
    task = client.task("Async.VM.pool_migrate", vm, second, {"live": "true"})
    assert task["status"] == "success"
    after = client.call("VM.get_record", vm)
    assert (after["resident_on"], after["power_state"]) == (second, "Running")
    assert after["domid"] != before["domid"]
    assert after["guest_metrics"] == before["guest_metrics"]
    assert not set(after["consoles"]) & set(before["consoles"])
    address = client.call("host.get_address", second)
    for console in after["consoles"]:
        assert address in client.call("console.get_location", console)
    assert vm in client.call("host.get_resident_VMs", second)
    assert vm not in client.call("host.get_resident_VMs", first)


def test_a_guest_stays_where_its_disk_is(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    sr = local_sr(client, first)
    vm, _ = guest(client, sr)
    assert client.call("VM.get_possible_hosts", vm) == [first]
    wrong = refused("VM_REQUIRES_SR", client.call, *start_on(vm, second))
    assert wrong == [vm, sr]
    client.call("VM.start", vm, False, False)
    assert client.call("VM.get_resident_on", vm) == first
    options = {"live": "true"}
    refused("VM_REQUIRES_SR", client.call, "VM.pool_migrate", vm, second, options)
    assert client.call("VM.get_resident_on", vm) == first


def start_on(vm, host):
    return ("VM.start_on", vm, host, False, False)


def test_an_internal_network_keeps_its_guests_on_one_host(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    net = client.call("network.create", {"name_label": "inside", "other_config": {}})
    one, two = (client.call("VM.create", vm_record()) for _ in range(2))
    for vm in (one, two):
        client.call("VIF.create", vif_record(vm, net))
    assert set(client.call("VM.get_possible_hosts", two)) == {first, second}
    client.call(*start_on(one, second))
    assert client.call("VM.get_possible_hosts", two) == [second]
    wrong = refused("VM_REQUIRES_NETWORK", client.call, *start_on(two, first))
    assert wrong == [two, net]
    options = {"live": "true"}
    refused("VM_REQUIRES_NETWORK", client.call, "VM.pool_migrate", one, first, options)
    client.call("VM.hard_shutdown", one)
    client.call(*start_on(two, first))


def test_evacuation_moves_all_or_tells_who_cannot(make):
    pair = make(hosts=2)
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    shared, local = shared_sr(client), local_sr(client, second)
    movable, bound = guest(client, shared)[0], guest(client, local)[0]
    for vm in (movable, bound):
        client.call(*start_on(vm, second))
    why = ["VM_REQUIRES_SR", bound, local]
    stuck = client.call("host.get_vms_which_prevent_evacuation", second)
    assert stuck == {bound: why}
    assert refused(why[0], client.call, "host.evacuate", second) == why[1:]
    assert client.call("VM.get_resident_on", movable) == second
    client.call("VM.hard_shutdown", bound)
    client.call("host.disable", second)
    client.call("host.evacuate", second)
    assert client.call("VM.get_resident_on", movable) == first
    assert client.call("VM.get_power_state", movable) == "Running"
    client.call("host.disable", first)
    refused("NO_HOSTS_AVAILABLE", client.call, "host.evacuate", first)


# storage goes along


def test_disks_move_between_srs_of_a_pool(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, local_sr(client, first))
    store, name = store_of(pair.world, vdi)
    store.write(name, 4096, b"content of the disk")
    client.call("VM.start", vm, False, False)
    net = management_network(client)
    dest = client.call("host.migrate_receive", second, net, {})
    target = local_sr(client, second)
    refused("VDI_NOT_IN_MAP", client.call, *send(vm, dest, {}))
    answer = client.call(*send(vm, dest, {vdi: target}))
    assert answer == vm
    assert client.call("VM.get_resident_on", vm) == second
    (vbd,) = client.call("VM.get_VBDs", vm)
    new = client.call("VBD.get_VDI", vbd)
    assert client.call("VDI.get_SR", new) == target
    store, name = store_of(pair.world, new)
    assert store.read(name, 4096, 19) == b"content of the disk"
    refused("HANDLE_INVALID", client.call, "VDI.get_record", vdi)


def management_network(client):
    for pif in client.call("PIF.get_all_records").values():
        if pif["management"]:
            return pif["network"]
    raise AssertionError("no management interface")


def send(vm, dest, vdis, vifs=None, options=None):
    return ("VM.migrate_send", vm, dest, True, vdis, vifs or {}, options or {})


@pytest.fixture
def neighbours(make):
    """Two pools of one host, and a client of each."""
    sim = make(pools=2)
    return sim, XmlClient(sim.handle), XmlClient(sim.door(1))


def prepared(sim, here, there):
    """Return a VM with disk and interface here, and the way to the other pool."""
    vm, vdi = guest(here, local_sr(here, hosts_of(here)[0]), name_label="traveller")
    store, name = store_of(sim.world, vdi)
    store.write(name, 0, b"luggage")
    net = management_network(here)
    vif = here.call("VIF.create", vif_record(vm, net))
    host = hosts_of(there)[0]
    far_net, far_sr = management_network(there), local_sr(there, host)
    dest = there.call("host.migrate_receive", host, far_net, {})
    return vm, dest, {vdi: far_sr}, {vif: far_net}


@pytest.mark.parametrize("state", ["Halted", "Running"])
def test_a_vm_moves_to_another_pool(neighbours, state):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    if state == "Running":
        here.call("VM.start", vm, False, False)
    uuid = here.call("VM.get_uuid", vm)
    mac = here.call("VIF.get_MAC", *vifs)
    refused("VIF_NOT_IN_MAP", here.call, *send(vm, dest, vdis))
    new = here.call(*send(vm, dest, vdis, vifs))
    refused("UUID_INVALID", here.call, "VM.get_by_uuid", uuid)
    for vdi in vdis:
        refused("HANDLE_INVALID", here.call, "VDI.get_record", vdi)
    record = there.call("VM.get_record", new)
    assert (record["uuid"], record["power_state"]) == (uuid, state)
    assert there.call("VIF.get_MAC", *record["VIFs"]) == mac
    vdi = there.call("VBD.get_VDI", *record["VBDs"])
    store, name = store_of(sim.machines.all[1].world, vdi)
    assert store.read(name, 0, 7) == b"luggage"


def test_a_copy_leaves_the_source(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    new = here.call(*send(vm, dest, vdis, vifs, {"copy": "true"}))
    uuids = here.call("VM.get_uuid", vm), there.call("VM.get_uuid", new)
    assert uuids[0] != uuids[1]
    assert here.call("VDI.get_record", *vdis)["managed"]
    here.call("VM.start", vm, False, False)
    refused(
        "VM_BAD_POWER_STATE",
        here.call,
        *send(vm, dest, vdis, vifs, {"copy": "true"}),
    )


def test_a_migration_that_fails_leaves_nothing_there(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    far = sim.machines.all[1].world
    (sr,) = vdis.values()
    before = set(there.call("VDI.get_all")), set(there.call("VM.get_all"))
    files = sorted(far.stores[sr].path.iterdir())
    far.stores[sr].size_bytes = 0
    refused("SR_BACKEND_FAILURE_44", here.call, *send(vm, dest, vdis, vifs))
    assert here.call("VM.get_power_state", vm) == "Halted"
    assert here.call("VDI.get_record", *vdis)["managed"]
    assert (set(there.call("VDI.get_all")), set(there.call("VM.get_all"))) == before
    assert sorted(far.stores[sr].path.iterdir()) == files


def test_the_ticket_is_good_as_long_as_its_session(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    arguments = (vm, dest, True, vdis, vifs, {})
    here.call("VM.assert_can_migrate", *arguments)
    there.raw("session.logout", dest["session_id"])
    refused("SESSION_INVALID", here.call, "VM.assert_can_migrate", *arguments)


def test_shared_disks_stay_where_they_are(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, shared_sr(client))
    local = local_sr(client, first)
    extra = client.call("VDI.create", vdi_record(local, virtual_size=str(GIB // 64)))
    client.call("VBD.create", vbd_record(vm, extra, userdevice="1"))
    client.call("VM.start_on", vm, first, False, False)
    dest = client.call("host.migrate_receive", second, management_network(client), {})
    moves = {extra: local_sr(client, second)}
    assert refused("VDI_NOT_IN_MAP", client.call, *send(vm, dest, moves)) == [vdi]
    stays = {vdi: client.call("VDI.get_SR", vdi)}
    call = send(vm, dest, {**stays, extra: local})
    assert refused("VM_REQUIRES_SR", client.call, *call) == [vm, local]
    client.call(*send(vm, dest, {**stays, **moves}))
    used = [client.call("VBD.get_VDI", vbd) for vbd in client.call("VM.get_VBDs", vm)]
    assert vdi in used
    assert extra not in used
    assert client.call("VM.get_resident_on", vm) == second


def test_a_snapshot_goes_along_and_two_do_not(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    snapshot = here.call("VM.snapshot", vm, "before")
    uuid = here.call("VM.get_uuid", snapshot)
    ((disk, _),) = vdis.items()
    store, name = store_of(sim.world, disk)
    store.write(name, 0, b"changed")
    second = here.call("VM.snapshot", vm, "again")
    refused("VM_HAS_TOO_MANY_SNAPSHOTS", here.call, *send(vm, dest, vdis, vifs))
    for vbd in here.call("VM.get_VBDs", second):
        vdi = here.call("VBD.get_VDI", vbd)
        here.call("VM.destroy", second)
        here.call("VDI.destroy", vdi)
    new = here.call(*send(vm, dest, vdis, vifs))
    refused("HANDLE_INVALID", here.call, "VM.get_record", snapshot)
    (kept,) = there.call("VM.get_snapshots", new)
    record = there.call("VM.get_record", kept)
    assert (record["uuid"], record["is_a_snapshot"]) == (uuid, True)
    world = sim.machines.all[1].world
    for ref, content in ((new, b"changed"), (kept, b"luggage")):
        vdi = there.call("VBD.get_VDI", *there.call("VM.get_VBDs", ref))
        store, name = store_of(world, vdi)
        assert store.read(name, 0, 7) == content
    assert there.call("VDI.get_is_a_snapshot", vdi)
    left = [row["name_label"] for row in here.call("VDI.get_all_records").values()]
    assert "disk" not in left


def test_a_checkpoint_goes_to_no_other_pool(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    snapshot = here.call("VM.snapshot", vm, "held")
    sim.world.db.update("VM", snapshot, power_state="Suspended")
    refused("VM_HAS_CHECKPOINT", here.call, *send(vm, dest, vdis, vifs))


def test_a_suspended_guest_goes_on_in_another_pool(neighbours):
    sim, here, there = neighbours
    vm, dest, vdis, vifs = prepared(sim, here, there)
    here.call("VM.start", vm, False, False)
    here.call("VM.suspend", vm)
    image = here.call("VM.get_suspend_VDI", vm)
    new = here.call(*send(vm, dest, vdis, vifs))
    refused("HANDLE_INVALID", here.call, "VDI.get_record", image)
    record = there.call("VM.get_record", new)
    assert record["power_state"] == "Suspended"
    assert there.call("VDI.get_type", record["suspend_VDI"]) == "suspend"
    there.call("VM.resume", new, False, False)
    assert there.call("VM.get_power_state", new) == "Running"


def test_a_host_sends_three_at_once(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm, vdi = guest(client, local_sr(client, first))
    dest = client.call("host.migrate_receive", second, management_network(client), {})
    call = send(vm, dest, {vdi: local_sr(client, second)})
    pair.world.sending.extend([first] * 3)
    assert refused("TOO_MANY_STORAGE_MIGRATES", client.call, *call) == ["3"]
    pair.world.sending.pop()
    client.call(*call)
    assert pair.world.sending == [first] * 2


def test_one_disk_of_a_running_guest_moves(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    shared = shared_sr(client)
    vm, vdi = guest(client, local_sr(client, first))
    store, name = store_of(pair.world, vdi)
    store.write(name, 512, b"still here")
    move = ("VDI.pool_migrate", vdi, shared, {})
    assert refused("VDI_NEEDS_VM_FOR_MIGRATE", client.call, *move) == [vdi]
    client.call("VM.start", vm, False, False)
    far = local_sr(client, second)
    refused("SR_NOT_ATTACHED", client.call, "VDI.pool_migrate", vdi, far, {})
    new = client.call(*move)
    assert client.call("VDI.get_SR", new) == shared
    assert client.call("VBD.get_VDI", *client.call("VM.get_VBDs", vm)) == new
    store, name = store_of(pair.world, new)
    assert store.read(name, 512, 10) == b"still here"
    refused("HANDLE_INVALID", client.call, "VDI.get_record", vdi)
    client.call("VM.pool_migrate", vm, second, {"live": "true"})
    assert client.call("VM.get_resident_on", vm) == second


# joining and leaving


def test_a_host_joins_with_its_disks_and_leaves_without(neighbours):
    sim, here, there = neighbours
    joined = hosts_of(there)[0]
    uuid = there.call("host.get_uuid", joined)
    vm, vdi = guest(there, local_sr(there, joined), name_label="brought along")
    vm_uuid, vdi_uuid = there.call("VM.get_uuid", vm), there.call("VDI.get_uuid", vdi)
    address = here.call("host.get_address", hosts_of(here)[0])
    refused("SESSION_AUTHENTICATION_FAILED", there.call, *join(address, "wrong"))
    there.call("VM.start", vm, False, False)
    refused("JOINING_HOST_CANNOT_HAVE_RUNNING_VMS", there.call, *join(address))
    there.call("VM.hard_shutdown", vm)
    refuse_compute_vm(there)
    there.call(*join(address))
    assert refused("HOST_IS_SLAVE", there.call, "VM.get_all") == [address]
    host = here.call("host.get_by_uuid", uuid)
    brought = here.call("VM.get_by_uuid", vm_uuid)
    assert here.call("VM.get_possible_hosts", brought) == [host]
    here.call("VM.start", brought, False, False)
    assert here.call("VM.get_resident_on", brought) == host
    assert here.call("VBD.get_VDI", *here.call("VM.get_VBDs", brought)) == (
        here.call("VDI.get_by_uuid", vdi_uuid)
    )
    refused("HOST_HAS_RESIDENT_VMS", here.call, "pool.eject", host)
    here.call("VM.hard_shutdown", brought)
    here.call("pool.eject", host)
    refused("UUID_INVALID", here.call, "host.get_by_uuid", uuid)
    refused("UUID_INVALID", here.call, "VDI.get_by_uuid", vdi_uuid)
    alone = XmlClient(sim.door(1))
    assert len(alone.call("host.get_all")) == 1
    refused("UUID_INVALID", alone.call, "VDI.get_by_uuid", vdi_uuid)


def join(address, password="secret"):
    return ("pool.join", address, "root", password)


def refuse_compute_vm(client):
    """Halt what runs from the start on."""
    for vm, row in client.call("VM.get_all_records").items():
        if row["power_state"] == "Running" and not row["is_control_domain"]:
            client.call("VM.hard_shutdown", vm)


# trouble with hosts


def wait_until(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def is_live(client, host):
    return client.call("host_metrics.get_live", client.call("host.get_metrics", host))


def die(sim, number):
    sim.admin(f"/_sim/host?host={number}&what=die", None)


def test_a_dead_host_is_missed_after_a_while(pair):
    client = XmlClient(pair.handle)
    _, second = hosts_of(client)
    sr = shared_sr(client)
    vm, other = guest(client, sr)[0], guest(client, sr)[0]
    client.call(*start_on(vm, second))
    die(pair, 2)
    assert is_live(client, second)
    wrong = refused("CANNOT_CONTACT_HOST", client.call, "VM.hard_shutdown", vm)
    assert wrong == [second]
    refused("HOST_IS_LIVE", client.call, "VM.power_state_reset", vm)
    wait_until(lambda: not is_live(client, second))
    assert client.call("VM.get_power_state", vm) == "Running"
    for call in (("VM.hard_shutdown", vm), ("host.get_servertime", second)):
        assert refused("HOST_OFFLINE", client.call, *call) == [second]
    refused("HOST_NOT_LIVE", client.call, *start_on(other, second))
    client.call("VM.power_state_reset", vm)
    assert client.call("VM.get_record", vm)["resident_on"] == NULL
    client.call("VM.start", vm, False, False)
    assert client.call("VM.get_resident_on", vm) != second
    client.call("host.destroy", second)
    refused("HANDLE_INVALID", client.call, "host.get_record", second)


def test_a_host_that_comes_back_has_lost_its_guests(pair):
    client = XmlClient(pair.handle)
    _, second = hosts_of(client)
    vm, _ = guest(client, shared_sr(client))
    client.call(*start_on(vm, second))
    boots = client.call("host.get_other_config", second)
    with pytest.raises(ConnectionError):
        die(pair, 2)
        pair.door(1)(b"<methodCall><methodName>VM.get_all</methodName></methodCall>")
    pair.admin("/_sim/host?host=2&what=start", None)
    assert is_live(client, second)
    assert client.call("VM.get_power_state", vm) == "Halted"
    assert client.call("host.get_other_config", second).keys() == boots.keys()
    client.call(*start_on(vm, second))


def test_a_supporter_takes_over_from_a_dead_coordinator(pair):
    client = XmlClient(pair.handle)
    old, new = hosts_of(client)
    there = object.__new__(XmlClient)
    there._send = pair.door(1)
    there.session = there.raw(
        "session.slave_local_login_with_password", "root", "secret"
    )
    take_over = "pool.emergency_transition_to_master"
    refused("HOST_MASTER_CANNOT_TALK_BACK", there.call, take_over)
    die(pair, 1)
    with pytest.raises(ConnectionError):
        client.call("VM.get_all")
    there.call(take_over)
    again = XmlClient(pair.door(1))
    assert hosts_of(again) == (new, old)
