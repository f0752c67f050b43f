# SPDX-License-Identifier: Apache-2.0
"""Who is isolated, and to what: worked out from XAPI's records alone."""

import json

import hypothesis
import pytest
from hypothesis import strategies
from xenapi_dom0 import (
    isolation_bridge,
    isolation_chains,
    isolation_flows,
    isolation_ovs,
    vif_rights,
    xapi,
)

MAC = "bc:76:4e:01:02:03"
LINK_LOCAL = "fe80::be76:4eff:fe01:203"
KEY = "vm-data/networking/bc764e010203"
UUID = "11111111-2222-4333-8444-555555555555"


def judged(vif=None, vm=None, network=None):
    return vif_rights.verdict(
        {"MAC": MAC, "locking_mode": "network_default", "ipv4_allowed": [],
         "ipv6_allowed": [], "other_config": {}, **(vif or {})},
        {"other_config": {}, "xenstore_data": {}, **(vm or {})},
        {"other_config": {}, "default_locking_mode": "unlocked", **(network or {})},
    )


def addresses(verdict):
    rights = verdict.rights
    return [str(network) for network in rights.ipv4 + rights.ipv6[1:]]


def wish(value):
    return {"other_config": {vif_rights.KEY: value}}


@pytest.mark.parametrize(
    "vif, vm, network, isolated",
    [
        ({}, {}, {}, False),
        (wish("on"), {}, {}, True),
        ({}, wish("on"), {}, True),
        ({}, {}, wish("on"), True),
        (wish("off"), wish("on"), wish("on"), False),
        ({}, wish("off"), wish("on"), False),
        (wish(" ON "), {}, {}, True),
        # A mistake must not open the port.
        (wish("yes please"), {}, {}, True),
        (wish(""), wish("on"), {}, False),
        ({**wish("on"), "locking_mode": "locked"}, {}, {}, False),
        ({**wish("on"), "locking_mode": "disabled"}, {}, {}, False),
        (wish("on"), {}, {"default_locking_mode": "disabled"}, False),
        ({**wish("on"), "locking_mode": "unlocked"}, {},
         {"default_locking_mode": "disabled"}, True),
    ],
)
def test_who_is_isolated(vif, vm, network, isolated):
    assert (judged(vif, vm, network).rights is not None) is isolated


def test_the_link_local_address_is_made_of_the_mac():
    rights = judged(wish("on")).rights
    assert (rights.mac, rights.ipv4) == (MAC, ())
    assert [str(network) for network in rights.ipv6] == [LINK_LOCAL + "/128"]


def test_addresses_are_those_of_the_record_and_of_the_key_together():
    several = "10.0.0.9, 10.1.0.0/28 2001:db8:1::/64,nonsense"
    more = {"xenapi-isolation": "on", "xenapi-isolation-addresses": several}
    found = judged({"ipv4_allowed": ["10.0.0.5", "10.0.0.5"],
                    "ipv6_allowed": ["2001:DB8::5"], "other_config": more,
                    "MAC": MAC.upper()})
    assert found.rights.mac == MAC
    assert addresses(found) == [
        "10.0.0.5/32", "10.0.0.9/32", "10.1.0.0/28", "2001:db8::5/128",
        "2001:db8:1::/64",
    ]


@pytest.mark.parametrize(
    "text", ["0.0.0.0", "0.0.0.0/0", "224.0.0.1", "255.255.255.255", "127.0.0.1",
             "240.0.0.1", "::", "::/0", "::1", "ff02::1", "10.0.0.1/24", "10.0.0.300",
             "fe80::1%eth0", "", "10.0.0.1,actions=normal", "128.0.0.0/1", "2000::/3"],
)
def test_what_is_no_address_of_a_guest_is_left_out(text):
    found = judged({**wish("on"), "ipv4_allowed": [text, "10.0.0.5"]})
    assert addresses(found) == ["10.0.0.5/32"]


DATA = {"ips": [{"ip": "10.0.0.5", "netmask": "255.255.255.0"}],
        "ip6s": [{"ip": "2001:db8::5", "netmask": 64}]}


@pytest.mark.parametrize(
    "value, vif, expected",
    [
        ("on", {}, []),
        ("vm-data", {}, ["10.0.0.5/32", "2001:db8::5/128"]),
        ("vm-data", {"ipv4_allowed": ["10.0.0.7"]}, ["10.0.0.7/32"]),
        ("vm-data", {"ipv6_allowed": ["2001:db8::7"]}, ["2001:db8::7/128"]),
    ],
)
def test_what_the_guest_can_write_counts_last_and_only_if_asked_for(
    value, vif, expected
):
    vm = {"xenstore_data": {KEY: json.dumps(DATA)}}
    assert addresses(judged({**wish(value), **vif}, vm)) == expected


