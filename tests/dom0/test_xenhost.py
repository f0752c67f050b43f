# SPDX-License-Identifier: Apache-2.0
"""The host's data, its power, its packet filter and its devices."""

import contextlib
import http.server
import json
import os
import threading
import time
import uuid
import xmlrpc.client

import pytest

from tests.dom0 import interpreters, plugin_functions, scratch_host, switches
from xenapi_driver.sim import Behaviour


def refused(host, code, fn, request):
    with pytest.raises(scratch_host.PluginFailed) as caught:
        host.call("xenhost", fn, request)
    assert caught.value.code == code, caught.value.params
    return caught.value.params


def refused_here(fn, request):
    """Return the refusal of what is refused before anything is looked at."""
    return plugin_functions.refusal(plugin_functions.load("xenhost"), fn, request)


# --- data -----------------------------------------------------------------------------


def test_a_host_s_data_has_the_names_it_always_had(host):
    data = host.call("xenhost", "host_data", {"host_uuid": host.sim.host_uuid})
    assert set(data) == {
        "enabled", "host_memory", "host_uuid", "host_name-label",
        "host_name-description", "host_hostname", "host_ip_address",
        "host_other-config", "host_capabilities", "host_cpu_info",
    }  # fmt: skip
    record = host.api.xenapi.host.get_record(host.host_ref)
    metrics = host.api.xenapi.host_metrics.get_record(record["metrics"])
    assert data["enabled"] is True
    assert data["host_uuid"] == record["uuid"]
    assert data["host_hostname"] == record["hostname"]
    assert data["host_ip_address"] == record["address"]
    assert data["host_other-config"] == record["other_config"]
    assert data["host_capabilities"] == record["capabilities"]
    assert data["host_memory"] == {
        "total": int(metrics["memory_total"]),
        "overhead": int(record["memory_overhead"]),
        "free": int(metrics["memory_free"]),
        "free-computed": int(host.api.xenapi.host.compute_free_memory(host.host_ref)),
    }
    cpus = data["host_cpu_info"]
    assert cpus["vendor"] == record["cpu_info"]["vendor"]
    assert cpus["cpu_count"] == int(record["cpu_info"]["cpu_count"])
    # Without a UUID it is the host that is asked.
    assert host.call("xenhost", "host_data", {})["host_uuid"] == data["host_uuid"]


def test_an_operator_s_fields_are_part_of_the_data(old_host):
    host = old_host
    assert host.call("xenhost", "get_config", {"key": "rack"}) is None
    host.call("xenhost", "set_config", {"key": "rack", "value": "R7 \u20ac"})
    host.call("xenhost", "set_config", {"key": "slots", "value": [1, {"a": None}]})
    assert host.call("xenhost", "get_config", {"key": "rack"}) == "R7 \u20ac"
    data = host.call("xenhost", "host_data", {})
    assert (data["rack"], data["slots"]) == ("R7 \u20ac", [1, {"a": None}])
    host.call("xenhost", "set_config", {"key": "rack", "value": None})
    host.call("xenhost", "set_config", {"key": "rack", "value": None})
    kept = json.loads((host.root / "usr/etc/xenhost.conf").read_text())
    assert kept == {"slots": [1, {"a": None}]}


def test_fields_that_are_set_at_once_are_all_kept(old_host):
    processes = [
        old_host.start_call("xenhost", "set_config", {"key": f"k{n}", "value": n})
        for n in range(8)
    ]
    for process in processes:
        scratch_host.answer(process.communicate(timeout=60)[0])
    folder = old_host.root / "usr/etc"
    kept = json.loads((folder / "xenhost.conf").read_text())
    assert kept == {f"k{n}": n for n in range(8)}
    assert os.listdir(folder) == ["xenhost.conf"]


def test_a_draft_of_a_killed_call_goes_with_the_next(old_host):
    folder = old_host.root / "usr/etc"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".xenhost.conf.killed").write_text("{")
    old_host.call("xenhost", "set_config", {"key": "a", "value": 1})
    assert os.listdir(folder) == ["xenhost.conf"]


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000, '"x"'])
def test_a_config_file_that_is_none_is_told(old_host, text):
    file = old_host.root / "usr/etc/xenhost.conf"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("latin-1"))
    for fn, request in (
        ("get_config", {"key": "a"}),
        ("set_config", {"key": "a", "value": 1}),
        ("host_data", {}),
    ):
        assert refused(old_host, "COMMAND_FAILED", fn, request)[0].endswith(".conf")
    assert file.read_bytes() == text.encode("latin-1")


