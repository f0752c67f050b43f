# SPDX-License-Identifier: Apache-2.0
"""Disks of the embedded host for the tests of ``kernel`` and ``partition_utils``."""

import os
import random
import shutil
import subprocess

import pytest

MIB = 1024**2
REQUIRED = os.environ.get("REQUIRE_ROOT_PARTS") == "1"


def require_loops():
    """Skip loudly, or fail where it is required, on a machine without loop devices."""
    known = os.geteuid() == 0 and os.path.exists("/dev/loop-control")
    known = known and shutil.which("losetup") is not None
    if known and not subprocess.run(["losetup", "-f"], capture_output=True).returncode:
        return
    message = "NO LOOP DEVICES HERE, or not root: no disk of dom0 was looked at"
    if REQUIRED:
        pytest.fail(message)
    pytest.skip(message)


def disk(host, size, content=b""):
    """Make a VDI that begins with ``content`` and return its reference."""
    sr = host.api.xenapi.SR.get_by_uuid(host.sr_uuid)
    vdi = host.api.xenapi.VDI.create({
        "name_label": "kernel", "name_description": "", "SR": sr,
        "virtual_size": str(size), "type": "user", "sharable": False,
        "read_only": False, "other_config": {},
    })  # fmt: skip
    store = host.sim.world.stores[sr]
    uuid = host.api.xenapi.VDI.get_uuid(vdi)
    for offset in range(0, len(content), MIB):
        store.write(uuid, offset, content[offset : offset + MIB])
    return vdi


def content(size, seed=1):
    """Return bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


def control_domain(host):
    return host.api.xenapi.host.get_control_domain(host.host_ref)


def drives(host):
    """Return the records of dom0's VBDs."""
    mine = control_domain(host)
    records = host.api.xenapi.VBD.get_all_records()
    return [record for record in records.values() if record["VM"] == mine]


def plug(host, vdi, mode="RW"):
    """Plug a disk into dom0 as the driver does; return (VBD, name of its device)."""
    vbd = host.api.xenapi.VBD.create({
        "VM": control_domain(host), "VDI": vdi, "userdevice": "autodetect",
        "bootable": False, "mode": mode, "type": "Disk", "unpluggable": True,
        "empty": False, "other_config": {}, "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    })  # fmt: skip
    host.api.xenapi.VBD.plug(vbd)
    return vbd, host.api.xenapi.VBD.get_device(vbd)


def unplug(host, vbd):
    host.api.xenapi.VBD.unplug(vbd)
    host.api.xenapi.VBD.destroy(vbd)


def loops_of(host):
    """Return the loop devices that stand on files of this host."""
    told = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True)
    return [line for line in told.stdout.splitlines() if f"({host.root}/" in line]
