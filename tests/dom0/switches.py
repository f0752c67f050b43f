# SPDX-License-Identifier: Apache-2.0
"""A dom0's network in a namespace of its own: a real Open vSwitch, bridges, guests.

The switch's daemons, what they switch and every program that a plugin starts are in
one namespace; each guest is another one, whose ``eth0`` ends in the first. So frames
are sent and received for real, and nothing touches the machine's own network.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

REQUIRED = os.environ.get("REQUIRE_ROOT_PARTS") == "1"
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
IP = "/usr/sbin/ip"
# Started inside the namespace when a plugin names them.
NET_PROGRAMS = (
    "arptables", "conntrack", "ebtables", "ip", "ip6tables", "ip6tables-restore",
    "ip6tables-save", "ipset", "iptables", "iptables-restore", "iptables-save",
    "sysctl", "tc",
)  # fmt: skip
OVS_PROGRAMS = ("ovs-appctl", "ovs-ofctl", "ovs-vsctl", "ovsdb-client")
_NUMBERS = itertools.count(1)


def require(*programs: str) -> None:
    """Skip the test, or fail where that is asked for, when the machine lacks a part."""
    missing = [name for name in programs if shutil.which(name, path=PATH) is None]
    reason = ""
    if missing:
        reason = "MISSING HERE: " + ", ".join(missing)
    elif os.geteuid() != 0:
        reason = "ONLY ROOT MAKES NETWORK NAMESPACES"
    elif subprocess.run([IP, "netns", "list"], capture_output=True).returncode:
        reason = "NO NETWORK NAMESPACES HERE"
    if reason and REQUIRED:
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class Namespace:
    """A network namespace of this test; ``run`` starts programs in it."""

    def __init__(self, label: str) -> None:
        self.name = f"xd{os.getpid()}-{next(_NUMBERS)}{label}"
        self.environment = {"PATH": PATH, "LC_ALL": "C"}
        subprocess.run([IP, "netns", "add", self.name], check=True)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, data: str = "", check: bool = True) -> str:
        """Run a program in here and return what it printed."""
        done = subprocess.run(
            [IP, "netns", "exec", self.name, *argv],
            input=data,
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, *argv: str, **streams: Any) -> subprocess.Popen[bytes]:
        """Start a program in here; whoever starts it ends it."""
        return subprocess.Popen(
            [IP, "netns", "exec", self.name, *argv], env=self.environment, **streams
        )

    def links(self) -> dict[str, dict[str, Any]]:
        """Return the network devices in here: name to what the kernel says of them."""
        listed = json.loads(self.run("ip", "-j", "-d", "link", "show"))
        return {link["ifname"]: link for link in listed}

    def close(self) -> None:
        subprocess.run([IP, "netns", "del", self.name], capture_output=True)


class Guest(Namespace):
    """A guest with one interface, ``eth0``, checksums as on a wire."""

    def __init__(self, network: Namespace, device: str, mac: str) -> None:
        super().__init__("g")
        self.mac = mac
        network.run(
            "ip", "link", "add", device, "type", "veth",
            "peer", "name", "eth0", "netns", self.name, "address", mac,
        )  # fmt: skip
        network.run("ip", "link", "set", device, "up")
        # The userspace datapath passes on what the kernel left to the hardware.
        for offload in (["tx", "off"], ["gso", "off", "gro", "off", "tso", "off"]):
            self.run("ethtool", "-K", "eth0", *offload, check=False)
        self.run("ip", "link", "set", "eth0", "up")

    def address(self, *networks: str) -> None:
        """Give ``eth0`` addresses, such as ``10.0.0.5/24``, usable at once."""
        for network in networks:
            nodad = ["nodad"] if ":" in network else []
            self.run("ip", "addr", "add", network, "dev", "eth0", *nodad)

    def reaches(self, address: str, within: float = 5.0) -> bool:
        """Say whether a ping is answered before ``within`` seconds are over."""
        deadline = time.monotonic() + within
        ping = ("ping", "-n", "-c", "1", "-W", "1", address)
        while True:
            if " 0% packet loss" in self.run(*ping, check=False):
                return True
            if time.monotonic() >= deadline:
                return False


class Network(Namespace):
    """The host's side: Linux bridges, packet filters, and where guests end."""

    def __init__(self) -> None:
        super().__init__("h")
        self.guests: list[Guest] = []

    def guest(self, device: str, mac: str) -> Guest:
        """Return a guest whose ``eth0`` is ``device`` in here."""
        guest = Guest(self, device, mac)
        self.guests.append(guest)
        return guest

    def put_into(self, host: Any) -> None:
        """Have the plugins of a scratch host start their programs in here."""
        for name in NET_PROGRAMS:
            self._wrap(host, name, "")

    def _wrap(self, host: Any, name: str, options: str) -> None:
        path = shutil.which(name, path=PATH)
        if path is None:
            return  # as on a host that does not have it
        settings = "".join(
            f"export {key}='{value}'\n" for key, value in self.environment.items()
        )
        line = f'exec {IP} netns exec {self.name} {path} {options} "$@"\n'
        host.wrap(name, "#!/bin/sh\n" + settings + line)

    def close(self) -> None:
        for guest in self.guests:
            guest.close()
        super().close()


