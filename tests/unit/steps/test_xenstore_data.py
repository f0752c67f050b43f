# SPDX-License-Identifier: Apache-2.0
"""What agents in guests read, in the form that they have known since 2011."""

from __future__ import annotations

import json

import pytest
from nova.network import model

from xenapi_driver.steps import xenstore_data


def subnet(cidr, *addresses, gateway=None, dns=(), routes=()):
    return model.Subnet(
        cidr=cidr,
        version=6 if ":" in cidr else 4,
        ips=[model.FixedIP(address=one) for one in addresses],
        gateway=model.IP(address=gateway) if gateway else None,
        dns=[model.IP(address=one) for one in dns],
        routes=[
            model.Route(cidr=net, gateway=model.IP(address=via)) for net, via in routes
        ],
    )


def vif(*subnets, mac="bc:76:4e:01:02:03"):
    network = model.Network(id="n", label="private", subnets=list(subnets))
    return model.VIF(id="p", address=mac, network=network, type="ovs")


def networking(*subnets):
    ((key, text),) = xenstore_data.networking([vif(*subnets)]).items()
    assert key == "vm-data/networking/bc764e010203"
    return json.loads(text)


def test_one_ipv4_address():
    # A vector of the retired driver.
    first = subnet("10.0.0.0/24", "10.0.0.5", gateway="10.0.0.1", dns=["8.8.8.8"])
    address = {"ip": "10.0.0.5", "netmask": "255.255.255.0"}
    assert networking(first) == {
        "label": "private",
        "mac": "bc:76:4e:01:02:03",
        "ips": [{**address, "gateway": "10.0.0.1", "enabled": "1"}],
        "gateway": "10.0.0.1",
        "broadcast": "10.0.0.255",
        "routes": [],
        "dns": ["8.8.8.8"],
    }


def test_both_families_with_routes():
    four = subnet(
        "10.0.0.0/24",
        "10.0.0.5",
        dns=["9.9.9.9", "8.8.8.8"],
        routes=[("192.168.0.0/16", "10.0.0.9")],
    )
    six = subnet(
        "fd00::/64",
        "fd00::5",
        gateway="fd00::1",
        dns=["9.9.9.9"],
        routes=[("fd01::/64", "fd00::9")],
    )
    found = networking(four, six)
    assert found["gateway"] is None
    assert found["gateway_v6"] == "fd00::1"
    assert found["ip6s"] == [
        {"ip": "fd00::5", "netmask": 64, "gateway": "fd00::1", "enabled": "1"}
    ]
    # Agents choke on routes of IPv6.
    assert found["routes"] == [
        {"route": "192.168.0.0", "netmask": "255.255.0.0", "gateway": "10.0.0.9"}
    ]
    assert found["dns"] == ["9.9.9.9", "8.8.8.8"]


def test_a_port_without_addresses():
    assert networking() == {
        "label": "private",
        "mac": "bc:76:4e:01:02:03",
        "routes": [],
        "dns": [],
    }


def test_what_xenstore_cannot_hold_is_left_out_and_said(caplog):
    routes = [(f"10.{one}.0.0/16", "10.0.0.9") for one in range(100)]
    one = vif(subnet("10.0.0.0/24", "10.0.0.5", routes=routes))
    assert xenstore_data.networking([one]) == {}
    assert "too long for xenstore" in caplog.text


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("role", "role"),
        ("a/b.c d", "a_b_c_d"),
        ("größe", "gr__e"),
        ("Up-_@9", "Up-_@9"),
    ],
)
def test_metadata_has_keys_that_a_path_can_have(key, path):
    found = xenstore_data.metadata({key: 'say "hé"'})
    assert found == {f"vm-data/user-metadata/{path}": '"say \\"h\\u00e9\\""'}


def test_windows_has_short_names():
    assert xenstore_data.hostname("a-very-long-hostname", True) == {
        "vm-data/hostname": "a-very-long-hos"
    }
    assert xenstore_data.hostname("a-very-long-hostname", False) == {
        "vm-data/hostname": "a-very-long-hostname"
    }


def test_whether_the_disk_was_fitted():
    told = {"vm-data/auto-disk-config": "False"}
    assert xenstore_data.auto_disk_config(False) == told
