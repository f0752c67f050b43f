# SPDX-License-Identifier: Apache-2.0
"""What a disk may do in which state: what is told of it and what is taken."""

import pytest

from tests.sim.clients import refusal, vbd_record, vdi_record, vm_record

SIZE = str(8 << 20)


def plain(client, sr, **changes):
    return client.call("VDI.create", vdi_record(sr, virtual_size=SIZE, **changes))


def plugged(client, sr, mode):
    found = plain(client, sr)
    vm = client.call("VM.create", vm_record())
    client.call("VBD.create", vbd_record(vm, found, mode=mode))
    client.call("VM.start", vm, False, False)
    return found


def resetting(client, sr):
    found = plain(client, sr)
    client.call("VDI.set_on_boot", found, "reset")
    return found


def base_copy(client, sr):
    leaf = plain(client, sr)
    client.call("VDI.snapshot", leaf)
    parent = client.call("VDI.get_sm_config", leaf)["vhd-parent"]
    return client.call("VDI.get_by_uuid", parent)


def without_data(client, sr):
    leaf = plain(client, sr)
    client.call("VDI.enable_cbt", leaf)
    found = client.call("VDI.snapshot", leaf)
    client.call("VDI.data_destroy", found)
    return found


def image(client, sr):
    return client.call("VDI.get_by_name_label", "guest-tools.iso")[0]


DISKS = {
    "plain": plain,
    "snapshot": lambda c, sr: c.call("VDI.snapshot", plain(c, sr)),
    "written": lambda c, sr: plugged(c, sr, "RW"),
    "read": lambda c, sr: plugged(c, sr, "RO"),
    "sharable": lambda c, sr: plain(c, sr, sharable=True),
    "resetting": resetting,
    "statistics": lambda c, sr: plain(c, sr, type="rrd"),
    "base copy": base_copy,
    "without data": without_data,
    "image": image,
}


@pytest.mark.parametrize("kind", DISKS)
def test_what_is_told_of_a_disk_is_what_is_taken(local, sr, kind):
    host = local.call("host.get_all")[0]
    arguments = {"copy": (sr,), "resize": (str(16 << 20),)}
    seen = []
    for name in ("clone", "snapshot", "copy", "resize", "generate_config", "destroy"):
        ref = DISKS[kind](local, sr)
        told = name in local.call("VDI.get_allowed_operations", ref)
        given = [ref, *arguments.get(name, ())]
        if name == "generate_config":
            given.insert(0, host)
        if told:
            local.call(f"VDI.{name}", *given)
            seen.append(name)
        elif name != "generate_config":
            assert refusal(local, f"VDI.{name}", *given)
    assert seen or kind == "base copy"


def test_nothing_is_told_where_no_host_is_connected(local, sr):
    host = local.call("host.get_all")[0]
    disk = plain(local, sr)
    local.call("PBD.unplug", local.call("SR.get_PBDs", sr)[0])
    refused = ["SR_HAS_NO_PBDS", sr]
    for method, *params in (
        ("VDI.generate_config", host, disk),
        ("VDI.clone", disk),
        ("VDI.snapshot", disk),
        ("VDI.copy", disk, sr),
        ("VDI.destroy", disk),
        ("VDI.resize", disk, SIZE),
        ("SR.update", sr),
        ("SR.scan", sr),
        ("SR.set_name_label", sr, "new"),
        ("SR.set_name_description", sr, "new"),
        ("VDI.set_name_label", disk, "new"),
        ("VDI.set_name_description", disk, "new"),
    ):
        assert refusal(local, method, *params) == refused
    assert local.call("VDI.get_name_label", disk) == "disk"


def test_nothing_is_measured_of_an_sr(local, sr):
    assert local.call("SR.get_data_sources", sr) == []
    for name in ("query_data_source", "record_data_source"):
        code, text = refusal(local, f"SR.{name}", sr, "size")
        assert code == "INTERNAL_ERROR" and 'Invalid_data_source("size")' in text
