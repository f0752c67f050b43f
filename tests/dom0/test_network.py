# SPDX-License-Identifier: Apache-2.0
"""A VIF is connected to the integration bridge, judged by what gets through."""

import uuid

import pytest

from tests.dom0 import plugin_functions, scratch_host, switches

PORT = "11111111-2222-3333-4444-555555555555"
MAC = "02:00:00:00:00:05"
VM = "99999999-8888-7777-6666-555555555555"
NAMES = [name + "11111111-22" for name in ("qbr", "qvb", "qvo", "tap", "vif")]
QBR, QVB, QVO, TAP, VIF = NAMES
REQUEST = {
    "port_id": PORT,
    "mac": MAC,
    "vm_uuid": VM,
    "bridge": "xapi5",
    "integration_bridge": "br-int",
    "mtu": 1400,
    "hybrid": True,
    "devices": ["vif5.0", "tap5.0"],
}


@pytest.fixture
def switch(tmp_path):
    with switches.switch(tmp_path / "switch") as one:
        one.add_bridge("xapi5")
        one.add_bridge("br-int")
        yield one


@pytest.fixture
def wired(host, switch):
    """The host with its programs in the switch's namespace."""
    switch.put_into(host)
    return host


@pytest.fixture
def old_wired(old_host, switch):
    switch.put_into(old_host)
    return old_host


def two_guests(switch):
    """Return a guest on the interim bridge and one on the integration bridge."""
    guests = []
    for bridge, device, mac in (
        ("xapi5", "vif5.0", MAC),
        ("br-int", "far", "02:00:00:00:00:06"),
    ):
        guest = switch.guest(device, mac)
        guest.address(f"10.0.0.{mac[-1]}/24", f"fd00::{mac[-1]}/64")
        switch.vsctl("add-port", bridge, device)
        guests.append(guest)
    return guests


def state(switch):
    """Return what a wiring consists of, without numbers that every run has anew."""
    links = switch.links()
    found = {}
    for name in NAMES:
        if name not in links:
            continue
        link = links[name]
        data = link.get("linkinfo", {}).get("info_data", {})
        found[name] = {
            "kind": link.get("linkinfo", {}).get("info_kind"),
            "peer": link.get("link"),
            "master": link.get("master"),
            "mtu": link["mtu"],
            "up": "UP" in link["flags"],
            "delay": data.get("forward_delay"),
            "stp": data.get("stp_state"),
        }
    for bridge in ("xapi5", "br-int"):
        ports = switch.vsctl("list-ports", bridge).split()
        found[bridge] = [name for name in ports if name in NAMES]
    return found


HYBRID = {
    QBR: {"kind": "bridge", "peer": None, "master": None, "mtu": 1400, "up": True,
          "delay": 0, "stp": 0},
    QVB: {"kind": "veth", "peer": QVO, "master": QBR, "mtu": 1400, "up": True,
          "delay": None, "stp": None},
    QVO: {"kind": "veth", "peer": QVB, "master": None, "mtu": 1400, "up": True,
          "delay": None, "stp": None},
    TAP: {"kind": "veth", "peer": VIF, "master": QBR, "mtu": 1400, "up": True,
          "delay": None, "stp": None},
    VIF: {"kind": "veth", "peer": TAP, "master": None, "mtu": 1400, "up": True,
          "delay": None, "stp": None},
    "xapi5": [VIF],
    "br-int": [QVO],
}  # fmt: skip
NOTHING = {"xapi5": [], "br-int": []}


def ids(switch, name):
    listed = switch.vsctl("--format=json", "get", "Interface", name, "external_ids")
    return dict(
        pair.split("=", 1) for pair in listed.strip("{}").replace('"', "").split(", ")
    )


