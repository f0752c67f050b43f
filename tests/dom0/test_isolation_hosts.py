# SPDX-License-Identifier: Apache-2.0
"""Isolation over the life of a host: restarts, races, closed hosts, other rules."""

import contextlib
import os
import signal
import subprocess
import time

import pytest

from tests.dom0 import frames, isolated, wire
from tests.dom0.isolated import ME, PEER, RIGHT
from tests.dom0.scratch_host import PluginFailed
from tests.dom0.test_isolation import made

THIRD = frames.Guest("02:00:00:00:00:07", "10.0.0.7", "2001:db8::7")


@pytest.fixture(params=["ovs", "bridge"])
def net(request, old_host, tmp_path):
    with made(old_host, request.param, tmp_path) as one:
        yield one


@pytest.fixture
def ovs(old_host, tmp_path):
    with made(old_host, "ovs", tmp_path) as one:
        yield one


@pytest.fixture
def bridge(old_host, tmp_path):
    with made(old_host, "bridge", tmp_path) as one:
        yield one


def eventually(true, seconds=15.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.1)
    return False


@contextlib.contextmanager
def watching(net):
    """The service that follows the ports, for the length of a ``with``."""
    process = net.start_service()
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def test_rules_are_back_after_the_switch_started_again(ovs):
    me, peer = ovs.pair()
    ovs.call("apply", me)
    ovs.net.stop_switch()
    ovs.net.start_switch()
    assert ovs.rules(me) == []
    assert me.reaches(peer, "forged IPv4")
    report = ovs.call("apply_all")
    isolated_now = [one["vif"] for one in report["applied"] if one["isolated"]]
    assert isolated_now == [me.uuid]
    assert report["failed"] == {}
    assert me.sends(peer) == RIGHT


def test_the_service_follows_the_ports_and_a_switch_that_starts_again(ovs):
    me, peer = ovs.pair()
    with watching(ovs):
        assert eventually(lambda: ovs.rules(me))
        # Without the hook: the emulated device comes later than the other.
        rules = len(ovs.rules(me))
        vif, me.device = me.device, ""
        me.plug(kind="tap")
        assert eventually(lambda: len(ovs.rules(me)) == 2 * rules)
        ovs.net.stop_switch()
        ovs.net.start_switch()
        assert eventually(lambda: len(ovs.rules(me)) == 2 * rules)
        assert me.sends(peer) == RIGHT
        me.unplug()
        me.device = vif
        ovs.del_port(vif)
        assert eventually(lambda: not ovs.rules(me))


def test_the_service_puts_back_what_somebody_flushed(bridge):
    me, peer = bridge.pair()
    with watching(bridge):
        assert eventually(lambda: me.sends(peer) == RIGHT)
        bridge.net.run("ebtables", "-t", "nat", "-F")
        bridge.net.run("ebtables", "-t", "nat", "-X")
        assert eventually(lambda: me.sends(peer) == RIGHT)
        me.unplug()
        assert eventually(lambda: not bridge.rules(me))


def test_hook_and_plugin_at_once_leave_one_set_of_rules(net):
    me, peer = net.pair()
    hooks = [net.start_hook("online", me.uuid, me.vm_uuid) for _ in range(3)]
    net.call("apply", me)
    for process in hooks:
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"")
    several = len(net.rules(me))
    net.call("remove", me)
    net.call("apply", me)
    assert several == len(net.rules(me))
    assert me.sends(peer) == RIGHT


def test_what_a_killed_call_left_is_put_right_by_the_next(net):
    me, peer = net.pair()
    net.call("apply", me)
    once = len(net.rules(me))
    for number, delay in enumerate((0.15, 0.25, 0.35, 0.45)):
        me.want(ME.ipv4, ME.ipv6, f"10.0.0.{100 + number}")
        process = net.start_hook("online", me.uuid, me.vm_uuid)
        time.sleep(delay)
        process.kill()
        process.communicate()
        # Whenever it dies, either the old rules hold or the new ones.
        assert not me.reaches(peer, "forged IPv4", within=0.1)
    me.want(ME.ipv4, ME.ipv6)
    me.hook()
    assert len(net.rules(me)) == once
    assert me.sends(peer) == RIGHT


