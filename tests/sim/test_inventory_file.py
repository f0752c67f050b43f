# SPDX-License-Identifier: Apache-2.0
"""The file that says what the simulated pools hold at their start."""

import subprocess
import sys
import textwrap

import pytest

from tests.sim.clients import GIB, HttpSender, XmlClient
from xenapi_driver.sim import Behaviour, Simulator
from xenapi_driver.sim.start import inventory_file
from xenapi_driver.sim.start.inventory_file import (
    InventoryRefused,
    parse,
    read,
    with_counts,
)

WHOLE = """
pools:
  - name: lab
    description: for tests
    hosts:
      - {name: big-01, memory: 256 GiB, cpus: 32}
      - {name: big-02}
    networks:
      - {name: storage, vlan: 7, mtu: 9000}
      - {name: integration, bridge: br-x, managed: false}
    srs:
      - {name: shared, type: nfs, size: 2 TiB, default: true}
      - {name: fast, type: ext, size: 400 GiB, host: big-02}
    templates:
      - {name: small, memory: 1.5 GiB, vcpus: 2, firmware: uefi}
    vms:
      - {name: web, count: 3, state: running, template: small, tags: [a, b]}
      - name: db
        memory: 4 GiB
        vcpus: 2
        state: suspended
        host: big-01
        disks: [1 GiB, {size: 2 GiB, sr: shared}]
        networks: [Pool-wide network 0, storage]
        other_config: {owner: somebody}
      - {name: stopped, state: Paused, vcpus: 1, template: small}
  - name: second
"""


def write(tmp_path, text):
    path = tmp_path / "inventory.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


@pytest.fixture
def pools(tmp_path):
    """Clients of the two pools that the whole example describes."""
    plans = read(write(tmp_path, WHOLE))
    sim = Simulator(
        tmp_path / "state",
        plans=plans,
        hosts=3,
        compute_vm=False,
        behaviour=Behaviour(),
    )
    yield [XmlClient(sim.door(number)) for number in (0, 2)]
    sim.close()


def named(client, cls, name):
    (ref,) = client.call(f"{cls}.get_by_name_label", name)
    return client.call(f"{cls}.get_record", ref)


def test_hosts_and_pools_are_named_and_counted(pools):
    lab, second = pools
    for client, name, hosts in ((lab, "lab", 2), (second, "second", 3)):
        (pool,) = client.call("pool.get_all_records").values()
        assert pool["name_label"] == name
        assert len(client.call("host.get_all")) == hosts
    big = named(lab, "host", "big-01")
    assert (big["hostname"], big["cpu_info"]["cpu_count"]) == ("big-01", "32")
    assert len(big["host_CPUs"]) == 32
    total = lab.call("host_metrics.get_memory_total", big["metrics"])
    assert int(total) == 256 * GIB
    (pool,) = lab.call("pool.get_all_records").values()
    assert pool["cpu_info"]["cpu_count"] == "32"
    assert len(named(lab, "host", "big-02")["host_CPUs"]) == 8


def test_networks_reach_all_hosts(pools):
    storage = named(pools[0], "network", "storage")
    assert int(storage["MTU"]) == 9000
    pifs = [pools[0].call("PIF.get_record", pif) for pif in storage["PIFs"]]
    assert [int(pif["VLAN"]) for pif in pifs] == [7, 7]
    integration = named(pools[0], "network", "integration")
    assert (integration["bridge"], integration["managed"]) == ("br-x", False)


def test_srs_are_connected(pools):
    shared, fast = (named(pools[0], "SR", name) for name in ("shared", "fast"))
    assert (shared["shared"], len(shared["PBDs"])) == (True, 2)
    assert int(shared["physical_size"]) == 2 * 1024 * GIB
    assert (fast["shared"], len(fast["PBDs"])) == (False, 1)
    assert int(fast["physical_size"]) == 400 * GIB
    (pool,) = pools[0].call("pool.get_all_records").values()
    assert pools[0].call("SR.get_name_label", pool["default_SR"]) == "shared"
    pbd = pools[0].call("PBD.get_record", fast["PBDs"][0])
    assert pools[0].call("host.get_name_label", pbd["host"]) == "big-02"


def test_vms_are_as_they_should_be(pools):
    client = pools[0]
    for name in ("web-1", "web-2", "web-3"):
        web = named(client, "VM", name)
        assert web["power_state"] == "Running"
        assert (web["is_a_template"], sorted(web["tags"])) == (False, ["a", "b"])
        assert int(web["memory_static_max"]) == GIB * 3 // 2
        assert web["VCPUs_max"] == "2"
        assert web["HVM_boot_params"]["firmware"] == "uefi"
    db = named(client, "VM", "db")
    assert db["power_state"] == "Suspended"
    assert db["other_config"]["owner"] == "somebody"
    assert client.call("host.get_name_label", db["affinity"]) == "big-01"
    disks = [client.call("VBD.get_VDI", vbd) for vbd in db["VBDs"]]
    sizes = sorted(int(client.call("VDI.get_virtual_size", vdi)) for vdi in disks)
    assert sizes == [GIB, 2 * GIB]
    networks = {client.call("VIF.get_network", vif) for vif in db["VIFs"]}
    labels = {client.call("network.get_name_label", ref) for ref in networks}
    assert labels == {"Pool-wide network 0", "storage"}
    stopped = named(client, "VM", "stopped")
    assert (stopped["power_state"], stopped["VCPUs_max"]) == ("Paused", "1")


