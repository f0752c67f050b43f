# SPDX-License-Identifier: Apache-2.0
"""The embedded XAPI host as a process, seen from outside.

Two doors are used: XenAPI itself, as any client would, and the admin door
(``/_sim/...``), which tells what no XenAPI call does: the requests so far, the
files and processes in the scratch dom0.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import sys
import threading
import urllib.parse
import urllib.request
import xmlrpc.client
from collections import Counter
from pathlib import Path
from typing import Any

from demo.failure import DemoFailure, expect
from demo.layout import LOOPBACK, PASSWORD, Layout
from demo.node import Node
from demo.processes import Processes, answers

PROCESS = "xapi-host"
INTEGRATION_BRIDGE = "br-int"
USER = "root"


class Host:
    """The embedded host of one compute node.

    :ivar state: its folder, with the scratch dom0
    :ivar name: of its process, and so of its log
    """

    def __init__(
        self, layout: Layout, processes: Processes, node: Node | None = None
    ) -> None:
        self.layout = layout
        self.processes = processes
        self.node = node or Node()
        self.name = self.node.process(PROCESS)
        self.state = layout.state / self.node.process("xapi")
        self.port = layout.port("xapi") + self.node.number
        self.url = f"https://{LOOPBACK}:{self.port}"
        # As on a real host: key and certificate in one file.
        self.identity = self.state / "xapi-ssl.pem"
        self.certificate = layout.etc / f"{self.name}.pem"
        # Where disks that are plugged into nova-compute's VM appear.
        self.devices = layout.state / self.node.process("dev")
        self._session: str | None = None
        self._proxy: xmlrpc.client.ServerProxy | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def log(self) -> Path:
        return self.layout.log_of(self.name)

    def start(self) -> None:
        """Start it; ``wait`` waits for it."""
        plugins = self.layout.checkout / "dom0_plugins" / "etc" / "xapi.d" / "plugins"
        argv: list[str | Path | int] = [
            *(sys.executable, "-m", "xenapi_driver.sim", "--port", self.port),
            *("--tls", "--admin", "--compute-vm", "--state", self.state),
            *("--user", USER, "--password", PASSWORD, "--plugins", plugins),
        ]
        if self.node.number:
            argv += ["--inventory", self._write_inventory()]
        if self.node.block_devices:
            self.devices.mkdir()
            argv += ["--block-device-dir", self.devices]
        self.processes.start(
            self.name, argv, cwd=self.layout.checkout, listens=self.port
        )

    def _write_inventory(self) -> Path:
        """What differs from a fresh host: a name of its own, and the SR of its kind."""
        node = self.node
        # Nova keeps hosts apart by their names.
        pool: dict[str, Any] = {"hosts": [{"name": f"xcpng-{node.name}"}]}
        if node.sr_type:
            sr = {"name": f"{node.sr_type} disks", "type": node.sr_type}
            pool["srs"] = [{**sr, "default": True}]
        path = self.layout.etc / f"{self.name}.yaml"
        # JSON is YAML.
        path.write_text(json.dumps(pool))
        return path

    def wait(self) -> None:
        """Wait until it answers, and keep its certificate."""
        self.processes.wait(
            self.name,
            lambda: answers(self.port) and self.identity.exists(),
            f"to listen on {self.port} and to have {self.identity.name}",
            60,
        )
        self.certificate.write_text(certificate_of(self.identity))

    def options(self) -> dict[str, Any]:
        """The [xenserver] options with which nova-compute finds this host."""
        found = {
            "connection_url": self.url,
            "connection_username": USER,
            "connection_password": PASSWORD,
            "connection_fingerprints": fingerprint(self.certificate),
            "compute_vm_uuid": self.compute_vm_uuid(),
            "sr_matching_filter": "default-sr:true",
            "ovs_integration_bridge": INTEGRATION_BRIDGE,
        }
        if self.node.block_devices:
            found["block_device_dir"] = self.devices
        return found

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificate))
        # The certificate itself is what is trusted, whatever name it bears.
        context.check_hostname = False
        return context

    def admin(self, what: str) -> Any:
        """Read the admin door.

        :param what: ``requests``, ``inventory`` or ``ports``
        """
        url = f"{self.url}/_sim/{what}"
        try:
            with urllib.request.urlopen(
                url, timeout=30, context=self._context()
            ) as answer:
                return json.load(answer)
        except (OSError, ValueError) as exc:
            raise DemoFailure(f"{url} to answer in JSON", exc, self.log) from exc

    def break_next(self, method: str, *error: str) -> None:
        """Let the next call of a method be answered by a XenAPI error."""
        self._bring_about("rules", {"method": method, "error": error})

    def halt_guest(self, name: str) -> None:
        """Let the guest in the VM of that name shut itself down."""
        self._bring_about("guest", {"uuid": name, "what": "halt"})

    def _bring_about(self, what: str, fields: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"{self.url}/_sim/{what}",
            json.dumps(fields).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(
            request, timeout=30, context=self._context()
        ) as answer:
            answer.read()

    def requests(self) -> Counter[str]:
        """XenAPI requests by method since the host started, without event polls."""
        return Counter(self.admin("requests")["by_method"])

    def call(self, method: str, *args: Any) -> Any:
        """One XenAPI call, logged in as the driver is.

        :raises DemoFailure: the host answers with a failure
        """
        with self._one_at_a_time:
            if self._proxy is None:
                self._proxy = xmlrpc.client.ServerProxy(
                    self.url, context=self._context()
                )
            if self._session is None:
                self._session = self._answer(
                    "session.login_with_password", USER, PASSWORD, "1.0", "demo"
                )
            return self._answer(method, self._session, *args)

    def _answer(self, method: str, *args: Any) -> Any:
        try:
            answer: Any = getattr(self._proxy, method)(*args)
        except (OSError, xmlrpc.client.Error) as exc:
            raise DemoFailure(f"{method} to be answered", exc, self.log) from exc
        expect(
            answer["Status"] == "Success",
            f"{method} to succeed",
            answer.get("ErrorDescription"),
            self.log,
        )
        return answer["Value"]

    def compute_vm_uuid(self) -> str:
        """The VM in which nova-compute is told that it runs."""
        for record in self.call("VM.get_all_records").values():
            ordinary = not record["is_a_template"] and not record["is_control_domain"]
            if ordinary and record["power_state"] == "Running":
                return str(record["uuid"])
        raise DemoFailure("a running VM for nova-compute on the host", "none")

    def vm(self, name: str) -> dict[str, Any] | None:
        """The record of the one VM of that name, None when there is none."""
        refs = self.call("VM.get_by_name_label", name)
        expect(len(refs) <= 1, f"at most one VM {name}", f"{len(refs)} of them")
        return dict(self.call("VM.get_record", refs[0])) if refs else None

    def drive(self, vm: dict[str, Any], userdevice: str = "0") -> dict[str, Any]:
        """The record of the VDI that a VM has at a device number.

        :raises DemoFailure: it has none there
        """
        for ref in vm["VBDs"]:
            vbd = self.call("VBD.get_record", ref)
            if vbd["userdevice"] == userdevice:
                return dict(self.call("VDI.get_record", vbd["VDI"]))
        name = vm["name_label"]
        raise DemoFailure(f"a disk {userdevice} of {name}", f"no VBD {userdevice}")

    def file(self, vdi: dict[str, Any]) -> Path:
        """The file in dom0 that holds a VDI.

        :raises DemoFailure: there is none
        """
        mount = self.state / "dom0/run/sr-mount" / self.call("SR.get_uuid", vdi["SR"])
        for name in (f"{vdi['uuid']}.vhd", vdi["location"], f"{vdi['uuid']}.raw"):
            if (mount / name).is_file():
                return mount / name
        raise DemoFailure(f"a file of the VDI {vdi['uuid']}", "none", self.log)

    def root_disk(self, vm: dict[str, Any]) -> Path:
        """The file in the storage repository behind a VM's first disk."""
        return self.file(self.drive(vm))

    def overwrite(self, vdi: dict[str, Any], raw: Path) -> None:
        """Write a raw file over a VDI's begin, as an operator may.

        :raises DemoFailure: the host answers with an error
        """
        request = urllib.request.Request(
            self._door("import_raw_vdi", vdi),
            raw.read_bytes(),
            {"Content-Type": "application/octet-stream"},
            method="PUT",
        )
        try:
            with urllib.request.urlopen(
                request, timeout=60, context=self._context()
            ) as answer:
                answer.read()
        except OSError as exc:
            raise DemoFailure("the disk to be written", exc, self.log) from exc

    def save(self, vdi: dict[str, Any], raw: Path) -> None:
        """Write a VDI as the host shows it into a raw file, sparse.

        :raises DemoFailure: the host answers with an error
        """
        url = self._door("export_raw_vdi", vdi)
        try:
            with (
                urllib.request.urlopen(
                    url, timeout=60, context=self._context()
                ) as answer,
                raw.open("wb") as file,
            ):
                while piece := answer.read(1 << 20):
                    if piece.count(0) == len(piece):
                        file.seek(len(piece), os.SEEK_CUR)
                    else:
                        file.write(piece)
                file.truncate(file.tell())
        except OSError as exc:
            raise DemoFailure("the disk to be read", exc, self.log) from exc

    def _door(self, name: str, vdi: dict[str, Any]) -> str:
        """Where raw disks go in and out; after a login."""
        self.call("pool.get_all")
        query = {"session_id": self._session, "vdi": vdi["uuid"], "format": "raw"}
        return f"{self.url}/{name}?{urllib.parse.urlencode(query)}"

    def disks(self) -> dict[str, dict[str, Any]]:
        """Every VDI record by its uuid."""
        records = self.call("VDI.get_all_records").values()
        return {record["uuid"]: record for record in records}


def certificate_of(identity: Path) -> str:
    """The certificate of a PEM file that also holds the private key."""
    text = identity.read_text()
    return text[text.index(ssl.PEM_HEADER) :]


def fingerprint(certificate: Path) -> str:
    """SHA-256 of a PEM certificate: hexadecimal pairs with colons."""
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    digest = hashlib.sha256(der).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))