def test_rules_of_others_are_left_alone(net):
    me, peer = net.pair()
    if net.ovs:
        theirs = "cookie=0x1,priority=9,in_port=99,actions=drop"
        net.net.ofctl("add-flow", net.bridge, theirs)
    else:
        net.net.run("ebtables", "-t", "nat", "-A", "PREROUTING", "-i", "eth7",
                    "-j", "DROP")
    net.call("apply", me)
    net.call("apply", me)
    net.call("remove", me)
    net.call("apply_all")
    me.unplug()
    me.hook("remove")
    if net.ovs:
        flows = net.net.ofctl("dump-flows", net.bridge)
        assert "in_port=99" in flows and "priority=0" in flows
        assert flows.count("cookie=") == 2
    else:
        rules = net.net.run("ebtables", "-t", "nat", "-L")
        assert "-i eth7 -j DROP" in rules and "xi-" not in rules


def test_a_legal_frame_goes_on_to_the_flows_of_others(ovs):
    me, peer = ovs.pair()
    ovs.call("apply", me)
    # As Neutron's agent does it: its own tables, by port, at its priorities.
    for flow in (
        "cookie=0x99,table=0,priority=10,in_port={me},arp,actions=resubmit(,24)",
        "cookie=0x99,table=0,priority=9,in_port={me},actions=resubmit(,25)",
        "cookie=0x99,table=24,priority=0,actions=drop",
        "cookie=0x99,table=25,priority=2,udp,actions=NORMAL",
    ):
        port = ovs.net.vsctl("get", "interface", me.device, "ofport")
        ovs.net.ofctl("add-flow", ovs.bridge, flow.format(me=port))
    assert me.reaches(peer, "own addresses")
    assert not me.reaches(peer, "TCP", within=0.2)
    assert not me.reaches(peer, "ARP request", within=0.2)
    assert not me.reaches(peer, "forged IPv4", within=0.2)


def test_a_bridge_that_knows_only_old_openflow_gets_the_same_rules(ovs):
    me, peer = ovs.pair()
    ovs.net.vsctl("set", "bridge", ovs.bridge, "protocols=OpenFlow10,OpenFlow13")
    ovs.call("apply", me)
    ovs.call("apply", me)
    assert me.sends(peer) == RIGHT


def test_a_vlan_is_kept_and_none_is_entered(ovs):
    me, peer = ovs.vif(ME), ovs.vif(PEER)
    ovs.net.vsctl("add-br", "xapi99", ovs.bridge, "10")
    ovs.net.vsctl("add-br", "xapi98", ovs.bridge, "20")
    me.want(ME.ipv4, ME.ipv6)
    me.plug(bridge="xapi99")
    peer.plug(bridge="xapi98")
    trunk = ovs.net.guest("eth0", THIRD.mac)
    ovs.add_port("eth0", "")
    ovs.call("apply", me)
    with contextlib.closing(wire.packet_socket(trunk.name)) as uplink:
        table = {frame.name: frame for frame in frames.table(ME, THIRD)}
        assert wire.arrives(me.socket, uplink, table["own addresses"], 3)
        assert not wire.arrives(me.socket, uplink, table["VLAN tag"], 0.2)
    assert not me.reaches(peer, within=0.2)
    peer.hook()
    assert peer.reaches(me, within=0.2) is False


def test_what_the_guest_wrote_counts_only_where_that_is_asked_for(ovs):
    me, peer = ovs.pair()
    ovs.api.VM.set_xenstore_data(me.vm, isolated.networking(PEER))
    other = isolated.networking(PEER).popitem()[1]
    key = "vm-data/networking/" + ME.mac.replace(":", "").upper()
    ovs.api.VM.set_xenstore_data(me.vm, {key: other})
    me.want()
    assert ovs.call("apply", me)["addresses"] == [ME.link_local]
    me.set(other_config={"xenapi-isolation": "vm-data"})
    report = ovs.call("apply", me)
    assert report["addresses"] == [PEER.ipv4, ME.link_local, PEER.ipv6]
    assert me.reaches(peer, "forged IPv4")
    # What XAPI's record says is the last word all the same.
    me.set(ipv4_allowed=[ME.ipv4])
    assert ovs.call("apply", me)["addresses"] == [ME.ipv4, ME.link_local]
    assert not me.reaches(peer, "forged IPv4", within=0.2)


def test_a_closed_host_lets_nothing_through_before_the_hook_came(net):
    net.close_host()
    me, peer = net.pair()
    peer.hook()
    third = net.vif(THIRD)
    third.plug()
    assert not third.reaches(peer, within=0.3)
    assert peer.reaches(me)
    assert me.sends(peer) == RIGHT
    third.hook()
    assert third.reaches(peer, "forged IPv4")
    assert me.sends(peer) == RIGHT
    (net.root / "etc/xapi.d/isolation-closed").unlink()
    net.call("apply_all")
    third.unplug()
    third.plug()
    assert third.reaches(peer)
    assert me.sends(peer) == RIGHT