class Switch(Network):
    """The same with an Open vSwitch, whose datapath is a process of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"):
            self.environment[name] = str(folder)
        self.database = f"unix:{folder}/db.sock"
        subprocess.run(
            ["ovsdb-tool", "create", str(folder / "conf.db"), str(SCHEMA)], check=True
        )
        self.start_switch()

    def start_switch(self) -> None:
        """Start the daemons with what their database holds."""
        folder = self.folder
        self.run(
            "ovsdb-server", f"{folder}/conf.db", f"--remote=punix:{folder}/db.sock",
            "--remote=ptcp:6640:127.0.0.1",
            "--remote=db:Open_vSwitch,Open_vSwitch,manager_options",
            f"--pidfile={folder}/ovsdb-server.pid", f"--log-file={folder}/ovsdb.log",
            "--detach", "--no-chdir",
        )  # fmt: skip
        self.vsctl("--no-wait", "init")
        self.run(
            "ovs-vswitchd", self.database, f"--pidfile={folder}/ovs-vswitchd.pid",
            f"--log-file={folder}/vswitchd.log", "--detach", "--no-chdir",
            "--disable-system",
        )  # fmt: skip

    def stop_switch(self) -> None:
        """End the daemons; the flows go with them, the database stays."""
        for daemon in ("ovs-vswitchd", "ovsdb-server"):
            pid_file = self.folder / f"{daemon}.pid"
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                _end(int(pid_file.read_text()))
            pid_file.unlink(missing_ok=True)

    def vsctl(self, *argv: str) -> str:
        database = f"--db={self.database}"
        return self.run("ovs-vsctl", "--timeout=20", database, *argv).strip()

    def ofctl(self, command: str, bridge: str, *argv: str, data: str = "") -> str:
        management = f"{self.folder}/{bridge}.mgmt"
        return self.run("ovs-ofctl", command, management, *argv, data=data)

    def add_bridge(self, name: str) -> None:
        """Make a bridge as the host has them, and bring it up."""
        self.vsctl("add-br", name, "--", "set", "bridge", name, "datapath_type=netdev")
        self.run("ip", "link", "set", name, "up")

    def put_into(self, host: Any) -> None:
        super().put_into(host)
        for name in OVS_PROGRAMS:
            database = f"--db={self.database}" if name == "ovs-vsctl" else ""
            self._wrap(host, name, database)

    def close(self) -> None:
        self.stop_switch()
        super().close()


def _end(pid: int) -> None:
    """End a daemon and see it gone, so that its files are nobody's."""
    os.kill(pid, signal.SIGTERM)
    for _ in range(200):
        # A killed child of a container's first process may stay as a zombie.
        state = Path(f"/proc/{pid}/stat")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if state.read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.05)
                continue
        return
    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def network() -> Any:
    """A host's network without Open vSwitch for the length of a ``with``."""
    require("ip", "ethtool", "ping")
    one = Network()
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def switch(folder: Path) -> Any:
    """A host's network with Open vSwitch for the length of a ``with``."""
    require("ip", "ethtool", "ping", "ovs-vsctl", "ovs-vswitchd", "ovsdb-tool")
    one = Switch(folder)
    try:
        yield one
    finally:
        one.close()