anything = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers()
    | strategies.text() | strategies.floats()
    | strategies.sampled_from(["10.0.0.5", "10.0.0.0/8", "fe80::1%a,actions=normal"]),
    lambda inner: strategies.lists(inner, max_size=4)
    | strategies.dictionaries(
        strategies.sampled_from(["ips", "ip6s", "ip", "x"]), inner, max_size=4
    ),
)


@hypothesis.given(strategies.text() | anything.map(json.dumps))
@hypothesis.settings(max_examples=300, deadline=None)
def test_no_rule_can_be_broken_out_of_whatever_the_guest_writes(text):
    found = judged(wish("vm-data"), {"xenstore_data": {KEY: text}}).rights
    flows = isolation_flows.of_vif(UUID, found, 5)
    allowed = [flow for flow in flows if "reg1[31]" in flow.lower()]
    for flow in allowed:
        assert f"in_port=5,vlan_tci=0,dl_src={MAC}," in flow
        assert flow.count("actions=") == 1 and "\n" not in flow
    for rule in isolation_chains.rules(found):
        assert all(word and "\n" not in word for word in rule)
    for line in isolation_chains.filters(found, "vif5.0", 100):
        assert line.count("dev vif5.0") in (1, 2) and "\n" not in line


def test_the_guest_cannot_make_the_rules_as_many_as_it_likes():
    many = {"ips": [{"ip": f"10.{n >> 8}.{n & 255}.1"} for n in range(5000)]}
    found = judged(wish("vm-data"), {"xenstore_data": {KEY: json.dumps(many)}})
    assert len(found.rights.ipv4) == vif_rights.MAX_ADDRESSES
    deep = "[" * 100000
    assert judged(wish("vm-data"), {"xenstore_data": {KEY: deep}}).rights.ipv4 == ()


def test_each_vif_has_a_cookie_of_its_own_and_all_are_ours():
    cookies = {isolation_flows.cookie(UUID), isolation_flows.cookie("2" + UUID[1:]),
               isolation_flows.BASE_COOKIE}
    assert len(cookies) == 3
    assert {cookie & isolation_flows.COOKIE_MASK for cookie in cookies} == {
        isolation_flows.COOKIES
    }
    assert max(cookies) < 2**64


def test_names_of_chains_are_short_enough_for_ebtables():
    rules = isolation_chains.rules(judged(wish("on")).rights)
    name = isolation_chains.name(isolation_chains.stem(UUID), rules)
    assert len(name) <= 28
    assert name != isolation_chains.name(isolation_chains.stem(UUID), rules[1:])


@pytest.mark.parametrize("told", ["", "-evil", "x y", "..", 'a"b', "1" * 36])
def test_a_port_whose_vif_is_none_hinders_no_other(monkeypatch, told):
    """Neutron's agent may write a port's external ids, so anybody who is it."""
    rows = [(f"vif7.{number}", vif) for number, vif in enumerate([told, UUID.upper()])]
    monkeypatch.setattr(isolation_ovs, "_tables", lambda: {
        "Bridge": [{"name": "xenbr0", "ports": ["p0", "p1"]}],
        "Port": [{"_uuid": f"p{n}", "interfaces": [f"i{n}"]} for n in range(2)],
        "Interface": [
            {"_uuid": f"i{n}", "name": name, "ofport": n + 1,
             "external_ids": {"xs-vif-uuid": vif}}
            for n, (name, vif) in enumerate(rows)
        ],
    })  # fmt: skip
    assert isolation_ovs.vifs(None) == [UUID]


def test_a_vm_that_is_destroyed_meanwhile_hinders_no_other(monkeypatch):
    class Session:
        def call(self, method, what):
            """Answer as a XAPI in which one VM and one VIF have just gone."""
            if what == "gone":
                raise xapi.Refused(method, ["HANDLE_INVALID", "VM", what])
            return {
                "VM.get_by_uuid": what, "VM.get_VIFs": ["gone", "there"],
                "VIF.get_record": {"uuid": UUID, "device": "0"},
            }[method]

    monkeypatch.setattr(isolation_bridge, "_domains", lambda: {"7": "gone", "8": "vm"})
    monkeypatch.setattr(isolation_bridge, "_devices", lambda: ["vif7.0", "vif8.0"])
    assert isolation_bridge.vifs(Session()) == [UUID]
