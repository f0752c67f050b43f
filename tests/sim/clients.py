# SPDX-License-Identifier: Apache-2.0
"""Small XAPI clients: in process, XML-RPC and JSON-RPC, and what tests do with them."""

import dataclasses
import http.client
import json
import time
import xmlrpc.client


class Refused(Exception):
    """The host's error answer; ``args[0]`` is its ErrorDescription."""

    @property
    def code(self):
        return self.args[0][0]

    @property
    def params(self):
        return self.args[0][1:]


class Client:
    """Calls with the session put first; a subclass sends."""

    def __init__(self):
        self.session = self.raw(
            "session.login_with_password", "root", "secret", "1.0", "tests"
        )

    def raw(self, method, *params):
        raise NotImplementedError

    def call(self, method, *params):
        return self.raw(method, self.session, *params)

    def task(self, method, *params, seconds=10):
        """Run an Async call and return its finished task record."""
        ref = self.call(method, *params)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            record = self.call("task.get_record", ref)
            if record["status"] != "pending":
                self.call("task.destroy", ref)
                return record
            time.sleep(0.02)
        raise AssertionError(f"{method} did not end")

    def close(self):
        """Close connections."""


class XmlClient(Client):
    """XML-RPC through a function that takes and gives bytes."""

    def __init__(self, send):
        self._send = send
        super().__init__()

    def raw(self, method, *params):
        body = xmlrpc.client.dumps(params, method).encode()
        (answer,), _ = xmlrpc.client.loads(self._send(body))
        if isinstance(answer, dict) and "Status" in answer:
            if answer["Status"] == "Failure":
                raise Refused(answer["ErrorDescription"])
            return answer["Value"]
        return answer


class HttpSender:
    """POSTs over one kept-alive connection."""

    def __init__(self, server, path, context=None):
        scheme, _, netloc = server.url.partition("://")
        kind = http.client.HTTPConnection
        options = {"timeout": 30}
        if scheme == "https":
            kind = http.client.HTTPSConnection
            options["context"] = context
        self.connection = kind(netloc, **options)
        self.path = path

    def __call__(self, body):
        self.connection.request("POST", self.path, body)
        answer = self.connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        return data


class JsonClient(Client):
    """JSON-RPC 2.0."""

    def __init__(self, send):
        self._send = send
        super().__init__()

    def raw(self, method, *params):
        request = {"jsonrpc": "2.0", "method": method, "params": params, "id": 1}
        answer = json.loads(self._send(json.dumps(request).encode()))
        if "error" in answer:
            error = answer["error"]
            raise Refused([error["message"], *error["data"]])
        return answer["result"]


def refusal(client, method, *params):
    """Return code and parameters of the failure that a call must have."""
    try:
        answer = client.call(method, *params)
    except Refused as refused:
        return refused.args[0]
    raise AssertionError(f"{method} was not refused but answered {answer!r}")


def wait_until(condition, seconds=5):
    """Return once a condition is true; it has to become so in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def received(sock, end):
    """Return what a connection brings until it ends so, and nothing beyond."""
    data = b""
    while not data.endswith(end):
        byte = sock.recv(1)
        assert byte, f"hung up after {data!r}"
        data += byte
    return data


def behave(sim, **choices):
    """Change how a host behaves from now on."""
    sim.world.behaviour = dataclasses.replace(sim.world.behaviour, **choices)


GIB = 1024**3
NULL = "OpaqueRef:NULL"


def vm_record(**changes):
    """Return a complete record for VM.create."""
    size = str(GIB)
    record = {
        "name_label": "vm",
        "user_version": "1",
        "is_a_template": False,
        "affinity": NULL,
        "memory_static_max": size,
        "memory_dynamic_max": size,
        "memory_dynamic_min": size,
        "memory_static_min": size,
        "VCPUs_params": {},
        "VCPUs_max": "1",
        "VCPUs_at_startup": "1",
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "PV_bootloader": "",
        "PV_kernel": "",
        "PV_ramdisk": "",
        "PV_args": "",
        "PV_bootloader_args": "",
        "PV_legacy_args": "",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {},
        "platform": {},
        "PCI_bus": "",
        "other_config": {},
        "recommendations": "",
    }
    return {**record, **changes}


def vbd_record(vm, vdi, **changes):
    """Return a complete record for VBD.create."""
    record = {
        "VM": vm,
        "VDI": vdi,
        "userdevice": "0",
        "bootable": True,
        "mode": "RW",
        "type": "Disk",
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }
    return {**record, **changes}


def vif_record(vm, network, **changes):
    """Return a complete record for VIF.create."""
    record = {
        "VM": vm,
        "network": network,
        "device": "0",
        "MAC": "",
        "MTU": "1500",
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    }
    return {**record, **changes}


def vdi_record(sr, **changes):
    """Return a complete record for VDI.create."""
    record = {
        "name_label": "disk",
        "SR": sr,
        "virtual_size": str(GIB),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
    }
    return {**record, **changes}
