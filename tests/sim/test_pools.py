# SPDX-License-Identifier: Apache-2.0
"""Several hosts in a pool, several pools in a process."""

import argparse
import http.client
import json
import threading

import pytest

from tests.sim.clients import (
    NULL,
    HttpSender,
    JsonClient,
    Refused,
    XmlClient,
    vdi_record,
    vif_record,
    vm_record,
    wait_until,
)
from tests.sim.pools import (
    die,
    guest,
    hosts_of,
    is_live,
    local_sr,
    management_network,
    refused,
    send,
    shared_sr,
    start_on,
    store_of,
)
from xenapi_driver.sim.doors import listening

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


@pytest.mark.parametrize("operation", ["pool_migrate", "pause"])
def test_a_guest_that_is_not_to_be_moved_keeps_its_host(make, operation):
    pair = make(hosts=2)
    client = XmlClient(pair.handle)
    second = hosts_of(client)[1]
    vm = guest(client, shared_sr(client))[0]
    client.call(*start_on(vm, second))
    client.call("VM.add_to_blocked_operations", vm, operation, "mine")
    blocked = operation == "pool_migrate"
    why = ["OPERATION_BLOCKED", vm, "mine"]
    stuck = client.call("host.get_vms_which_prevent_evacuation", second)
    assert stuck == ({vm: why} if blocked else {})
    if blocked:
        assert refused(why[0], client.call, "host.evacuate", second) == why[1:]
    else:
        client.call("host.evacuate", second)
    assert (client.call("VM.get_resident_on", vm) == second) == blocked


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
    files = store_of(sim.world, here.call("VDI.get_by_uuid", vdi_uuid))[0].path
    assert list(files.iterdir())
    here.call("pool.eject", host)
    assert not files.exists()
    refused("UUID_INVALID", here.call, "host.get_by_uuid", uuid)
    refused("UUID_INVALID", here.call, "VDI.get_by_uuid", vdi_uuid)
    alone = XmlClient(sim.door(1))
    assert len(alone.call("host.get_all")) == 1
    refused("UUID_INVALID", alone.call, "VDI.get_by_uuid", vdi_uuid)


def test_two_that_join_each_other_do_not_wait_for_ever(neighbours):
    sim, here, there = neighbours
    addresses = []
    for client in (here, there):
        refuse_compute_vm(client)
        addresses.append(client.call("host.get_address", hosts_of(client)[0]))
    ends, both = [], threading.Barrier(2, timeout=10)

    def go(client, address):
        both.wait()
        try:
            client.call(*join(address))
            ends.append("joined")
        except Refused as refusal:
            ends.append(refusal.code)

    pairs = zip((here, there), reversed(addresses), strict=True)
    threads = [threading.Thread(target=go, args=one, daemon=True) for one in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ends) == 2
    assert ends.count("joined") == 1
    assert sorted(len(pool) for pool in sim.pools()) == [2]


def test_only_hosts_of_a_kind_join(neighbours):
    sim, here, there = neighbours
    joiner = sim.machines.all[1]
    refuse_compute_vm(there)
    address = here.call("host.get_address", hosts_of(here)[0])
    intel = joiner.world.db.row("host", joiner.host)["cpu_info"]
    amd = {**intel, "vendor": "AuthenticAMD"}
    joiner.world.db.update("host", joiner.host, cpu_info=amd)
    refused("HOSTS_NOT_COMPATIBLE", there.call, *join(address))
    joiner.world.db.update("host", joiner.host, cpu_info=intel)
    vlan_network = there.call("network.create", {"other_config": {}})
    pif = there.call("host.get_PIFs", joiner.host)[0]
    vlan = there.call("VLAN.create", pif, "7", vlan_network)
    refused("POOL_JOINING_HOST_HAS_NON_MANAGEMENT_VLANS", there.call, *join(address))
    there.call("VLAN.destroy", vlan)
    refused("HOST_ITS_OWN_SLAVE", here.call, *join(address))
    there.call(*join(address))
    assert len(here.call("host.get_all")) == 2
    refused("JOINING_HOST_CANNOT_BE_MASTER_OF_OTHER_HOSTS", here.call, *join(address))


def join(address, password="secret"):
    return ("pool.join", address, "root", password)


def refuse_compute_vm(client):
    """Halt what runs from the start on."""
    for vm, row in client.call("VM.get_all_records").items():
        if row["power_state"] == "Running" and not row["is_control_domain"]:
            client.call("VM.hard_shutdown", vm)


# trouble with hosts


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