def test_a_field_may_not_fill_the_disk(old_host):
    refused(
        old_host, "BAD_ARGUMENT", "set_config", {"key": "a", "value": "x" * 70_000}
    )
    deep = "[" * 600 + "]" * 600
    refused(old_host, "BAD_ARGUMENT", "set_config", f'{{"key": "a", "value": {deep}}}')
    assert old_host.call("xenhost", "get_config", {"key": "a"}) is None


def test_the_uptime_is_what_the_program_says(old_host):
    assert "load average" in old_host.call("xenhost", "host_uptime", {})["uptime"]


def test_a_host_that_is_none_is_told(old_host):
    request = {"host_uuid": str(uuid.uuid4())}
    for fn in ("host_data", "host_reboot", "host_shutdown", "host_start"):
        assert "UUID_INVALID" in refused(old_host, "XAPI_REFUSED", fn, request)


# --- power ----------------------------------------------------------------------------


@pytest.fixture
def boot(tmp_path):
    """Return a function that makes hosts whose power can be looked at."""
    made = []

    def make(**choices):
        python = interpreters.wanted("3.6")
        behaviour = Behaviour(shutdown_timeout=0.2, boot_time=5)
        made.append(
            scratch_host.ScratchHost(
                tmp_path / "host", python, behaviour=behaviour, **choices
            )
        )
        return made[0]

    yield make
    for one in made:
        one.close()


def test_a_host_is_disabled_and_enabled(old_host):
    host = old_host
    for enabled, status in ((False, "disabled"), ("true", "enabled")):
        request = {"host_uuid": host.sim.host_uuid, "enabled": enabled}
        answer = host.call("xenhost", "set_host_enabled", request)
        assert answer == {"status": status}
        now = host.api.xenapi.host.get_enabled(host.host_ref)
        assert now is (status == "enabled")
    refused(host, "BAD_ARGUMENT", "set_host_enabled", {"enabled": "yes"})
    refused(host, "BAD_ARGUMENT", "set_host_enabled", {"enabled": 1})


def running(host):
    """Return what runs, looked up in the simulator: a host that went says nothing."""
    return [
        row["uuid"]
        for _, row in host.sim.world.db.rows("VM")
        if row["power_state"] == "Running" and not row["is_control_domain"]
    ]


@pytest.mark.parametrize("action", ["reboot", "shutdown"])
def test_a_host_goes_after_its_guests(boot, action):
    host = boot()
    compute = host.sim.compute_vm_uuid
    assert running(host) == [compute]
    # A clone of nova-compute's VM stands for a guest.
    ref = host.api.xenapi.VM.get_by_uuid(compute)
    host.api.xenapi.VM.hard_shutdown(ref)
    other = host.api.xenapi.VM.clone(ref, "guest")
    guest = host.api.xenapi.VM.get_uuid(other)
    for vm in (ref, other):
        host.api.xenapi.VM.start(vm, False, False)
    machine = host.sim.machines.all[0]
    answer = host.call("xenhost", "host_" + action, {"compute_uuid": compute})
    assert answer == {"power_action": action}
    deadline = time.monotonic() + 20
    while machine.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not machine.running
    assert running(host) == []
    # Of the messages in their order: the one that asks went last.
    gone = [
        row["obj_uuid"]
        for _, row in host.sim.world.db.rows("message")
        if row["name"] == "VM_SHUTDOWN"
    ]
    assert gone[-2:] == [guest, compute]


def test_a_running_host_is_not_started(old_host):
    refused(old_host, "NOT_SUPPORTED", "host_start", {})


