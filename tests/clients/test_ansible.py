# SPDX-License-Identifier: Apache-2.0
"""Ansible's ``community.general.xenserver_*`` modules: asked twice, done once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.clients.conftest import absent
from tests.clients.host_process import started

GIB = 1 << 30
MIB = 1 << 20
TEMPLATE = "Debian Bookworm 12"
MAC = "aa:bb:cc:00:11:22"


class Ansible:
    """Runs one module on this machine, and returns what it answered."""

    def __init__(self, environment, host, home):
        self.bin = environment / "bin"
        self.environ = {
            **os.environ,
            "HOME": str(home),
            "ANSIBLE_HOME": str(home / "ansible"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "XENSERVER_HOST": host.url,
            "XENSERVER_USER": "root",
            "XENSERVER_PASSWORD": "secret",
            "XENSERVER_VALIDATE_CERTS": "false",
        }

    def __call__(self, module, *options, around=(), **arguments):
        """Run a module; its answer has ``changed``, and ``failed`` if it did.

        :param around: a command that runs the command
        """
        command = [self.bin / "ansible", "localhost", "--connection=local"]
        command += ["-e", f"ansible_python_interpreter={self.bin}/python", *options]
        command += ["-m", f"community.general.{module}"]
        command += ["-a", json.dumps(arguments)] if arguments else []
        done = subprocess.run(
            [*around, *command],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "=> {" in done.stdout, done.stdout + done.stderr
        answer = json.loads("{" + done.stdout.partition("=> {")[2])
        return {**answer, "failed": done.returncode != 0}

    def guest(self, *options, **arguments):
        return self("xenserver_guest", *options, **arguments)

    def power(self, name, state):
        return self("xenserver_guest_powerstate", name=name, state=state)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """A host that the tests of this module share: each has names of its own."""
    with started(tmp_path_factory.mktemp("ansible") / "host", "--tls") as process:
        yield process


@pytest.fixture(scope="module")
def ansible(environment, host, tmp_path_factory):
    return Ansible(environment("ansible"), host, tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def network(host):
    (pif,) = host.records("PIF", management=True)
    return host.record("network", ref=pif["network"])["name_label"]


def wanted(name, network, **changes):
    """Return what a playbook says of a server."""
    about = {
        "name": name,
        "template": TEMPLATE,
        "disks": [{"size_gb": 2, "name": f"{name} root"}],
        "networks": [{"name": network, "mac": MAC}],
        "hardware": {"num_cpus": 2, "memory_mb": 1024},
        "state": "poweredon",
    }
    return {**about, **changes}


def disks_of(host, vm):
    """Return name and size of a VM's disks, in the order of their positions."""
    drives = host.records("VBD", VM=vm["ref"], type="Disk")
    found = {record["ref"]: record for record in host.records("VDI")}
    drives.sort(key=lambda drive: int(drive["userdevice"]))
    return [
        (found[drive["VDI"]]["name_label"], found[drive["VDI"]]["virtual_size"])
        for drive in drives
    ]


def test_server_is_made_changed_and_removed(ansible, host, network):
    about = wanted("web-1", network)
    made = ansible.guest(**about)
    assert (made["failed"], made["changed"]) == (False, True), made
    vm = host.record("VM", name_label="web-1")
    assert vm["power_state"] == "Running"
    assert (vm["VCPUs_max"], vm["memory_static_max"]) == (2, GIB)
    assert disks_of(host, vm) == [("web-1 root", 2 * GIB)]
    (vif,) = host.records("VIF", VM=vm["ref"])
    assert (vif["MAC"], vif["currently_attached"]) == (MAC, True)

    again = ansible.guest(**about)
    assert (again["failed"], again["changed"]) == (False, False), again
    assert again["instance"]["uuid"] == vm["uuid"]
    assert host.record("VM", name_label="web-1") == vm

    about["state"] = "present"
    about["hardware"] = {"num_cpus": 4, "memory_mb": 2048}
    about["disks"] = [
        {"size_gb": 3, "name": "web-1 root"},
        {"size_mb": 512, "name": "web-1 data"},
    ]
    about["networks"] = [*about["networks"], {"name": network}]
    refused = ansible.guest(**about)
    assert refused["failed"] and "powered off" in refused["msg"]
    assert host.record("VM", name_label="web-1") == vm
    changed = ansible.guest(**about, force=True)
    assert (changed["failed"], changed["changed"]) == (False, True), changed
    after = host.record("VM", name_label="web-1")
    assert after["uuid"] == vm["uuid"] and after["power_state"] == "Running"
    assert (after["VCPUs_max"], after["VCPUs_at_startup"]) == (4, 4)
    assert (after["memory_static_max"], after["memory_dynamic_max"]) == (2 * GIB,) * 2
    expected = [("web-1 root", 3 * GIB), ("web-1 data", 512 * MIB)]
    assert disks_of(host, after) == expected
    assert len(host.records("VIF", VM=vm["ref"], currently_attached=True)) == 2
    assert not ansible.guest(**about)["changed"]

    gone = ansible.guest(name="web-1", state="absent", force=True)
    assert (gone["failed"], gone["changed"]) == (False, True), gone
    assert host.records("VM", name_label="web-1") == []
    names = {record["name_label"] for record in host.records("VDI")}
    assert not {"web-1 root", "web-1 data"} & names
    assert host.records("VIF", MAC=MAC) == []
    again = ansible.guest(name="web-1", state="absent")
    assert (again["failed"], again["changed"]) == (False, False), again


