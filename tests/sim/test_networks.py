# SPDX-License-Identifier: Apache-2.0
"""Networks, NICs and what is made on them: VLANs, bonds, tunnels."""

import pytest

from tests.sim.clients import NULL, refusal, vif_record, vm_record


def network(client, **changes):
    record = {"name_label": "n", "other_config": {}, "MTU": "1500", **changes}
    return client.call("network.create", record)


def nic(client, device="eth1"):
    query = f'field "device" = "{device}" and field "physical" = "true"'
    return next(iter(client.call("PIF.get_all_records_where", query)))


@pytest.fixture
def net(client):
    return network(client)


def test_nics_are_known_as_the_host_names_them(client):
    record = client.call("PIF.get_record", nic(client, "eth0"))
    assert record["management"] is True
    assert client.call("network.get_bridge", record["network"]) == "xenbr0"
    metrics = client.call("PIF_metrics.get_record", record["metrics"])
    assert metrics["carrier"] is True
    assert int(metrics["speed"]) == 10000


def test_bridge_names_are_not_given_out_twice(client):
    first = network(client)
    name = client.call("network.get_bridge", first)
    client.call("network.destroy", first)
    assert client.call("network.get_bridge", network(client)) != name


def test_management_interface_is_protected(client):
    pif = nic(client, "eth0")
    for method in ("PIF.unplug", "PIF.forget"):
        assert refusal(client, method, pif) == ["PIF_IS_MANAGEMENT_INTERFACE", pif]
    assert refusal(client, "PIF.destroy", pif) == ["PIF_IS_PHYSICAL"]


def test_unplug_and_plug(client):
    pif = nic(client)
    client.call("PIF.set_disallow_unplug", pif, True)
    assert refusal(client, "PIF.unplug", pif) == ["PIF_DOES_NOT_ALLOW_UNPLUG", pif]
    client.call("PIF.set_disallow_unplug", pif, False)
    client.call("PIF.unplug", pif)
    assert client.call("PIF.get_currently_attached", pif) is False
    client.call("PIF.plug", pif)
    assert client.call("PIF.get_currently_attached", pif) is True


def test_static_address(client):
    pif = nic(client)
    args = (pif, "Static", "10.1.1.1", "255.255.255.0", "", "")
    client.call("PIF.reconfigure_ip", *args)
    assert client.call("PIF.get_IP", pif) == "10.1.1.1"
    bad = (pif, "Static", "10.1.1.1", "", "", "")
    wanted = ["INVALID_IP_ADDRESS_SPECIFIED", "netmask"]
    assert refusal(client, "PIF.reconfigure_ip", *bad) == wanted
    client.call("PIF.reconfigure_ip", pif, "None", "", "", "", "")
    assert client.call("PIF.get_IP", pif) == ""


def test_forgotten_nic_is_found_again(client):
    pif = nic(client)
    mac, host = client.call("PIF.get_MAC", pif), client.call("PIF.get_host", pif)
    assert refusal(client, "PIF.introduce", host, mac, "eth1") == [
        "DUPLICATE_PIF_DEVICE_NAME",
        "eth1",
    ]
    client.call("PIF.forget", pif)
    client.call("PIF.scan", host)
    again = nic(client)
    assert again != pif
    assert client.call("network.get_bridge", client.call("PIF.get_network", again)) == (
        "xenbr1"
    )


def test_property_of_a_nic(client):
    pif = nic(client)
    client.call("PIF.set_property", pif, "gro", "off")
    assert client.call("PIF.get_properties", pif) == {"gro": "off"}
    wanted = ["INVALID_VALUE", "properties", "bogus = off"]
    assert refusal(client, "PIF.set_property", pif, "bogus", "off") == wanted