def test_a_hybrid_plug_carries_traffic_until_it_is_removed(wired, switch):
    near, _far = two_guests(switch)
    assert not near.reaches("10.0.0.6", within=0)
    said = wired.call("network", "wire", REQUEST)
    assert set(NAMES) <= set(said["changed"])
    assert state(switch) == HYBRID
    assert ids(switch, QVO) == {
        "iface-id": PORT,
        "iface-status": "active",
        "attached-mac": MAC,
        "vm-uuid": VM,
        "xs-vif-uuid": PORT,
    }
    assert switch.links()["vif5.0"]["mtu"] == 1400
    assert near.reaches("10.0.0.6")
    assert near.reaches("fd00::6")
    removed = wired.call("network", "unwire", {"port_id": PORT, "bridge": "xapi5"})
    assert set(removed["changed"]) == set(NAMES)
    assert state(switch) == NOTHING
    assert not near.reaches("10.0.0.6", within=0)
    again = wired.call("network", "unwire", {"port_id": PORT, "bridge": "xapi5"})
    assert again == {"changed": []}


def test_neutron_s_filter_on_the_linux_bridge_sees_the_traffic(old_wired, switch):
    near, _far = two_guests(switch)
    old_wired.call("network", "wire", REQUEST)
    assert near.reaches("10.0.0.6")
    rule = ["FORWARD", "-m", "physdev", "--physdev-in", TAP, "-p", "icmp", "-j", "DROP"]
    switch.run("sysctl", "-w", "net.bridge.bridge-nf-call-iptables=1")
    switch.run("iptables", "-A", *rule)
    assert not near.reaches("10.0.0.6", within=0)
    assert near.reaches("fd00::6")


def test_what_is_right_is_left_alone(old_wired, switch):
    two_guests(switch)
    old_wired.call("network", "wire", REQUEST)
    before = {name: switch.links()[name]["ifindex"] for name in NAMES}
    rows = switch.vsctl("get", "Interface", QVO, "_uuid", "ofport")
    assert old_wired.call("network", "wire", REQUEST) == {"changed": []}
    assert before == {name: switch.links()[name]["ifindex"] for name in NAMES}
    assert rows == switch.vsctl("get", "Interface", QVO, "_uuid", "ofport")


DAMAGES = {
    "the bridge has a spanning tree": [
        ["ip", "link", "set", QBR, "type", "bridge", "forward_delay", "300"],
        ["ip", "link", "set", QBR, "type", "bridge", "stp_state", "1"],
    ],
    "a device is down": [["ip", "link", "set", QVB, "down"]],
    "a device left the bridge": [["ip", "link", "set", TAP, "nomaster"]],
    "the mtu is another": [["ip", "link", "set", QBR, "mtu", "1300"]],
    "a pair is gone": [["ip", "link", "del", QVO]],
    "the bridge is gone": [["ip", "link", "del", QBR]],
    "qbr is no bridge": [
        ["ip", "link", "del", QBR],
        ["ip", "link", "add", QBR, "type", "veth", "peer", "name", "x"],
    ],
    "one end is of another pair": [
        ["ip", "link", "del", VIF],
        ["ip", "link", "add", VIF, "type", "veth", "peer", "name", "x"],
    ],
    "the port is in the other bridge": [
        ["ovs-vsctl", "del-port", QVO, "--", "add-port", "xapi5", QVO],
    ],
    "the ids are gone": [["ovs-vsctl", "clear", "Interface", QVO, "external_ids"]],
    "all devices are gone, as after a host's restart": [
        ["ip", "link", "del", QBR], ["ip", "link", "del", QVO],
        ["ip", "link", "del", TAP],
    ],
}  # fmt: skip


def test_what_is_damaged_is_put_right(old_wired, switch):
    near, _far = two_guests(switch)
    old_wired.call("network", "wire", REQUEST)
    for damage, commands in DAMAGES.items():
        for command in commands:
            database = [f"--db={switch.database}"] if command[0] == "ovs-vsctl" else []
            switch.run(command[0], *database, *command[1:])
        if damage != "the ids are gone":
            assert state(switch) != HYBRID, damage
        assert old_wired.call("network", "wire", REQUEST)["changed"], damage
        assert state(switch) == HYBRID, damage
        assert ids(switch, QVO)["iface-id"] == PORT, damage
        switch.run("ip", "link", "del", "x", check=False)
        assert near.reaches("10.0.0.6"), damage