def test_facts_are_the_hosts(ansible, host, network):
    ansible.guest(**wanted("facts", network, state="present", name_desc="seen"))
    vm = host.record("VM", name_label="facts")
    found = ansible("xenserver_guest_info", name="facts")
    about = found["instance"]
    assert not found["changed"]
    assert about["uuid"] == vm["uuid"]
    assert about["state"] == "poweredoff"
    assert about["name_desc"] == vm["name_description"] == "seen"
    assert about["hardware"]["memory_mb"] == 1024
    assert [disk["size"] for disk in about["disks"]] == [2 * GIB]
    assert [port["name"] for port in about["networks"]] == [network]
    missing = ansible("xenserver_guest_info", name="nobody")
    assert missing["failed"] and "not found" in missing["msg"]


@pytest.fixture
def server(ansible, host, network, request):
    """A running server of its own."""
    name = request.node.name
    made = ansible.guest(**wanted(name, network))
    assert not made["failed"], made
    return host.record("VM", name_label=name)


def test_power_states(ansible, host, server):
    name = server["name_label"]

    def become(state):
        answer = ansible.power(name, state)
        assert not answer["failed"], answer
        return answer["changed"], host.record("VM", uuid=server["uuid"])

    assert become("powered-on")[0] is False
    changed, vm = become("restarted")
    assert changed and vm["power_state"] == "Running"
    assert vm["domid"] != server["domid"]
    changed, vm = become("suspended")
    assert changed and vm["power_state"] == "Suspended"
    assert become("suspended")[0] is False
    changed, vm = become("powered-on")
    assert changed and vm["power_state"] == "Running"
    changed, vm = become("shutdown-guest")
    assert changed and vm["power_state"] == "Halted"
    refused = ansible.power(name, "reboot-guest")
    assert refused["failed"] and "poweredoff" in refused["msg"]
    assert become("powered-off")[0] is False


def test_guest_reboots(ansible, host, server):
    """The module waits for a task, looks at it and destroys it."""
    answer = ansible.power(server["name_label"], "reboot-guest")
    assert (answer["failed"], answer["changed"]) == (False, True), answer
    assert host.record("VM", uuid=server["uuid"])["domid"] != server["domid"]
    tasks = [task["name_label"] for task in host.records("task")]
    assert not [name for name in tasks if name.startswith("Async.")]


def test_server_of_ones_own_template(ansible, host, network):
    """A full copy and a linked clone of the same template."""
    made = ansible.guest(**wanted("golden", network, state="present"))
    assert not made["failed"], made
    turned = ansible.guest(name="golden", is_template=True)
    assert (turned["failed"], turned["changed"]) == (False, True), turned
    assert host.record("VM", name_label="golden")["is_a_template"]
    for name, linked in (("copied", False), ("linked", True)):
        made = ansible.guest(
            name=name, template="golden", linked_clone=linked, state="poweredon"
        )
        assert (made["failed"], made["changed"]) == (False, True), made
        vm = host.record("VM", name_label=name)
        assert vm["power_state"] == "Running" and not vm["is_a_template"]
        assert disks_of(host, vm) == [("golden root", 2 * GIB)]
        (vif,) = host.records("VIF", VM=vm["ref"])
        assert vif["MAC"] != MAC
    parents = [
        "vhd-parent" in record["sm_config"]
        for record in host.records("VDI", name_label="golden root", managed=True)
    ]
    # The template and its linked clone share what they have in common.
    assert sorted(parents) == [False, True, True]


def test_check_mode_changes_nothing(ansible, host, network):
    before = host.records("VM")
    answer = ansible.guest("--check", **wanted("never", network))
    assert (answer["failed"], answer["changed"]) == (False, True), answer
    assert host.records("VM") == before


def test_refusals_are_told(ansible, host, network):
    answer = ansible.guest(**wanted("never", network, template="none such"))
    assert answer["failed"] and "'none such' not found" in answer["msg"]
    assert host.records("VM", name_label="never") == []
    ansible.environ["XENSERVER_PASSWORD"] = "wrong"
    try:
        answer = ansible("xenserver_guest_info", name="facts")
    finally:
        ansible.environ["XENSERVER_PASSWORD"] = "secret"
    assert answer["failed"] and "SESSION_AUTHENTICATION_FAILED" in answer["msg"]


@pytest.fixture
def in_dom0(tmp_path):
    """A host, and the command that runs another where its socket is dom0's.

    ``xenserver_facts`` runs in dom0 and goes to /var/lib/xcp/xapi: a mount namespace
    has it there, and nothing on this machine changes.
    """
    lib = tmp_path / "lib"
    (lib / "xcp").mkdir(parents=True)
    shell = f'mount --bind "{lib}" /var/lib && exec "$@"'
    around = ["unshare", "--map-root-user", "--mount", "sh", "-c", shell, "sh"]
    if not shutil.which("unshare") or subprocess.run([*around, "true"]).returncode:
        absent("no mount namespace of one's own here (unshare --map-root-user)")
    options = ["--socket", str(lib / "xcp" / "xapi")]
    with started(tmp_path / "host", *options) as process:
        yield process, around


def test_facts_in_dom0(environment, in_dom0, tmp_path):
    """No password, XML-RPC over a unix socket."""
    host, around = in_dom0
    ansible = Ansible(environment("ansible"), host, tmp_path)
    facts = ansible("xenserver_facts", around=around)["ansible_facts"]
    for key, cls in (("xs_networks", "network"), ("xs_srs", "SR"), ("xs_vms", "VM")):
        records = {record["name_label"]: record for record in host.records(cls)}
        assert set(facts[key]) == set(records), cls
        for name, record in records.items():
            assert facts[key][name]["uuid"] == record["uuid"]
    pifs = {record["device"]: record["MAC"] for record in host.records("PIF")}
    assert {name: pif["MAC"] for name, pif in facts["xs_pifs"].items()} == pifs