def test_a_host_joins_the_pool_and_nova_compute_runs_again(boot):
    host = boot(pools=2)
    other = host.sim.session(1)
    other.xenapi.login_with_password("root", "secret", "1.0", "test")
    (joining,) = other.xenapi.host.get_all_records().values()
    (compute,) = [
        record["uuid"] for record in other.xenapi.VM.get_all_records().values()
        if record["name_label"] == "nova-compute"
    ]
    door = host.sim.serve(machine=1)
    request = {
        "compute_uuid": compute,
        "url": door.url,
        "user": "root",
        "password": "secret",
        "force": "false",
        "master_addr": host.sim.machines.all[0].address,
        "master_user": "root",
        "master_pass": "wrong",
        "verify": None,
    }
    said = refused(host, "XAPI_REFUSED", "host_join", request)
    assert "SESSION_AUTHENTICATION_FAILED" in said
    # It is still its own pool, and what had to stop for it runs.
    vm = other.xenapi.VM.get_by_uuid(compute)
    assert other.xenapi.VM.get_power_state(vm) == "Running"
    assert host.call("xenhost", "host_join", dict(request, master_pass="secret")) == {}
    hosts = [row["uuid"] for row in host.api.xenapi.host.get_all_records().values()]
    assert joining["uuid"] in hosts
    assert compute in running(host)
    # A call that was killed after the join has the VM started by the next one.
    vm = host.api.xenapi.VM.get_by_uuid(compute)
    host.api.xenapi.VM.hard_shutdown(vm)
    assert host.call("xenhost", "host_join", dict(request, master_pass="secret")) == {}
    assert compute in running(host)


def test_a_joining_host_that_is_not_verified_or_not_there_is_told(boot):
    host = boot(pools=2)
    request = {
        "compute_uuid": str(uuid.uuid4()),
        "url": "http://127.0.0.1:9/",
        "user": "root",
        "password": "top-secret",
        "force": False,
        "master_addr": "127.0.0.1",
        "master_user": "root",
        "master_pass": "top-secret",
    }
    said = refused(host, "COMMAND_FAILED", "host_join", request)
    assert "top-secret" not in str(said)
    door = host.sim.serve(tls=True, machine=1)
    request["url"] = door.url
    said = refused(host, "COMMAND_FAILED", "host_join", request)
    request["verify"] = {"insecure": True}
    said = refused(host, "XAPI_REFUSED", "host_join", request)
    assert "SESSION_AUTHENTICATION_FAILED" in said
    for name, value in (
        ("url", "file:///etc/shadow"), ("url", "http://u:p@h/"), ("master_addr", "-x"),
        ("force", "maybe"), ("user", "a\nb"), ("verify", {"ca_file": "/etc/shadow2"}),
        ("more", 1),
    ):  # fmt: skip
        wrong = dict(request, **{name: value})
        said = refused(host, "BAD_ARGUMENT", "host_join", wrong)
        assert "top-secret" not in str(said)


@pytest.mark.parametrize("says", [
    b"<html>", xmlrpc.client.dumps(("x",), methodresponse=True).encode(),
    xmlrpc.client.dumps(({"Status": "Failure", "ErrorDescription": []},),
                        methodresponse=True).encode(),
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "b">]><methodResponse/>',
    b"<methodResponse>" + b" " * 5 * 1024 * 1024,
])  # fmt: skip
def test_a_joining_host_that_lies_is_told(old_host, says):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(says)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(says)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            said = refused(old_host, "COMMAND_FAILED", "host_join", {
                "compute_uuid": str(uuid.uuid4()), "force": False, "user": "root",
                "url": f"http://127.0.0.1:{server.server_port}/",
                "password": "top-secret", "master_addr": "127.0.0.1",
                "master_user": "root", "master_pass": "top-secret",
            })  # fmt: skip
        finally:
            server.shutdown()
            thread.join()
    assert said[0] == "ask the joining host for session.login_with_password"


def test_a_certificate_file_without_any_is_told(old_host):
    (old_host.root / "etc/no-ca.pem").write_text("nothing")
    said = refused(old_host, "BAD_ARGUMENT", "host_join", {
        "compute_uuid": str(uuid.uuid4()), "force": False, "user": "root",
        "url": "https://127.0.0.1:9/", "verify": {"ca_file": "/etc/no-ca.pem"},
        "password": "top-secret", "master_addr": "127.0.0.1",
        "master_user": "root", "master_pass": "top-secret",
    })  # fmt: skip
    assert said == ["verify", "the ca_file holds no certificates"]


# --- storage and PCI ------------------------------------------------------------------


def test_the_collector_is_asked_in_both_ways(old_host):
    request = {"sr_uuid": old_host.sr_uuid, "vdi_uuid": str(uuid.uuid4())}
    said = "#!/bin/sh\n[ $1 = -q ] && [ $3 = %s ] && echo Currently running: %s\n"
    for running_now in (True, False):
        old_host.wrap("cleanup.py", said % (old_host.sr_uuid, running_now))
        assert old_host.call("xenhost", "query_gc", request) is running_now
    (old_host.root / "usr/bin/cleanup.py").unlink()
    unit = "SMGC@" + old_host.sr_uuid.replace("-", "\\x2d") + ".service"
    for word, running_now in (("active", True), ("inactive", False)):
        script = f"#!/bin/sh\n[ \"$2\" = '{unit}' ] && echo {word}\nexit 3\n"
        old_host.wrap("systemctl", script)
        assert old_host.call("xenhost", "query_gc", request) is running_now
    refused(old_host, "BAD_ARGUMENT", "query_gc", {"sr_uuid": "x"})