def test_no_other_interface_keeps_the_port_s_id(old_wired, switch):
    two_guests(switch)
    switch.vsctl("set", "Interface", "vif5.0", f"external_ids:iface-id={PORT}")
    old_wired.call("network", "wire", REQUEST)
    found = switch.vsctl(
        "--bare", "--columns=name", "find", "Interface", f"external_ids:iface-id={PORT}"
    )
    assert found == QVO


def test_without_the_hybrid_plug_the_switches_are_patched(wired, switch):
    near, _far = two_guests(switch)
    request = dict(REQUEST, hybrid=False)
    wired.call("network", "wire", request)
    assert state(switch) == {"xapi5": [VIF], "br-int": [TAP]}
    assert ids(switch, TAP)["iface-id"] == PORT
    assert near.reaches("10.0.0.6")
    assert wired.call("network", "wire", request) == {"changed": []}
    # And from one kind to the other and back.
    wired.call("network", "wire", REQUEST)
    assert state(switch) == HYBRID
    assert near.reaches("10.0.0.6")
    wired.call("network", "wire", request)
    assert near.reaches("10.0.0.6")
    wired.call("network", "unwire", {"port_id": PORT})
    assert state(switch) == NOTHING


def test_a_bridge_that_only_our_port_kept_goes_with_it(old_wired, switch):
    old_wired.call("network", "wire", REQUEST)
    old_wired.call("network", "unwire", {"port_id": PORT, "bridge": "xapi5"})
    assert switch.vsctl("list-br") == "br-int"
    # Another one than an interim network's stays, also when it is empty.
    old_wired.call("network", "unwire", {"port_id": PORT, "bridge": "br-int"})
    assert switch.vsctl("list-br") == "br-int"


def test_dom0_itself_stays_out_of_a_tenant_s_network(old_wired, switch):
    two_guests(switch)
    old_wired.call("network", "wire", REQUEST)
    for name in NAMES:
        assert "inet6" not in switch.run("ip", "addr", "show", "dev", name)


@pytest.mark.parametrize("hybrid", [True, False])
def test_a_kill_at_any_program_is_made_good_by_the_next_call(
    old_wired, switch, hybrid, tmp_path
):
    """The plugin is killed as it starts its first program, its second and so on."""
    request = dict(REQUEST, hybrid=hybrid)
    old_wired.call("network", "wire", request)
    whole = state(switch)
    calls = {"unwire": ({"port_id": PORT}, NOTHING), "wire": (request, whole)}
    kills = dict.fromkeys(calls, 0)
    at = 0
    done = set()
    while at < 40 and len(done) < 2:
        for fn, (asked, end) in calls.items():
            if fn not in done:
                killing(old_wired, tmp_path / "count", at)
                process = old_wired.start_call("network", fn, asked)
                process.communicate(timeout=60)
                switch.put_into(old_wired)
                if process.returncode == 0:
                    done.add(fn)
                kills[fn] += process.returncode == -9
            old_wired.call("network", fn, asked)
            assert state(switch) == end, (fn, at)
        at += 1
    assert kills["wire"] > kills["unwire"] >= 3


def killing(host, count, at):
    """Have the plugin killed by the program that it starts as number ``at``."""
    count.write_text("")
    for name in ("ip", "ovs-vsctl", "sysctl"):
        file = host.root / "usr/bin" / name
        inner = file.read_text().replace("#!/bin/sh\n", "")
        host.wrap(
            name,
            f"#!/bin/sh\n[ $(wc -c < {count}) -eq {at} ] && kill -9 $PPID && exit 1\n"
            f"echo -n x >> {count}\n{inner}",
        )