def test_vlan_comes_and_goes(client, net):
    base = nic(client)
    vlan = client.call("VLAN.create", base, "100", net)
    record = client.call("VLAN.get_record", vlan)
    assert (record["tagged_PIF"], int(record["tag"])) == (base, 100)
    above = client.call("PIF.get_record", record["untagged_PIF"])
    assert above["VLAN_master_of"] == vlan
    assert above["network"] == net
    assert above["currently_attached"] is True
    assert int(above["VLAN"]) == 100
    assert client.call("PIF.get_VLAN_slave_of", base) == [vlan]
    assert refusal(client, "network.destroy", net)[0] == "NETWORK_CONTAINS_PIF"
    client.call("VLAN.destroy", vlan)
    assert client.call("network.get_PIFs", net) == []
    client.call("network.destroy", net)


def test_vlan_refusals(client, net):
    base = nic(client)
    vlan = client.call("VLAN.create", base, "100", net)
    above = client.call("VLAN.get_untagged_PIF", vlan)
    other = network(client)
    for pif, tag, target, code in (
        (base, "100", other, "PIF_VLAN_EXISTS"),
        (base, "101", net, "NETWORK_ALREADY_CONNECTED"),
        (above, "102", other, "PIF_IS_VLAN"),
        (base, "4095", other, "VLAN_TAG_INVALID"),
        (base, "-1", other, "VLAN_TAG_INVALID"),
    ):
        assert refusal(client, "VLAN.create", pif, tag, target)[0] == code
    assert refusal(client, "PIF.forget", base)[0] == "PIF_VLAN_STILL_EXISTS"
    foreign = network(client, bridge="br-int", managed=False)
    wanted = ["NETWORK_UNMANAGED", foreign]
    assert refusal(client, "VLAN.create", base, "7", foreign) == wanted


def test_vlan_of_a_whole_pool(client, net):
    made = client.call("pool.create_VLAN_from_PIF", nic(client), net, "200")
    assert client.call("network.get_PIFs", net) == made
    client.call("PIF.destroy", made[0])
    assert client.call("VLAN.get_all") == []


def test_bond_takes_over_the_management_address(client, net):
    members = [nic(client, "eth0"), nic(client, "eth1")]
    address = client.call("PIF.get_IP", members[0])
    args = (net, members, "", "active-backup", {})
    bond = client.call("Bond.create", *args)
    master = client.call("Bond.get_master", bond)
    record = client.call("PIF.get_record", master)
    assert (record["device"], record["IP"]) == ("bond0", address)
    assert record["management"] is True
    assert client.call("PIF.get_management", members[0]) is False
    assert sorted(client.call("Bond.get_slaves", bond)) == sorted(members)
    refused = refusal(client, "PIF.plug", members[1])
    assert refused == ["CANNOT_PLUG_BOND_SLAVE", members[1]]
    client.call("Bond.destroy", bond)
    assert client.call("PIF.get_IP", members[0]) == address
    assert client.call("PIF.get_bond_slave_of", members[1]) == NULL


def test_bond_refusals(client, net):
    members = [nic(client, "eth0"), nic(client, "eth1")]
    for chosen, mac, properties, code in (
        ([], "", {}, "PIF_BOND_NEEDS_MORE_MEMBERS"),
        (members[:1], "", {}, "PIF_BOND_NEEDS_MORE_MEMBERS"),
        (members, "bogus", {}, "MAC_INVALID"),
        (members, "", {"x": "y"}, "INVALID_VALUE"),
    ):
        args = (net, chosen, mac, "balance-slb", properties)
        assert refusal(client, "Bond.create", *args)[0] == code


def test_tunnel_needs_an_address_below(client, net):
    base = nic(client)
    wanted = ["TRANSPORT_PIF_NOT_CONFIGURED", base]
    assert refusal(client, "tunnel.create", base, net, "vxlan") == wanted
    # As on a real host it is there all the same, but not plugged.
    (tunnel,) = client.call("tunnel.get_all")
    assert client.call("tunnel.get_status", tunnel) == {"active": "false"}
    args = (base, "Static", "10.1.1.1", "255.255.255.0", "", "")
    client.call("PIF.reconfigure_ip", *args)
    access = client.call("tunnel.get_access_PIF", tunnel)
    client.call("PIF.plug", access)
    assert client.call("tunnel.get_status", tunnel) == {"active": "true"}
    client.call("tunnel.destroy", tunnel)
    assert client.call("network.get_PIFs", net) == []