@pytest.fixture
def devices(old_host):
    """A PF with two VFs and a plain device, as sysfs has them."""
    root = old_host.root / "sys/bus/pci/devices"
    for address in ("0000:00:02.0", "0000:04:00.0", "0000:04:10.0", "0000:04:10.1"):
        (root / address).mkdir(parents=True)
    for number in (0, 1):
        virtual = f"0000:04:10.{number}"
        os.symlink(f"../{virtual}", root / f"0000:04:00.0/virtfn{number}")
        os.symlink("../0000:04:00.0", root / virtual / "physfn")
    return old_host


def test_a_pci_device_s_type_is_what_sysfs_shows(devices):
    for address, kind in (
        ("0000:04:00.0", "type-PF"),
        ("04:00.0", "type-PF"),
        ("04:10.1", "type-VF"),
        ("0000:00:02.0", "type-PCI"),
    ):
        said = devices.call("xenhost", "get_pci_type", {"pci_device": address})
        assert said == kind
    vf = {"type": "type-VF", "physfn": "0000:04:00.0"}
    assert devices.call("xenhost", "get_pci_types", {}) == {
        "0000:00:02.0": {"type": "type-PCI", "physfn": None},
        "0000:04:00.0": {"type": "type-PF", "physfn": None},
        "0000:04:10.0": vf,
        "0000:04:10.1": vf,
    }
    refused(devices, "NOT_FOUND", "get_pci_type", {"pci_device": "05:00.0"})


@pytest.mark.parametrize("address", ["../../../etc", "0000:04:00.0/..", "", 7, "04:00"])
def test_an_address_that_is_none_is_refused(address):
    said = refused_here("get_pci_type", {"pci_device": address})
    assert said[:2] == ["BAD_ARGUMENT", "pci_device"]


def test_pci_details_are_what_lspci_prints(old_host):
    old_host.wrap("lspci", '#!/bin/sh\n[ "$*" = -vmmnk ] && echo "Slot:\t00:02.0"\n')
    said = old_host.call("xenhost", "get_pci_device_details", {})
    assert said == "Slot:\t00:02.0\n"


# --- the packet filter ----------------------------------------------------------------

