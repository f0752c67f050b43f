# SPDX-License-Identifier: Apache-2.0
"""SRs of every kind: made, probed, introduced, forgotten and destroyed."""

import pytest

from tests.sim.clients import (
    XmlClient,
    refusal,
    vbd_record,
    vdi_record,
    vm_record,
)
from xenapi_driver.sim import Simulator

NFS = {"server": "nfs.example.org", "serverpath": "/srv/nova"}
GIB = 1 << 30
NULL = "OpaqueRef:NULL"


def host_of(client):
    return client.call("host.get_all")[0]


def make(client, kind="nfs", config=None, shared=True, content="user"):
    about = [config if config is not None else NFS, "0", "sr", "", kind, content]
    return client.call("SR.create", host_of(client), *about, shared, {})


def only_pbd(client, sr):
    return client.call("SR.get_PBDs", sr)[0]


def unplug(client, sr):
    for pbd in client.call("SR.get_PBDs", sr):
        client.call("PBD.unplug", pbd)


def named(client, label):
    return client.call("SR.get_by_name_label", label)[0]


def test_a_new_sr_is_plugged_and_can_hold_disks(client):
    sr = make(client)
    assert client.call("PBD.get_currently_attached", only_pbd(client, sr)) is True
    disk = client.call("VDI.create", vdi_record(sr))
    assert client.call("SR.get_VDIs", sr) == [disk]
    assert "destroy" not in client.call("SR.get_allowed_operations", sr)