def test_guest_address_is_checked_before_the_guest(client, net):
    vm = client.call("VM.create", vm_record())
    record = vif_record(vm, net, locking_mode="locked", ipv4_allowed=["10.0.0.1"])
    vif = client.call("VIF.create", record)
    for address, error in (
        ("10.0.0.5", ["INVALID_CIDR_ADDRESS_SPECIFIED", "address"]),
        ("10.0.0.5/24", ["ADDRESS_VIOLATES_LOCKING_CONSTRAINT", "10.0.0.5/24"]),
        ("10.0.0.1/24", ["VM_LACKS_FEATURE", vm]),
    ):
        args = (vif, "Static", address, "")
        assert refusal(client, "VIF.configure_ipv4", *args) == error


def test_trunks_are_not_for_vlan_networks(client, net):
    vm = client.call("VM.create", vm_record())
    vif = client.call("VIF.create", vif_record(vm, net))
    client.call("VIF.add_trunks", vif, "12")
    assert [int(tag) for tag in client.call("VIF.get_trunks", vif)] == [12]
    client.call("VLAN.create", nic(client), "100", net)
    refused = refusal(client, "VIF.set_trunks", vif, ["13"])
    assert refused == ["NETWORK_INCOMPATIBLE_WITH_TRUNKS", net]


def test_no_port_is_locked_while_a_controller_rules(client):
    client.call("pool.set_vswitch_controller", "192.0.2.8")
    (record,) = client.call("SDN_controller.get_all_records").values()
    assert (record["address"], int(record["port"])) == ("192.0.2.8", 6640)
    vm = client.call("VM.create", vm_record())
    vif = client.call("VIF.create", vif_record(vm, client.call("network.get_all")[0]))
    code = refusal(client, "VIF.set_locking_mode", vif, "locked")[0]
    assert code == "OPERATION_NOT_ALLOWED"
    client.call("VIF.set_locking_mode", vif, "disabled")
    client.call("pool.set_vswitch_controller", "")
    assert client.call("SDN_controller.get_all") == []
    client.call("VIF.set_locking_mode", vif, "locked")
    assert client.call("VIF.get_locking_mode", vif) == "locked"


def test_no_interface_stands_on_itself(client, net):
    nic1 = nic(client)
    vlan = client.call("VLAN.create", nic1, "7", net)
    above = client.call("VLAN.get_untagged_PIF", vlan)
    for tagged in (nic1, above):
        got = refusal(client, "VLAN.pool_introduce", tagged, tagged, "8", {})
        assert got == ["PIF_IS_VLAN", tagged]
    got = refusal(client, "VLAN.pool_introduce", above, nic1, "8", {})
    assert got == ["PIF_IS_VLAN", above]
    client.call("PIF.plug", above)
    assert client.call("PIF.get_currently_attached", above) is True


def test_name_servers_come_with_an_ipv6_address_too(client):
    ref, address = nic(client), "2001:db8::2/64"
    wrong = ("PIF.reconfigure_ipv6", ref, "Static", address, "", "2001:db8::53,x")
    assert refusal(client, *wrong) == ["INVALID_IP_ADDRESS_SPECIFIED", "DNS"]
    assert client.call("PIF.get_IPv6", ref) == []
    servers = "2001:db8::53,10.0.0.53"
    client.call("PIF.reconfigure_ipv6", ref, "Static", address, "", servers)
    assert client.call("PIF.get_DNS", ref) == servers
    assert client.call("PIF.get_IPv6", ref) == [address]
