# SPDX-License-Identifier: Apache-2.0
"""A host with guests on a real switch, each of whose VIFs XAPI knows."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.dom0 import frames, scratch_host, switches, wire
from tests.sim.clients import vif_record, vm_record

UNIT = "usr/lib/systemd/system/xenapi-isolation.service"
HOOK = scratch_host.PLUGINS.parent / "vif-hotplug"
ME = frames.Guest("02:00:00:00:00:05", "10.0.0.5", "2001:db8::5")
PEER = frames.Guest("02:00:00:00:00:06", "10.0.0.6", "2001:db8::6")
WANTED = {"xenapi-isolation": "on"}
_DHCP = frames.ipv4(
    "0.0.0.0", "255.255.255.255", frames.UDP, frames.udp(68, 67, b"the last")
)


def last(guest: frames.Guest) -> frames.Frame:
    """Return the frame that every VIF may send, isolated or not."""
    data = frames.ethernet(frames.BROADCAST, guest.mac, frames.IPV4, _DHCP)
    return frames.Frame("last", True, data)


class Vif:
    """A VIF of a running VM, and the guest's end of it once it is plugged."""

    def __init__(self, host: Isolated, vm: str, addresses: frames.Guest) -> None:
        self.host = host
        self.vm = vm
        self.addresses = addresses
        record = vif_record(vm, host.network_ref, MAC=addresses.mac)
        api = host.api
        self.ref = api.VIF.create({**record, "other_config": {}})
        self.uuid = api.VIF.get_uuid(self.ref)
        self.vm_uuid = api.VM.get_uuid(vm)
        self.guest: switches.Guest | None = None
        self.device = ""

    def set(self, **fields: Any) -> None:
        for name, value in fields.items():
            getattr(self.host.api.VIF, f"set_{name}")(self.ref, value)

    def want(self, *addresses: str) -> None:
        """Have XAPI say that the VIF is isolated, to these addresses."""
        self.set(
            other_config=WANTED,
            ipv4_allowed=[text for text in addresses if ":" not in text],
            ipv6_allowed=[text for text in addresses if ":" in text],
        )

    def plug(self, kind: str = "vif", bridge: str = "") -> None:
        """Make the device as xapi's scripts do, before they call the hook."""
        domid = self.host.api.VM.get_domid(self.vm)
        device = f"{kind}{domid}.0"
        guest = self.host.net.guest(device, self.addresses.mac)
        self.guest, self.device = guest, device
        self.host.add_port(device, self.uuid, bridge)
        self.socket = wire.packet_socket(guest.name)

    def unplug(self) -> None:
        self.socket.close()
        self.host.del_port(self.device)

    def hook(self, action: str = "online") -> None:
        self.host.hook(action, self.uuid, self.vm_uuid)

    def sends(self, peer: Vif) -> dict[str, list[str]]:
        """Send every frame; return those that came, or not, against the table."""
        table = frames.table(self.addresses, peer.addresses)
        came = wire.heard(self.socket, peer.socket, table, last(self.addresses))
        return {
            "arrived": [f.name for f in table if not f.passes and f.name in came],
            "lost": [f.name for f in table if f.passes and f.name not in came],
        }

    def reaches(
        self, peer: Vif, name: str = "own addresses", within: float = 3.0
    ) -> bool:
        """Send one frame of the table; say whether it arrives."""
        table = frames.table(self.addresses, peer.addresses)
        frame = next(frame for frame in table if frame.name == name)
        return wire.arrives(self.socket, peer.socket, frame, within)


RIGHT: dict[str, list[str]] = {"arrived": [], "lost": []}