def test_a_host_that_does_not_answer_is_declared_dead(make):
    sim = make(hosts=2, dead_after=600.0)
    client = XmlClient(sim.handle)
    _, second = hosts_of(client)
    vms = [guest(client, shared_sr(client))[0] for _ in range(2)]
    for vm in vms:
        client.call(*start_on(vm, second))
    for call in (("host.declare_dead", second), ("host.destroy", second)):
        assert refused("HOST_IS_LIVE", client.call, *call) == [second]
    assert refused("HOST_IS_LIVE", client.call, "VM.power_state_reset", vms[0])
    die(sim, 2)
    assert is_live(client, second)
    client.call("VM.power_state_reset", vms[0])
    refused("HOST_HAS_RESIDENT_VMS", client.call, "host.destroy", second)
    client.call("host.declare_dead", second)
    assert not is_live(client, second)
    states = [client.call("VM.get_power_state", vm) for vm in vms]
    assert states == ["Halted", "Halted"]
    client.call("host.destroy", second)
    refused("HANDLE_INVALID", client.call, "host.get_record", second)
    assert len(client.call("host.get_all")) == 1


def test_nothing_is_begun_on_a_host_that_does_not_answer(make):
    sim = make(hosts=2, dead_after=600.0)
    client = XmlClient(sim.handle)
    first, second = hosts_of(client)
    sr = shared_sr(client)
    halted, running = (guest(client, sr)[0] for _ in range(2))
    client.call(*start_on(running, first))
    net = management_network(client)
    dest = client.call("host.migrate_receive", second, net, {})
    die(sim, 2)
    client.call("VM.assert_can_boot_here", halted, second)
    wrong = refused("CANNOT_CONTACT_HOST", client.call, *start_on(halted, second))
    assert wrong == [second]
    assert client.call("VM.get_power_state", halted) == "Halted"
    move = ("VM.pool_migrate", running, second, {"live": "true"})
    wrong = refused("VM_MIGRATE_FAILED", client.call, *move)
    assert wrong[:3] == [running, first, second]
    assert client.call("VM.get_resident_on", running) == first
    receive = ("host.migrate_receive", second, net, {})
    refused("CANNOT_CONTACT_HOST", client.call, *receive)
    code = "VM_MIGRATE_CONTACT_REMOTE_SERVICE_FAILED"
    (vbd,) = client.call("VM.get_VBDs", running)
    stays = {client.call("VBD.get_VDI", vbd): sr}
    refused(code, client.call, *send(running, dest, stays))
    client.call("host.declare_dead", second)
    refused("HOST_NOT_LIVE", client.call, *start_on(halted, second))
    client.call("VM.start", halted, False, False)
    assert client.call("VM.get_resident_on", halted) == first


def test_a_host_that_comes_back_has_lost_its_guests(pair):
    client = XmlClient(pair.handle)
    _, second = hosts_of(client)
    vm, _ = guest(client, shared_sr(client))
    client.call(*start_on(vm, second))
    boots = client.call("host.get_other_config", second)
    die(pair, 2)
    with pytest.raises(ConnectionError):
        pair.door(1)(b"<methodCall><methodName>VM.get_all</methodName></methodCall>")
    pair.act("host", host=2, what="start")
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
    follow = "pool.emergency_reset_master"
    addresses = [client.call("host.get_address", host) for host in (old, new)]
    assert there.call("host.is_in_emergency_mode") is False
    there.call(follow, addresses[0])
    refused("HOST_IS_SLAVE", there.call, follow, addresses[1])
    refused("HOST_MASTER_CANNOT_TALK_BACK", there.call, follow, "192.0.2.1")
    die(pair, 1)
    with pytest.raises(ConnectionError):
        client.call("VM.get_all")
    assert there.call("host.is_in_emergency_mode") is True
    refused("HOST_MASTER_CANNOT_TALK_BACK", there.call, follow, addresses[0])
    there.call("pool.emergency_transition_to_master")
    again = XmlClient(pair.door(1))
    assert hosts_of(again) == (new, old)
    assert again.call("pool.recover_slaves") == []
    pair.act("host", host=1, what="start")
    assert again.call("pool.recover_slaves") == [old]
    refused("HOST_IS_SLAVE", client.call, "VM.get_all")


# where they listen


def test_a_client_goes_from_a_supporter_to_the_coordinator_by_address(make):
    arguments = argparse.Namespace(
        host="127.0.0.1", port=0, hosts=2, pools=2, tls=False, admin=False
    )
    sim = make(hosts=2, pools=2, addresses=listening.addresses("127.0.0.1", 4))
    opened = listening.open_doors(sim, arguments)
    places = [(server.address, who.strip()) for server, who in opened]
    first = places[0][0][1]
    assert places == [
        (("127.0.0.1", first), ""),
        (("127.0.0.2", first), "host 2 of pool 1"),
        (("127.0.0.1", first + 1), "pool 2"),
        (("127.0.0.4", first + 1), "host 2 of pool 2"),
    ]
    for (address, port), who in places:
        if who.startswith("host"):
            answer = log_in(address, port)
            assert answer["error"]["message"] == "HOST_IS_SLAVE"
            (address,) = answer["error"]["data"]
        assert log_in(address, port)["result"].startswith("OpaqueRef:")