@pytest.mark.parametrize(
    ("kind", "config", "code"),
    [
        ("bogus", {}, "SR_UNKNOWN_DRIVER"),
        ("nfs", {"server": "nfs.example.org"}, "SR_BACKEND_FAILURE_101"),
        ("ext", {}, "SR_BACKEND_FAILURE_90"),
        ("iscsi", {"target": "192.0.2.1"}, "SR_BACKEND_FAILURE_96"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(local, kind, config, code):
    before = local.call("SR.get_all")
    about = [config, "0", "sr", "", kind, "user", False, {}]
    assert refusal(local, "SR.create", host_of(local), *about)[0] == code
    assert local.call("SR.get_all") == before


def test_a_host_that_is_not_there_is_offline(local):
    about = [NFS, "0", "sr", "", "nfs", "user", True, {}]
    assert refusal(local, "SR.create", NULL, *about) == ["HOST_OFFLINE", NULL]


def test_a_plugged_or_full_sr_is_not_given_up(local):
    sr = make(local)
    disk = local.call("VDI.create", vdi_record(sr))
    assert refusal(local, "SR.destroy", sr) == ["SR_HAS_PBD", sr]
    assert refusal(local, "SR.forget", sr) == ["SR_HAS_PBD", sr]
    assert refusal(local, "PBD.destroy", only_pbd(local, sr))[0] == (
        "OPERATION_NOT_ALLOWED"
    )
    unplug(local, sr)
    assert refusal(local, "SR.destroy", sr) == ["SR_NOT_EMPTY"]
    assert refusal(local, "VDI.destroy", disk) == ["SR_HAS_NO_PBDS", sr]
    assert refusal(local, "SR.scan", sr) == ["SR_HAS_NO_PBDS", sr]
    local.call("PBD.plug", only_pbd(local, sr))
    local.call("VDI.destroy", disk)
    unplug(local, sr)
    assert "destroy" in local.call("SR.get_allowed_operations", sr)
    local.call("SR.destroy", sr)
    assert refusal(local, "SR.get_record", sr)[0] == "HANDLE_INVALID"


def test_a_forgotten_sr_is_found_again_with_its_disks(local):
    sr = make(local)
    uuid = local.call("SR.get_uuid", sr)
    disk = local.call("VDI.create", vdi_record(sr))
    disk_uuid = local.call("VDI.get_uuid", disk)
    unplug(local, sr)
    local.call("SR.forget", sr)
    assert uuid in local.call("SR.probe", host_of(local), NFS, "nfs", {})
    again = local.call("SR.introduce", uuid, "again", "", "nfs", "user", True, {})
    taken = refusal(local, "SR.introduce", uuid, "x", "", "nfs", "user", True, {})
    assert taken == ["SR_UUID_EXISTS", uuid]
    assert local.call("SR.get_VDIs", again) == []
    record = {"host": host_of(local), "SR": again, "device_config": NFS}
    pbd = local.call("PBD.create", {**record, "other_config": {}})
    local.call("PBD.plug", pbd)
    found = local.call("VDI.get_uuid", local.call("SR.get_VDIs", again)[0])
    assert found == disk_uuid


def test_an_sr_is_joined_once_by_a_host(local):
    sr = make(local)
    record = {"host": host_of(local), "SR": sr, "device_config": NFS}
    found = refusal(local, "PBD.create", {**record, "other_config": {}})
    assert found == ["PBD_EXISTS", sr, host_of(local), only_pbd(local, sr)]
    pbd = only_pbd(local, sr)
    assert refusal(local, "PBD.set_device_config", pbd, {}) == ["PERMISSION_DENIED", ""]


def test_a_logical_volume_takes_its_full_size(local):
    sr = make(local, "lvm", {"device": "/dev/sdz"}, shared=False)
    code = refusal(local, "VDI.create", vdi_record(sr, virtual_size=str(200 * GIB)))
    assert code[0] == "SR_BACKEND_FAILURE_44"
    thin = make(local, "ext", {"device": "/dev/sdy"}, shared=False)
    local.call("VDI.create", vdi_record(thin, virtual_size=str(200 * GIB)))
    local.call("VDI.create", vdi_record(sr, virtual_size=str(2 * GIB)))
    assert int(local.call("SR.get_physical_utilisation", sr)) > 2 * GIB


def test_what_a_driver_cannot_is_refused(local):
    dvd = named(local, "DVD drives")
    assert refusal(local, "VDI.create", vdi_record(dvd)) == [
        "SR_OPERATION_NOT_SUPPORTED",
        dvd,
    ]
    tools = named(local, "XCP-ng Tools")
    image = local.call("VDI.create", vdi_record(tools))
    assert refusal(local, "VDI.snapshot", image)[0] == "SR_OPERATION_NOT_SUPPORTED"
    assert refusal(local, "VDI.resize", image, str(GIB))[0] == (
        "SR_OPERATION_NOT_SUPPORTED"
    )


def test_a_disk_is_copied_between_kinds_of_sr(sim, local):
    sr, tools = make(local), named(local, "XCP-ng Tools")
    disk = local.call("VDI.create", vdi_record(sr, virtual_size=str(8 << 20)))
    where = local.call("VDI.get_location", disk)
    sim.world.stores[sr].write(where, 1 << 20, b"payload")
    image = local.call("VDI.copy", disk, tools)
    back = local.call("VDI.copy", image, sr)
    assert local.call("VDI.checksum", disk) == local.call("VDI.checksum", back)
    assert local.call("VDI.checksum", disk) == local.call("VDI.checksum", image)


def test_a_uuid_of_any_shape_stays_inside_the_state(sim, local):
    sr = local.call("SR.introduce", "../../x", "odd", "", "nfs", "user", True, {})
    record = {"host": host_of(local), "SR": sr, "device_config": NFS}
    local.call("PBD.plug", local.call("PBD.create", {**record, "other_config": {}}))
    assert sim.world.dom0.root in sim.world.stores[sr].path.parents


def test_passwords_are_kept_as_secrets_alone(sim, local):
    config = {"target": "192.0.2.1", "targetIQN": "iqn.2026-01.org.example:t"}
    make(local, "iscsi", {**config, "chapuser": "u", "chappassword": "hush"})
    assert "hush" not in str(sim.world.media)
    found = local.call("SR.probe", host_of(local), config, "iscsi", {})
    assert "<UUID>" in found


def test_the_units_of_a_target_are_disks(sim, local):
    config = {"target": "192.0.2.1", "targetIQN": "iqn.2026-01.org.example:t"}
    sr = make(local, "iscsi", config, content="")
    store = sim.world.stores[sr]
    # Somebody made them on the target; no host can.
    for name in ("lun0.img", "lun1.img"):
        (store.path / name).write_bytes(b"unit" + bytes((8 << 20) - 4))
    assert refusal(local, "VDI.create", vdi_record(sr)) == [
        "SR_OPERATION_NOT_SUPPORTED",
        sr,
    ]
    about = ["unit", "", sr, "user", False, False, {}]
    rest = [{}, {}, True, "0", "0", NULL, False, "19700101T00:00:00Z", NULL]
    lun = local.call("VDI.introduce", "", *about, "lun0.img", *rest)
    assert int(local.call("VDI.get_virtual_size", lun)) == 8 << 20
    again = refusal(local, "VDI.introduce", "", *about, "lun0.img", *rest)
    assert again == ["LOCATION_NOT_UNIQUE", sr, "lun0.img"]
    missing = refusal(local, "VDI.introduce", "", *about, "lun9.img", *rest)
    assert missing[0] == "SR_BACKEND_FAILURE_46"
    local.call("SR.scan", sr)
    found = [local.call("VDI.get_record", ref) for ref in local.call("SR.get_VDIs", sr)]
    assert sorted(one["location"] for one in found) == ["lun0.img", "lun1.img"]
    assert {(one["read_only"], one["sharable"]) for one in found} == {(False, False)}
    assert refusal(local, "VDI.destroy", lun) == ["SR_OPERATION_NOT_SUPPORTED", sr]
    local.call("VDI.forget", lun)
    assert (store.path / "lun0.img").exists()


@pytest.fixture
def pair(tmp_path):
    """A client of a pool of two hosts."""
    sim = Simulator(tmp_path / "pair", hosts=2)
    yield XmlClient(sim.handle)
    sim.close()


def pbd_of(client, sr, host):
    for pbd in client.call("SR.get_PBDs", sr):
        if client.call("PBD.get_host", pbd) == host:
            return pbd
    raise AssertionError("The host has no connection to the SR.")


def test_a_shared_sr_is_reached_by_each_host_on_its_own(pair):
    first, second = pair.call("host.get_all")
    sr = make(pair)
    assert sorted(pair.call("SR.get_live_hosts", sr)) == sorted([first, second])
    disk = pair.call("VDI.create", vdi_record(sr, virtual_size=str(8 << 20)))
    vm = pair.call("VM.create", vm_record())
    pair.call("VBD.create", vbd_record(vm, disk))
    pair.call("VM.start_on", vm, second, False, False)
    # What is used on the one host does not hold the other.
    pair.call("PBD.unplug", pbd_of(pair, sr, first))
    in_use = refusal(pair, "PBD.unplug", pbd_of(pair, sr, second))
    assert in_use == ["VDI_IN_USE", disk]
    assert pair.call("SR.get_live_hosts", sr) == [second]
    pair.call("SR.scan", sr)
    assert pair.call("SR.get_VDIs", sr) == [disk]
    other = pair.call("VM.create", vm_record())
    twin = pair.call("VDI.clone", disk)
    pair.call("VBD.create", vbd_record(other, twin))
    assert refusal(pair, "VM.start_on", other, first, False, False) == [
        "VM_REQUIRES_SR",
        other,
        sr,
    ]
    assert pair.call("VM.get_possible_hosts", other) == [second]
    pair.call("VM.start", other, False, False)
    assert pair.call("VM.get_resident_on", other) == second


def test_a_shared_sr_stays_one_while_several_hosts_have_it(pair):
    first, second = pair.call("host.get_all")
    sr = make(pair)
    assert refusal(pair, "SR.set_shared", sr, False)[0] == "SR_HAS_MULTIPLE_PBDS"
    pair.call("PBD.unplug", pbd_of(pair, sr, first))
    assert refusal(pair, "SR.forget", sr) == ["SR_HAS_PBD", sr]
    assert refusal(pair, "SR.destroy", sr) == ["SR_HAS_PBD", sr]
    pair.call("PBD.destroy", pbd_of(pair, sr, first))
    pair.call("SR.set_shared", sr, False)
    record = {"host": first, "SR": sr, "device_config": NFS, "other_config": {}}
    refused = refusal(pair, "PBD.create", record)
    assert refused == ["SR_NOT_SHARABLE", sr, first]
    assert pair.call("SR.get_live_hosts", sr) == [second]