class Isolated:
    """The host, its switch and its VIFs."""

    def __init__(self, host: scratch_host.ScratchHost, net: switches.Network) -> None:
        self.scratch = host
        self.net = net
        self.api = host.api.xenapi
        self.root: Path = host.root
        kind = "openvswitch" if self.ovs else "bridge"
        self._write("etc/xensource/network.conf", f"{kind}\n")
        self.network_ref = self.api.network.create(
            {"name_label": "guests", "other_config": {}}
        )
        self.bridge = self.api.network.get_bridge(self.network_ref)
        self.add_bridge(self.bridge)
        shutil.copy(HOOK, self.root / "etc/xapi.d/vif-hotplug")
        net.put_into(host)
        host.dom0.open_xapi()

    @property
    def ovs(self) -> bool:
        return isinstance(self.net, switches.Switch)

    def _write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def close_host(self) -> None:
        self._write("etc/xapi.d/isolation-closed", "")

    def add_bridge(self, name: str) -> None:
        if isinstance(self.net, switches.Switch):
            self.net.add_bridge(name)
            return
        self.net.run("ip", "link", "add", name, "type", "bridge", "forward_delay", "0",
                     "stp_state", "0", "mcast_snooping", "0")
        self.net.run("ip", "link", "set", name, "up")

    def add_port(self, device: str, vif_uuid: str, bridge: str = "") -> None:
        bridge = bridge or self.bridge
        if isinstance(self.net, switches.Switch):
            told = f"external_ids:xs-vif-uuid={vif_uuid}"
            more = ["--", "set", "interface", device, told] if vif_uuid else []
            self.net.vsctl("add-port", bridge, device, *more)
        else:
            self.net.run("ip", "link", "set", device, "master", bridge)

    def del_port(self, device: str) -> None:
        self.net.run("ip", "link", "del", device)
        if isinstance(self.net, switches.Switch):
            self.net.vsctl("--if-exists", "del-port", device)

    def vif(self, addresses: frames.Guest) -> Vif:
        """Return a VIF of a new VM that runs."""
        vm = self.api.VM.create(vm_record(name_label=addresses.mac))
        vif = Vif(self, vm, addresses)
        self.api.VM.start(vm, False, True)
        return vif

    def pair(self) -> tuple[Vif, Vif]:
        """Return a VIF that is to be isolated and one that is not, both plugged."""
        me, peer = self.vif(ME), self.vif(PEER)
        me.want(ME.ipv4, ME.ipv6)
        me.plug()
        peer.plug()
        return me, peer

    def call(self, fn: str, vif: Vif | None = None) -> Any:
        request = {"vif_uuid": vif.uuid} if vif else {}
        return self.scratch.call("isolation", fn, request)

    def hook(self, action: str, vif_uuid: str = "", vm_uuid: str = "") -> str:
        """Run the hook as xapi's scripts do; return what it printed."""
        with self.start_hook(action, vif_uuid, vm_uuid) as process:
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        return out.decode()

    def start_hook(
        self, action: str, vif_uuid: str = "", vm_uuid: str = ""
    ) -> subprocess.Popen[bytes]:
        told = ["-vifuuid", vif_uuid, "-vmuuid", vm_uuid] if vif_uuid else []
        return subprocess.Popen(
            [self.scratch.python, str(self.root / "etc/xapi.d/vif-hotplug"),
             "-action", action, *told],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.scratch.environment(),
        )

    def start_service(self) -> subprocess.Popen[bytes]:
        """Start what the unit of systemd starts."""
        unit = (scratch_host.PLUGINS.parents[2] / UNIT).read_text()
        settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
        python, *argv = settings["ExecStart"].split()
        assert python == "/usr/bin/python3"
        return subprocess.Popen(
            [self.scratch.python, *argv],
            cwd=self.root / settings["WorkingDirectory"].lstrip("/"),
            env=self.scratch.environment(),
        )

    def rules(self, vif: Vif) -> list[str]:
        return self.call("show", vif)["rules"]


def networking(addresses: frames.Guest) -> dict[str, str]:
    """Return the xenstore data that tells a guest its addresses."""
    key = "vm-data/networking/" + addresses.mac.replace(":", "")
    data = {
        "label": "private",
        "mac": addresses.mac,
        "ips": [{"ip": addresses.ipv4, "netmask": "255.255.255.0", "enabled": "1"}],
        "ip6s": [{"ip": addresses.ipv6, "netmask": 64, "enabled": "1"}],
    }
    return {key: json.dumps(data)}
