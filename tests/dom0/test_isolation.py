# SPDX-License-Identifier: Apache-2.0
"""An isolated VIF sends what it may and nothing else: real frames, real switches.

Judged by what arrives at another guest of the same switch. Each test runs on both
kinds of switch, where it does not say otherwise.
"""

import contextlib

import pytest

from tests.dom0 import frames, isolated, switches, wire
from tests.dom0.isolated import ME, PEER, RIGHT


@contextlib.contextmanager
def made(host, kind, folder):
    switches.require("ip", "tc", "ebtables", "ethtool")
    with contextlib.ExitStack() as stack:
        if kind == "ovs":
            net = stack.enter_context(switches.switch(folder / "switch"))
        else:
            net = stack.enter_context(switches.network())
        yield isolated.Isolated(host, net)


@pytest.fixture(params=["ovs", "bridge"])
def net(request, old_host, tmp_path):
    with made(old_host, request.param, tmp_path) as one:
        yield one


@pytest.fixture(params=["ovs", "bridge"])
def every_net(request, host, tmp_path):
    with made(host, request.param, tmp_path) as one:
        yield one


@pytest.fixture
def ovs(old_host, tmp_path):
    with made(old_host, "ovs", tmp_path) as one:
        yield one


def test_an_isolated_vif_sends_what_it_may_and_nothing_else(every_net):
    me, peer = every_net.pair()
    table = frames.table(ME, PEER)
    # The frames themselves are such that a switch without rules passes them on.
    came = wire.heard(me.socket, peer.socket, table, isolated.last(ME))
    assert {f.name for f in table} - came <= {"spanning tree"}
    assert every_net.hook("online", me.uuid, me.vm_uuid) == ""
    assert me.sends(peer) == RIGHT
    # The one that nobody wants isolated is left alone.
    peer.hook()
    assert peer.reaches(me, "forged IPv4")
    assert every_net.call("apply", me) == {
        "vif": me.uuid, "isolated": True, "why": "the VIF's own addresses",
        "ports": [me.device],
        "addresses": [ME.ipv4, ME.link_local, ME.ipv6],
    }
    assert me.sends(peer) == RIGHT
    assert every_net.rules(me)
    me.unplug()
    me.hook("remove")
    assert every_net.rules(me) == []


def test_a_forged_mac_takes_no_traffic_from_its_owner(net):
    me, peer = net.pair()
    net.call("apply", me)
    assert me.sends(peer) == RIGHT
    third = net.vif(frames.Guest(frames.ROUTER, "10.0.0.1", "2001:db8::1"))
    third.plug()
    assert third.reaches(peer)
    assert not me.reaches(peer, "forged source MAC", within=0.3)
    # The switch would send these to whoever used the address last.
    sent = [f for f in frames.table(PEER, third.addresses) if f.name == "TCP"]
    assert wire.arrives(peer.socket, third.socket, sent[0], 3)
    assert not wire.arrives(peer.socket, me.socket, sent[0], 0.2)


def test_the_emulated_device_is_held_to_the_same(net):
    me, peer = net.pair()
    net.call("apply", me)
    me.plug(kind="tap")
    assert net.call("apply", me)["ports"] == sorted([
        me.device, me.device.replace("tap", "vif")
    ], reverse=not net.ovs)
    assert me.sends(peer) == RIGHT


def test_a_vif_plugged_again_has_the_rules_of_its_new_port_only(net):
    me, peer = net.pair()
    me.hook()
    before = len(net.rules(me))
    old = me.device
    me.unplug()
    net.api.VM.hard_reboot(me.vm)
    me.plug()
    assert me.device != old
    me.hook()
    # The old domain's hook may come after the new one's.
    me.hook("remove")
    assert me.sends(peer) == RIGHT
    assert len(net.rules(me)) == before
    assert old not in " ".join(net.rules(me))


def test_addresses_follow_the_record(net):
    me, peer = net.pair()
    net.call("apply", me)
    assert not me.reaches(peer, "forged IPv4", within=0.2)
    me.want(PEER.ipv4)
    net.call("apply", me)
    assert me.reaches(peer, "forged IPv4")
    assert not me.reaches(peer, "own addresses", within=0.2)
    me.want()
    report = net.call("apply", me)
    assert report["addresses"] == [ME.link_local]
    assert me.reaches(peer, "DHCP discover")
    assert me.reaches(peer, "own link-local")
    for name in ("own addresses", "ARP request", "forged IPv4", "own IPv6"):
        assert not me.reaches(peer, name, within=0.1), name
    net.call("remove", me)
    assert net.rules(me) == []
    assert me.reaches(peer, "forged IPv4")
    net.call("apply", me)
    me.set(other_config={"xenapi-isolation": "off"})
    assert net.call("apply", me)["isolated"] is False
    assert net.rules(me) == []