def test_the_second_pool_is_fresh(pools):
    vms = pools[1].call("VM.get_all_records").values()
    assert all(vm["is_a_template"] or vm["is_control_domain"] for vm in vms)
    assert pools[1].call("session.get_all_subject_identifiers") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pols: []", "pols is no key; known here are name,"),
        ("- a\n- b", "must hold a map of keys"),
        ("pools: {}", "pools must be a list"),
        ("pools: [3]", "pools[0] must be a map of name,"),
        ("pools: []\nvms: []", "vms must stand in one of the pools"),
        ("hosts: many", "hosts must be a number from 1 to 1000, not 'many'"),
        ("hosts: 0", "hosts must be a number from 1 to 1000"),
        ("hosts: []", "hosts must be a number from 1 to 1000"),
        ("hosts: [{cpus: true}]", "hosts[0].cpus must be a number from 1 to 4096"),
        ("networks: [{vlan: 7}]", "networks[0].name is missing"),
        ("networks: [{name: n, vlan: 5000}]", "networks[0].vlan must be a number"),
        ("networks: [{name: n, managed: 1}]", "networks[0].managed must be true or"),
        ("srs: [{name: s, type: zfs}]", "srs[0].type must be one of ext, nfs, lvm,"),
        ("srs: [{name: s, size: 8 GB}]", "srs[0].size must be bytes or a number with"),
        ("vms: [{name: v, size: 3}]", "vms[0].size is no key; known here are name,"),
        ("vms: [{name: v, count: -1}]", "vms[0].count must be a number from 0"),
        ("vms: [{name: v, state: off}]", "vms[0].state must be one of halted,"),
        ("vms: [{name: v, disks: [x]}]", "vms[0].disks[0] must be bytes or"),
        ("vms: [{name: v, disks: [{sr: x}]}]", "vms[0].disks[0].size is missing"),
        ("vms: [{name: v, other_config: [a]}]", "vms[0].other_config must be a map"),
        ("vms: [{name: [v]}]", "vms[0].name must be a text"),
        ("pools:\n- vms: [{}]", "pools[0].vms[0].name is missing"),
        ("a: [", "this is no YAML in line"),
        ("name: 2026-02-30", "this is no YAML"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(InventoryRefused) as refusal:
        read(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert said in str(refusal.value)
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InventoryRefused, match="nowhere.yaml: No such file"):
        read(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vms: [{name: v, template: none}]", "vms[0].template: there is no VM 'none'."),
        ("vms: [{name: v, host: none}]", "vms[0].host: there is no host 'none'."),
        ("vms: [{name: v, networks: [x]}]", "vms[0].networks: there is no network 'x'"),
        (
            "vms: [{name: v, memory: 1 TiB, state: running}]",
            "vms[0]: VM.start answers NO_HOSTS_AVAILABLE.",
        ),
        (
            "networks: [{name: n, vlan: 7, device: eth9}]",
            "networks[0].device: no host has a NIC 'eth9'.",
        ),
        (
            "networks: [{name: n, bridge: xenbr0}]",
            "networks[0]: network.create answers INVALID_VALUE",
        ),
        ("pools: [{}, {srs: [{name: s, host: x}]}]", "pools[1].srs[0].host: there is"),
    ],
)
def test_what_a_host_refuses_is_named(tmp_path, text, said):
    with pytest.raises(InventoryRefused) as refusal:
        Simulator(tmp_path / "state", plans=read(write(tmp_path, text)))
    assert said in str(refusal.value)


def test_counts_fill_what_the_file_leaves_open():
    plans = parse({"pools": [{"name": "a"}, {"name": "b", "hosts": 4}]})
    filled = with_counts(plans, 3, 2)
    assert [(plan.name, len(plan.hosts)) for plan in filled] == [
        ("a", 2),
        ("b", 4),
        ("", 2),
    ]
    assert len(with_counts(plans, 1, 1)) == 2
    assert with_counts((), 1, 1) == (
        inventory_file.PoolPlan(hosts=filled[0].hosts[:1]),
    )


def test_an_empty_file_names_nothing(tmp_path):
    assert read(write(tmp_path, "# nothing\n")) == ()


def run(*arguments):
    command = [sys.executable, "-m", "xenapi_driver.sim", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_command_refuses_in_one_sentence(tmp_path):
    path = write(tmp_path, "vms: [{name: v, state: off}]")
    process = run("--inventory", str(path))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"{path}: vms[0].state must be one of")
    assert err.count("\n") == 1


def test_the_command_listens_for_each_host_of_the_file(tmp_path):
    path = write(tmp_path, "pools:\n- {hosts: 2}\n- vms: [{name: v, count: 2}]\n")
    process = run("--inventory", str(path), "--pools", "3")
    try:
        lines = [process.stdout.readline().split() for _ in range(4)]
        assert [" ".join(line[3:]) for line in lines] == [
            "",
            "host 2 of pool 1",
            "pool 2",
            "pool 3",
        ]
        second = type("Door", (), {"url": lines[2][2]})
        client = XmlClient(HttpSender(second, "/"))
        assert len(client.call("VM.get_by_name_label", "v-2")) == 1
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