def test_calls_at_once_end_in_the_same_state(old_wired, switch):
    other = dict(REQUEST, port_id=str(uuid.uuid4()), mac="02:00:00:00:00:07")
    processes = [
        old_wired.start_call("network", "wire", request)
        for request in (REQUEST, other, REQUEST, other)
    ]
    answers = [
        scratch_host.answer(process.communicate(timeout=100)[0])
        for process in processes
    ]
    assert state(switch) == HYBRID
    # One of two did all the work.
    assert sorted(len(answer["changed"]) for answer in answers) == [0, 0, 5, 5]
    processes = [
        old_wired.start_call("network", fn, request)
        for fn, request in (("unwire", {"port_id": PORT}), ("wire", REQUEST)) * 2
    ]
    for process in processes:
        scratch_host.answer(process.communicate(timeout=100)[0])
    assert state(switch) in (HYBRID, NOTHING)


def refused(host, code, fn, request):
    with pytest.raises(scratch_host.PluginFailed) as caught:
        host.call("network", fn, request)
    assert caught.value.code == code
    return caught.value.params


@pytest.mark.parametrize(
    "name, value",
    [
        ("port_id", "11111111-2222-3333-4444-55555555555"),
        ("port_id", "../../../../etc/passwd"),
        ("port_id", None),
        ("mac", "02:00:00:00:00"),
        ("mac", "03:00:00:00:00:05"),
        ("mac", "02:00:00:00:00:05\n"),
        ("vm_uuid", "x"),
        ("vm_uuid", 'a" external-ids:iface-id="b'),
        ("bridge", "xapi5 -- del-br xenbr0"),
        ("bridge", "--db=tcp:1.2.3.4:6640"),
        ("bridge", "-v"),
        ("bridge", "br-int"),
        ("bridge", "x" * 16),
        ("bridge", ["xapi5"]),
        ("integration_bridge", "../br"),
        ("integration_bridge", ""),
        ("mtu", 67),
        ("mtu", 65536),
        ("mtu", "1500; id"),
        ("hybrid", "yes"),
        ("devices", ["eth0"]),
        ("devices", ["vif5.0", "xenbr0"]),
        ("devices", ["-batch"]),
        ("devices", "vif5.0"),
        ("devices", ["vif5.0"] * 5),
        ("more", 1),
    ],
)
def test_arguments_that_are_none_are_refused(name, value):
    network = plugin_functions.load("network")
    request = dict(REQUEST, **{name: value})
    code, *params = plugin_functions.refusal(network, "wire", request)
    assert code == "BAD_ARGUMENT"
    assert params[0] == name
    assert str(value) not in params[1] or not str(value)


def test_a_bridge_that_the_host_has_not_made_is_told(old_wired, switch):
    for name in ("bridge", "integration_bridge"):
        request = dict(REQUEST, **{name: "xapi77"})
        said = refused(old_wired, "NOT_FOUND", "wire", request)
        assert said == ["the Open vSwitch bridge xapi77"]
    assert state(switch) == NOTHING


def test_another_port_s_devices_are_not_taken(old_wired, switch):
    old_wired.call("network", "wire", REQUEST)
    similar = PORT[:-4] + "0000"
    request = dict(REQUEST, port_id=similar)
    refused(old_wired, "NOT_PERMITTED", "wire", request)
    refused(old_wired, "NOT_PERMITTED", "unwire", {"port_id": similar})
    assert state(switch) == HYBRID


def test_a_switch_that_does_not_answer_is_told(old_wired, switch):
    old_wired.wrap("ovs-vsctl", "#!/bin/sh\nkill -14 $$\n")
    assert refused(old_wired, "TIMED_OUT", "wire", REQUEST)[1] == "30"
    old_wired.wrap("ovs-vsctl", "#!/bin/sh\necho no database >&2\nexit 1\n")
    assert "no database" in refused(old_wired, "COMMAND_FAILED", "wire", REQUEST)[1]


def test_a_dom0_without_linux_bridges_is_told(old_wired, switch):
    real = (old_wired.root / "usr/bin/ip").read_text()
    old_wired.wrap(
        "ip",
        '#!/bin/sh\ncase "$*" in *"type bridge"*)\n'
        'echo "RTNETLINK answers: Operation not supported" >&2; exit 2;; esac\n' + real,
    )
    assert refused(old_wired, "NOT_SUPPORTED", "wire", REQUEST)[0] == "Linux bridges"