def log_in(address, port):
    connection = http.client.HTTPConnection(address, port, timeout=10)
    params = ["root", "secret", "1.0", "tests"]
    call = {"jsonrpc": "2.0", "method": "session.login_with_password", "id": 1}
    connection.request("POST", "/jsonrpc", json.dumps({**call, "params": params}))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def test_ssh_is_opened_on_all_hosts_or_named_are_those_where_not(pair):
    client = XmlClient(pair.handle)
    pool = client.call("pool.get_all")[0]
    one, two = pair.world.db.refs("host")
    client.call("pool.set_ssh_enabled_timeout", pool, "60")
    client.call("pool.enable_ssh", pool)
    for host in (one, two):
        assert client.call("host.get_ssh_enabled_timeout", host) == "60"
        assert str(client.call("host.get_ssh_expiry", host)) > "2000"
    with pytest.raises(Refused) as found:
        client.call("pool.set_ssh_enabled_timeout", pool, "-1")
    assert found.value.args[0] == ["SET_SSH_TIMEOUT_PARTIALLY_FAILED", one, two]
    die(pair, 2)
    with pytest.raises(Refused) as found:
        client.call("pool.disable_ssh", pool)
    assert found.value.args[0] == ["DISABLE_SSH_PARTIALLY_FAILED", two]
    assert client.call("host.get_ssh_enabled", one) is False
    assert client.call("host.get_ssh_enabled", two) is True


def test_no_guest_leaves_a_host_that_does_not_answer(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    vm = guest(client, shared_sr(client), xenstore_data={"vm-data/sim-agent": "1"})[0]
    client.call(*start_on(vm, second))
    client.call("host.disable", second)
    die(pair, 2)
    with pytest.raises(Refused) as found:
        client.call("host.evacuate", second)
    assert found.value.code in ("HOST_OFFLINE", "CANNOT_CONTACT_HOST")
    assert found.value.params == [second]
    assert client.call("VM.get_resident_on", vm) == second
    assert client.call("host.get_current_operations", second) == {}


def test_what_a_dead_host_would_have_to_do_is_not_done(pair):
    client = XmlClient(pair.handle)
    first, second = hosts_of(client)
    sr = local_sr(client, second)
    vdi = client.call("VDI.create", vdi_record(sr))
    net = client.call("network.create", {"other_config": {}})
    nics = client.call("host.get_PIFs", second)
    before = client.call("host.get_record", second)
    die(pair, 2)
    wait_until(lambda: not is_live(client, second))
    nowhere = {"device": "/dev/x"}
    for call in (
        ("host.set_hostname_live", second, "other"),
        ("host.syslog_reconfigure", second),
        ("host.set_multipathing", second, True),
        ("host.enable_display", second),
        ("host.set_iscsi_iqn", second, "iqn.2020-01.org.example:x"),
        ("host.management_reconfigure", nics[0]),
        ("PIF.scan", second),
        ("PIF.create_VLAN", "eth1", net, second, "5"),
        ("VLAN.create", nics[1], "5", net),
        ("tunnel.create", nics[1], net),
        ("Bond.create", net, nics[:2], ""),
        ("SR.create", second, nowhere, "0", "n", "", "ext", "user", False),
        ("SR.probe", second, nowhere, "ext", {}),
        ("VDI.create", vdi_record(sr)),
        ("VDI.destroy", vdi),
    ):
        assert refused("HOST_OFFLINE", client.call, *call) == [second], call
    after = client.call("host.get_record", second)
    after["metrics"] = before["metrics"]
    assert after == before
    assert client.call("network.get_PIFs", net) == []
    assert int(client.call("host.compute_free_memory", second)) > 0
    (pif,) = client.call("pool.create_VLAN_from_PIF", nics[1], net, "5")
    assert client.call("PIF.get_host", pif) == first


@pytest.mark.parametrize(
    ("field", "wrong", "good", "name"),
    [
        ("ext_auth_cache_size", "-1", "0", "size"),
        ("ext_auth_cache_expiry", "0", "1", "expiry_seconds"),
    ],
)
def test_directory_users_are_remembered_within_reason(sim, field, wrong, good, name):
    client = XmlClient(sim.handle)
    pool = client.call("pool.get_all")[0]
    got = refused("INVALID_VALUE", client.call, f"pool.set_{field}", pool, wrong)
    assert got == [name, wrong]
    client.call(f"pool.set_{field}", pool, good)
    assert client.call(f"pool.get_{field}", pool) == good