FILTER = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:nova-compute-local - [0:0]
[7:9] -A INPUT -i lo -j ACCEPT
-A FORWARD -m physdev --physdev-in vif5.0 --physdev-is-bridged -j nova-compute-local
-A nova-compute-local -s 10.0.0.5 -p tcp -m tcp --dport 20:25 -j ACCEPT
-A nova-compute-local -p tcp -m tcp ! --tcp-flags SYN,RST,ACK SYN -j DROP
-A nova-compute-local -m limit --limit 5/min -j LOG --log-prefix "refused: "
COMMIT
"""


def test_a_whole_rule_set_is_restored_and_saved(host, tmp_path):
    with switches.network() as network:
        network.put_into(host)
        for version in ("iptables", "ip6tables"):
            text = FILTER if version == "iptables" else FILTER.replace(
                "-s 10.0.0.5", "-s fd00::5"
            )
            request = {
                "cmd_args": [version + "-restore", "-c"], "process_input": text,
            }  # fmt: skip
            said = host.call("xenhost", "iptables_config", request)
            assert said == {"out": "", "err": ""}
            request = {"cmd_args": [version + "-save", "-c", "-t", "filter"]}
            saved = host.call("xenhost", "iptables_config", request)["out"]
            assert "-A INPUT -i lo -j ACCEPT" in saved
            assert "[7:9]" in saved or version == "ip6tables"  # 1.8.9 forgets them
            assert ":FORWARD DROP" in saved
            assert '--log-prefix "refused: "' in network.run(version + "-save")
        request["cmd_args"] = ["iptables-restore"]
        request["process_input"] = "*filter\n-A nowhere -j ACCEPT\nCOMMIT\n"
        said = refused(host, "COMMAND_FAILED", "iptables_config", request)
        assert "line 2" in said[1]


@pytest.mark.parametrize(
    "words, text",
    [
        (["iptables", "-F"], None),
        (["ipset", "restore"], "x"),
        (["sh", "-c", "id"], None),
        (["iptables-save", "-f", "/tmp/x"], None),
        (["iptables-save", "-M", "/tmp/x"], None),
        (["iptables-save", "-cM/tmp/x"], None),
        (["iptables-restore", "--modprobe=/tmp/x"], "*filter\nCOMMIT\n"),
        (["iptables-restore", "--m=/tmp/x"], "*filter\nCOMMIT\n"),
        (["iptables-restore", "/tmp/x"], None),
        (["iptables-restore"], "*filter\n-A INPUT --modprobe=/tmp/x\nCOMMIT\n"),
        (["iptables-restore"], "*filter\n-A INPUT -vM/tmp/x\nCOMMIT\n"),
        (["iptables-restore"], "*filter\n-A INPUT -m ../../x\nCOMMIT\n"),
        (["iptables-save"], "*filter\nCOMMIT\n"),
    ],
)
def test_nothing_but_the_packet_filter_is_reached(words, text):
    request = {"cmd_args": words, "process_input": text}
    said = refused_here("iptables_config", request)
    assert said[0] == "NOT_PERMITTED"
    assert "/tmp/x" not in str(said)


# --- single commands of the network ---------------------------------------------------

PORT = "11111111-2222-3333-4444-555555555555"
QBR, QVB, QVO, TAP, VIF = (
    name + "11111111-22" for name in ("qbr", "qvb", "qvo", "tap", "vif")
)


@pytest.fixture
def step(old_host, tmp_path):
    """Return a function that carries out one command in a namespace with a switch."""
    with switches.switch(tmp_path / "switch") as switch:
        switch.put_into(old_host)
        switch.add_bridge("xapi5")
        switch.add_bridge("br-int")

        def run(cmd, **args):
            request = {"cmd": cmd, "args": args}
            return old_host.call("xenhost", "network_config", request)

        run.switch = switch
        run.host = old_host
        yield run


def test_a_port_is_wired_step_by_step(step):
    switch = step.switch
    step("brctl_add_br", bridge_name=QBR)
    step("brctl_set_fd", bridge_name=QBR, fd=2)
    step("brctl_set_stp", bridge_name=QBR, option="on")
    data = switch.links()[QBR]["linkinfo"]["info_data"]
    assert (data["forward_delay"], data["stp_state"]) == (200, 1)
    step("brctl_set_stp", bridge_name=QBR, option="off")
    step("brctl_set_fd", bridge_name=QBR, fd=0)
    data = switch.links()[QBR]["linkinfo"]["info_data"]
    assert (data["forward_delay"], data["stp_state"]) == (0, 0)
    step("ip_link_add_veth_pair", dev1_name=QVB, dev2_name=QVO)
    step("ip_link_set_dev", device_name=QVB, option="up")
    step("ip_link_set_promisc", device_name=QVB, option="on")
    step("brctl_add_if", bridge_name=QBR, interface_name=QVB)
    assert QVB in step("ip_link_get_dev", device_name=QVB)
    link = switch.links()[QVB]
    assert {"UP", "PROMISC"} <= set(link["flags"])
    assert link["master"] == QBR
    step("ovs_create_port", bridge="br-int", port=QVO, iface_id=PORT,
         mac="02:00:00:00:00:05", status="active")  # fmt: skip
    step("ovs_set_if_external_id", interface=QVO, extneral_id="note", value='a "b, c')
    assert switch.vsctl("get", "Interface", QVO, "external_ids:note") == '"a \\"b, c"'
    assert switch.vsctl("get", "Interface", QVO, "external_ids:iface-id") == f'"{PORT}"'
    step("ovs_add_patch_port", bridge_name="xapi5", port_name=VIF, peer_port_name=TAP)
    step("ovs_add_patch_port", bridge_name="br-int", port_name=TAP, peer_port_name=VIF)
    assert switch.vsctl("list-ports", "xapi5") == VIF
    assert switch.vsctl("get", "Interface", TAP, "options:peer") == VIF
    step("ovs_del_port", bridge_name="br-int", port_name=TAP)
    step("ovs_del_port", bridge_name="br-int", port_name=TAP)
    step("ovs_add_port", bridge_name="br-int", port_name=QVO)
    assert switch.vsctl("list-ports", "br-int") == QVO
    step("ovs_del_br", bridge_name="xapi5")
    step("ovs_del_br", bridge_name="xapi5")
    assert switch.vsctl("list-br") == "br-int"
    step("brctl_del_if", bridge_name=QBR, interface_name=QVB)
    assert "master" not in switch.links()[QVB]
    step("ip_link_del_dev", device_name=QVB)
    step("brctl_del_br", bridge_name=QBR)
    assert not {QBR, QVB, QVO} & set(switch.links())
    request = {"cmd": "ip_link_get_dev", "args": {"device_name": QVB}}
    said = refused(step.host, "NOT_FOUND", "network_config", request)
    assert said == ["the device " + QVB]


def test_a_bridge_with_other_ports_stays(step):
    step.switch.guest("vif5.0", "02:00:00:00:00:01")
    step.switch.vsctl("add-port", "xapi5", "vif5.0")
    request = {"cmd": "ovs_del_br", "args": {"bridge_name": "xapi5"}}
    refused(step.host, "NOT_PERMITTED", "network_config", request)
    assert "xapi5" in step.switch.vsctl("list-br")


FOREIGN = [
    ("ip_link_del_dev", {"device_name": "eth0"}),
    ("ip_link_del_dev", {"device_name": "vif5.0"}),
    ("ip_link_del_dev", {"device_name": "xenbr0"}),
    ("ip_link_del_dev", {"device_name": "qvo-anything"}),
    ("ip_link_set_dev", {"device_name": "xenbr0", "option": "down"}),
    ("ip_link_set_promisc", {"device_name": "eth0", "option": "on"}),
    ("ip_link_add_veth_pair", {"dev1_name": QVB, "dev2_name": "eth7"}),
    ("ovs_add_port", {"bridge_name": "br-int", "port_name": "eth0"}),
    ("ovs_del_port", {"bridge_name": "xenbr0", "port_name": "eth0"}),
    ("ovs_add_patch_port",
     {"bridge_name": "br-int", "port_name": QVO, "peer_port_name": "eth0"}),
    ("ovs_create_port", {"bridge": "br-int", "port": "eth0", "iface-id": PORT,
                         "mac": "02:00:00:00:00:05", "status": "active"}),
    ("ovs_set_if_external_id",
     {"interface": "eth0", "extneral_id": "iface-id", "value": "x"}),
    ("brctl_del_br", {"bridge_name": "xenbr0"}),
    ("ovs_del_br", {"bridge_name": "xenbr0"}),
    ("ovs_del_br", {"bridge_name": "br-int"}),
    ("brctl_add_br", {"bridge_name": QVO}),
    ("brctl_add_if", {"bridge_name": QBR, "interface_name": "eth0"}),
    ("brctl_add_if", {"bridge_name": "xenbr0", "interface_name": QVB}),
]  # fmt: skip


@pytest.mark.parametrize("cmd, args", FOREIGN)
def test_other_devices_than_a_port_s_are_not_touched(cmd, args):
    said = refused_here("network_config", {"cmd": cmd, "args": args})
    assert said[0] == "NOT_PERMITTED"


@pytest.mark.parametrize(
    "request_",
    [
        {"cmd": "ip_netns_exec", "args": {}},
        {"cmd": "ip_link_get_dev"},
        {"cmd": "ip_link_get_dev", "args": []},
        {"cmd": "ip_link_get_dev", "args": {}},
        {"cmd": "ip_link_get_dev", "args": {"device_name": "-batch"}},
        {"cmd": "ip_link_get_dev", "args": {"device_name": "a b"}},
        {"cmd": "ip_link_get_dev", "args": {"device_name": QVO, "more": 1}},
        {"cmd": "ip_link_set_dev", "args": {"device_name": QVO, "option": "name"}},
        {"cmd": "brctl_set_fd", "args": {"bridge_name": QBR, "fd": "0; id"}},
        {"cmd": "ovs_set_if_external_id",
         "args": {"interface": QVO, "external_id": "a", "value": "b"}},
        {"cmd": "ovs_set_if_external_id",
         "args": {"interface": QVO, "extneral_id": "a=b type=x", "value": "b"}},
        {"cmd": "ovs_set_if_external_id",
         "args": {"interface": QVO, "extneral_id": "a", "value": "b\n"}},
        {"cmd": ["ip_link_get_dev"], "args": {}},
    ],
)  # fmt: skip
def test_commands_that_are_none_are_refused(request_):
    assert refused_here("network_config", request_)[0] == "BAD_ARGUMENT"