def test_the_wire_and_the_host_itself_pass_a_closed_bridge(ovs):
    ovs.close_host()
    nic = ovs.net.guest("eth0", THIRD.mac)
    ovs.add_port("eth0", "")
    me, _peer = ovs.pair()
    me.hook()
    with contextlib.closing(wire.packet_socket(nic.name)) as uplink:
        table = {frame.name: frame for frame in frames.table(THIRD, ME)}
        for name in ("own addresses", "DHCP offer", "router advertisement to one"):
            assert wire.arrives(uplink, me.socket, table[name], 3), name
    ovs.net.run("ip", "addr", "add", "10.0.0.100/24", "dev", ovs.bridge)
    me.guest.address("10.0.0.5/24")
    assert me.guest.reaches("10.0.0.100")


def test_without_xapi_a_vif_comes_up_open_or_shut_as_told(net):
    me, peer = net.pair()
    (net.root / "var/lib/xcp/xapi").unlink()
    assert net.hook("online", me.uuid, me.vm_uuid) == ""
    assert me.reaches(peer, "forged IPv4")
    net.close_host()
    assert net.hook("online", me.uuid, me.vm_uuid) == ""
    assert not me.reaches(peer, within=0.2)


def test_other_hooks_are_called_with_the_same_arguments(ovs):
    folder = ovs.root / "etc/xapi.d/vif-hotplug.d"
    folder.mkdir()
    said = ovs.root / "said"
    for name, mode in (("10-first", 0o755), ("20-broken", 0o755), ("30-not", 0o644)):
        file = folder / name
        file.write_text(f'#!/bin/sh\necho {name} "$@" >> {said}\nexit 3\n')
        file.chmod(mode)
    vif = "11111111-2222-4333-8444-555555555555"
    ovs.hook("online", vif, vif)
    told = f"-action online -vifuuid {vif} -vmuuid {vif}"
    assert said.read_text().splitlines() == [f"10-first {told}", f"20-broken {told}"]


def test_the_hook_never_shows_a_traceback(old_host):
    file = old_host.root / "etc/xapi.d/vif-hotplug"
    file.write_text(isolated.HOOK.read_text())
    for argv in (
        [], ["-action"], ["-action", "online"], ["-action", "dance"], ["\udcff", ""],
        ["-action", "online", "-vifuuid", "../x", "-vmuuid", "$(reboot)"],
    ):
        done = subprocess.run(
            [old_host.python, str(file), *(os.fsencode(arg) for arg in argv)],
            capture_output=True, env=old_host.environment(), timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), argv


def test_the_hook_without_its_library_says_so_and_lets_the_vif_come_up(tmp_path):
    file = tmp_path / "vif-hotplug"
    file.write_text(isolated.HOOK.read_text())
    done = subprocess.run(["/usr/bin/python3", str(file), "-action", "online"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "plugins are not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_host_with_neither_switch_is_told(old_host):
    vif = "11111111-2222-4333-8444-555555555555"
    with pytest.raises(PluginFailed) as caught:
        old_host.call("isolation", "apply", {"vif_uuid": vif})
    assert caught.value.code == "NOT_SUPPORTED"


def test_bad_arguments_are_refused(old_host):
    for fn in ("apply", "remove", "show"):
        for request in (
            {}, {"vif_uuid": "x"}, {"vif_uuid": None}, {"vif_uuid": ["x"]},
            {"vif_uuid": "../../etc/passwd"}, {"vif": 1},
        ):
            with pytest.raises(PluginFailed) as caught:
                old_host.call("isolation", fn, request)
            assert caught.value.code == "BAD_ARGUMENT", (fn, request)


def test_a_vif_that_xapi_does_not_know_has_no_rules_and_is_no_fault(ovs):
    vif = "11111111-2222-4333-8444-555555555555"
    report = ovs.scratch.call("isolation", "apply", {"vif_uuid": vif})
    assert report["isolated"] is False
    assert report["why"] == "XAPI does not know it"


def test_a_bridge_host_without_tc_lets_no_ipv6_through(bridge):
    me, peer = bridge.pair()
    bridge.scratch.wrap("tc", "#!/bin/sh\necho no kernel module >&2\nexit 2\n")
    bridge.call("apply", me)
    came = me.sends(peer)
    assert came["arrived"] == []
    assert "own addresses" not in came["lost"]
    assert "own IPv6" in came["lost"]
