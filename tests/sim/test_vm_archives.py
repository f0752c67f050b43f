# SPDX-License-Identifier: Apache-2.0
"""Whole VMs over /export and /import, their archives read by others too."""

import gzip
import hashlib
import io
import tarfile
import xmlrpc.client

import pytest

from tests.sim.clients import (
    NULL,
    Refused,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)
from tests.sim.transfers import Carrier, finished
from xenapi_driver.sim.messages import Call
from xenapi_driver.sim.xva import tar_stream, vm_archive, xxh64

MIB = 1 << 20
SIZE = 8 * MIB
NOWHERE = "00000000-0000-0000-0000-000000000001"


@pytest.fixture
def carrier(sim, local):
    return Carrier(sim.serve(), local.session)


@pytest.fixture
def vm(sim, local, sr):
    """A halted VM with a disk, an empty drive, a drive with an image, and a VIF."""
    vm = local.call("VM.create", vm_record(name_label="exported"))
    record = vdi_record(sr, virtual_size=str(SIZE), name_label="root")
    disk = local.call("VDI.create", record)
    store = sim.world.stores[sr]
    store.write(local.call("VDI.get_location", disk), 3 * MIB, b"payload")
    local.call("VBD.create", vbd_record(vm, disk))
    empty = {"type": "CD", "mode": "RO", "bootable": False, "other_config": {}}
    record = vbd_record(vm, NULL, userdevice="3", empty=True, **empty)
    local.call("VBD.create", {**record})
    (image, *_) = local.call("VDI.get_by_name_label", "guest-tools.iso")
    local.call("VBD.create", vbd_record(vm, image, userdevice="4", **empty))
    network = local.call("PIF.get_network", local.call("PIF.get_all")[0])
    local.call("VIF.create", vif_record(vm, network))
    return vm


def drives_of(client, vm):
    return [
        client.call("VBD.get_record", ref) for ref in client.call("VM.get_VBDs", vm)
    ]


def disk_of(client, vm):
    for record in drives_of(client, vm):
        if record["type"] == "Disk":
            return record["VDI"]
    raise AssertionError("The VM has no disk.")


def files_of(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar.getmembers()}


def objects_of(archive):
    text = files_of(archive)["ova.xml"]
    wrapped = b"<params><param>" + text + b"</param></params>"
    (value,), _ = xmlrpc.client.loads(wrapped)
    return value


def only_new(client, record):
    """Return the one VM that an import names as its result."""
    assert record["status"] == "success", record["error_info"]
    (refs,), _ = xmlrpc.client.loads(
        f"<params><param>{record['result']}</param></params>"
    )
    (ref,) = refs
    return ref


def archive_of(records, **files):
    data = b"".join(tar_stream.member(n, d) for n, d in files.items())
    return tar_stream.member("ova.xml", records) + data + tar_stream.end()


# out


def test_an_archive_is_a_tar_of_records_and_parts(local, carrier, vm):
    answer, body = carrier.send("GET", "/export", uuid=local.call("VM.get_uuid", vm))
    assert answer.getheader("Content-Disposition") == (
        'attachment; filename="export.xva"'
    )
    files = files_of(body)
    (folder,) = {name.partition("/")[0] for name in files if "/" in name}
    # The first and the last part are there, and between them what is not zeros.
    assert [name for name in files if "." not in name] == [
        f"{folder}/{number:08d}" for number in (0, 3, 7)
    ]
    assert files[f"{folder}/00000003"].startswith(b"payload")
    for name in files:
        if name.endswith(".xxhash"):
            part = files[name.removesuffix(".xxhash")]
            assert files[name].decode() == xxh64.hexdigest(part)
    value = objects_of(body)
    assert value["version"]["export_vsn"] == "2"
    by_id = {one["id"]: one for one in value["objects"]}
    assert by_id[folder]["class"] == "VDI"
    assert by_id[folder]["snapshot"]["name_label"] == "root"
    (record,) = [o["snapshot"] for o in by_id.values() if o["class"] == "VM"]
    assert record["uuid"] == local.call("VM.get_uuid", vm)
    assert all(ref.startswith("Ref:") for ref in record["VBDs"])
    assert record["resident_on"] == NULL
    classes = sorted(one["class"] for one in by_id.values())
    assert classes.count("VBD") == 3
    assert {"SR", "VIF", "network"} < set(classes)


def test_an_archive_can_be_compressed(carrier, vm):
    packed = carrier.get("/export", ref=vm, use_compression="true")
    plain = carrier.get("/export", ref=vm, use_compression="bogus")
    assert files_of(gzip.decompress(packed)) == files_of(plain)
    assert len(packed) < len(plain) // 10


def test_checksums_are_those_of_the_specification():
    known = {
        b"": "ef46db3751d8e999",
        b"a": "d24ec4f1a98c6e5b",
        b"Nobody inspects the spammish repetition": "fbcea83c8a378bf1",
    }
    assert {data: xxh64.hexdigest(data) for data in known} == known


def test_a_running_vm_is_not_exported(local, carrier, vm):
    local.call("VM.start", vm, False, False)
    answer, body = carrier.send("GET", "/export", ref=vm)
    assert answer.status == 500
    assert f"VM_BAD_POWER_STATE: [ {vm}; halted, suspended; running ]" in body.decode()
    assert carrier.get("/export_metadata", ref=vm)


def test_what_is_not_there_is_told(carrier):
    for arguments, text in (
        ({}, "Not_found"),
        ({"uuid": NOWHERE}, f"UUID_INVALID: [ VM; {NOWHERE} ]"),
        ({"ref": "OpaqueRef:x"}, "HANDLE_INVALID: [ VM; OpaqueRef:x ]"),
    ):
        answer, body = carrier.send("GET", "/export", **arguments)
        assert (answer.status, text in body.decode()) == (500, True)


def test_metadata_has_no_content(local, carrier, vm):
    local.call("VM.snapshot", vm, "snap")
    answer, body = carrier.send("GET", "/export_metadata", ref=vm)
    assert answer.getheader("Content-Length") == str(len(body))
    assert body[257:262] != b"ustar"  # the oldest format, as hosts write it
    assert list(files_of(body)) == ["ova.xml"]

    def vms(**arguments):
        value = objects_of(carrier.get("/export_metadata", **arguments))
        return [
            one["snapshot"]["name_label"]
            for one in value["objects"]
            if one["class"] == "VM"
        ]

    assert vms(ref=vm) == ["exported"]
    assert vms(ref=vm, export_snapshots="true") == ["exported", "snap"]
    assert {"exported", "snap"} <= set(vms(all="true"))


# in


def test_a_vm_comes_in_as_another_one(sim, local, carrier, vm, sr):
    body = carrier.get("/export", ref=vm)
    uuid = local.call("SR.get_uuid", sr)
    record = carrier.put("/import", body, local, sr_uuid=uuid)
    assert record["other_config"] == {"object_creation": "complete"}
    new = only_new(local, record)
    old, copy = (local.call("VM.get_record", ref) for ref in (vm, new))
    assert copy["name_label"] == "exported"
    assert copy["uuid"] != old["uuid"]
    assert copy["power_state"] == "Halted"
    assert copy["memory_static_max"] == old["memory_static_max"]
    assert copy["other_config"]["mac_seed"] != old["other_config"]["mac_seed"]
    assert copy["other_config"]["import_task"].startswith("OpaqueRef:")
    mine, theirs = (local.call("VIF.get_record", r["VIFs"][0]) for r in (old, copy))
    assert mine["network"] == theirs["network"]
    assert mine["MAC"] != theirs["MAC"]
    assert (theirs["MAC_autogenerated"], theirs["currently_attached"]) == (True, False)
    disk = disk_of(local, new)
    assert local.call("VDI.get_SR", disk) == sr
    assert int(local.call("VDI.get_physical_utilisation", disk)) > 2 * MIB
    assert carrier.get("/export_raw_vdi", vdi=disk) == carrier.get(
        "/export_raw_vdi", vdi=disk_of(local, vm)
    )
    drives = {one["userdevice"]: one for one in drives_of(local, new)}
    assert drives["3"]["empty"] is True
    (image, *_) = local.call("VDI.get_by_name_label", "guest-tools.iso")
    assert (drives["4"]["VDI"], drives["4"]["empty"]) == (image, False)
    local.call("VM.start", new, False, False)


def test_a_vm_is_restored_as_it_was(local, carrier, vm, sr):
    body = carrier.get("/export", ref=vm)
    before = local.call("VM.get_record", vm)
    address = local.call("VIF.get_MAC", before["VIFs"][0])
    record = carrier.put("/import", body, local, sr_id=sr, restore="true")
    assert record["error_info"] == ["DUPLICATE_VM", vm]
    local.call("VDI.destroy", disk_of(local, vm))
    local.call("VM.destroy", vm)
    record = carrier.put("/import", body, local, sr_id=sr, restore="true")
    after = local.call("VM.get_record", only_new(local, record))
    assert after["uuid"] == before["uuid"]
    assert local.call("VIF.get_MAC", after["VIFs"][0]) == address
    assert after["other_config"]["mac_seed"] == before["other_config"]["mac_seed"]


def test_a_compressed_archive_comes_in(local, carrier, vm):
    body = carrier.get("/export", ref=vm, use_compression="true")
    new = only_new(local, carrier.put("/import", body, local))
    assert local.call("VDI.get_name_label", disk_of(local, new)) == "root"


def test_checksums_of_older_hosts_are_understood(local, carrier, vm):
    files = files_of(carrier.get("/export", ref=vm))
    records = files.pop("ova.xml")
    folder = next(iter(files)).partition("/")[0]
    content = b"old" + bytes(MIB - 3)
    older = {
        f"{folder}/00000000": content,
        f"{folder}/00000000.checksum": b"ddb5b1b8d2b2d1a0b0a4c5d6c9c6e2a7c5f6a7b8",
    }
    record = carrier.put("/import", archive_of(records, **older), local)
    assert record["error_info"] == ["IMPORT_ERROR_SOME_CHECKSUMS_FAILED"]
    older[f"{folder}/00000000.checksum"] = hashlib.sha1(content).hexdigest().encode()
    new = only_new(local, carrier.put("/import", archive_of(records, **older), local))
    found = carrier.get("/export_raw_vdi", vdi=disk_of(local, new))
    assert found == content + bytes(SIZE - MIB)


def spoilt(body):
    at = body.index(b"payload")
    return body[:at] + b"PAYLOAD" + body[at + 7 :]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda body: b"garbage" * 100, "IMPORT_ERROR_PREMATURE_EOF"),
        (lambda body: b"", "IMPORT_ERROR_PREMATURE_EOF"),
        (lambda body: body[: len(body) // 2], "IMPORT_ERROR_PREMATURE_EOF"),
        (lambda body: body[: body.index(b"export_vsn")], "IMPORT_ERROR_PREMATURE_EOF"),
        (spoilt, "IMPORT_ERROR_SOME_CHECKSUMS_FAILED"),
        (
            lambda body: tar_stream.member("x", b"") + tar_stream.end(),
            "IMPORT_ERROR_UNEXPECTED_FILE",
        ),
        (lambda body: archive_of(b"<value>no</value>"), "IMPORT_ERROR"),
        (
            lambda body: body.replace(
                b"<name>export_vsn</name><value>2", b"<name>export_vsn</name><value>3"
            ),
            "IMPORT_INCOMPATIBLE_VERSION",
        ),
    ],
)
def test_a_bad_archive_leaves_nothing(sim, local, carrier, vm, damage, code):
    body = damage(carrier.get("/export", ref=vm))
    before = sim.inventory()
    record = carrier.put("/import", body, local)
    assert (record["status"], record["error_info"][0]) == ("failure", code)
    after = sim.inventory()
    before.pop("task"), after.pop("task")
    assert after == before


def test_a_refusal_that_comes_late_stands_in_the_answer(carrier):
    answer, body = carrier.send("PUT", "/import", b"garbage" * 100)
    assert answer.status == 200
    assert body.startswith(b"HTTP/1.1 500 Internal Error\r\n")
    assert b"IMPORT_ERROR_PREMATURE_EOF" in body


def test_a_full_sr_takes_nothing(sim, local, carrier, vm, sr):
    body = carrier.get("/export", ref=vm)
    before = sim.inventory()
    store = sim.world.stores[sr]
    store.size_bytes = store.used_bytes() + MIB
    record = carrier.put("/import", body, local)
    assert record["status"] == "failure"
    after = sim.inventory()
    before.pop("task"), after.pop("task")
    assert after == before


def test_an_import_needs_an_sr(local, carrier):
    pool = local.call("pool.get_all")[0]
    local.call("pool.set_default_SR", pool, NULL)
    answer, text = carrier.send("PUT", "/import", b"")
    assert answer.status == 500
    assert b"DEFAULT_SR_NOT_FOUND" in text


def test_metadata_finds_its_disks(local, carrier, vm):
    body = carrier.get("/export_metadata", ref=vm)
    before = local.call("VM.get_all")
    record = carrier.put("/import_metadata", body, local, dry_run="true")
    assert record["status"] == "success"
    assert local.call("VM.get_all") == before
    new = only_new(local, carrier.put("/import_metadata", body, local))
    assert disk_of(local, new) == disk_of(local, vm)
    local.call("VDI.destroy", disk_of(local, vm))
    record = carrier.put("/import_metadata", body, local)
    assert record["error_info"][:2] == ["UUID_INVALID", "VDI"]
    forced = carrier.put("/import_metadata", body, local, force="true")
    assert "Disk" not in {
        one["type"] for one in drives_of(local, only_new(local, forced))
    }


def test_a_suspended_vm_comes_back_suspended(local, carrier, vm, sr):
    local.call("VM.start", vm, False, False)
    local.call("VM.suspend", vm)
    body = carrier.get("/export", ref=vm, preserve_power_state="true")
    new = only_new(local, carrier.put("/import", body, local))
    assert local.call("VM.get_power_state", new) == "Suspended"
    image = local.call("VM.get_suspend_VDI", new)
    assert image not in (NULL, local.call("VM.get_suspend_VDI", vm))
    assert local.call("VDI.get_SR", image) == sr
    halted = carrier.get("/export", ref=vm)
    new = only_new(local, carrier.put("/import", halted, local))
    assert local.call("VM.get_power_state", new) == "Halted"


def test_a_start_waits_for_an_export(local, carrier, vm, monkeypatch):
    seen = []

    def start_meanwhile(disk, prefix, put, moved):
        seen.append(local.call("VM.get_current_operations", vm))
        seen.append(local.call("Async.VM.start", vm, False, False))
        seen.append(local.call("VM.get_power_state", vm))

    monkeypatch.setattr("xenapi_driver.sim.xva.xva_disks.write", start_meanwhile)
    carrier.get("/export", ref=vm)
    operations, task, state = seen
    assert (list(operations.values()), state) == (["export"], "Halted")
    assert finished(local, task)["status"] == "success"
    assert local.call("VM.get_current_operations", vm) == {}
    assert local.call("VM.get_power_state", vm) == "Running"


def test_a_slow_reader_does_not_hold_up_the_pool(sim, vm):
    guard, held = sim.world.db.guard, []
    call = Call(sim.world, "")
    vm_archive.send(call, vm, lambda data: held.append(guard.is_owned()), False)
    assert held and not any(held)


def test_a_host_fetches_an_archive_by_itself(sim, local, vm, sr):
    place = sim.serve().url.partition("://")[2]
    path = f"{place}/export?ref={vm}"
    record = local.task(
        "Async.VM.import", f"http://root:secret@{path}", sr, False, False
    )
    new = only_new(local, record)
    assert local.call("VDI.get_SR", disk_of(local, new)) == sr
    assert local.call("VM.get_name_label", new) == "exported"
    before = sim.inventory()
    for url, code in (
        (f"http://root:wrong@{path}", "IMPORT_ERROR"),
        ("file:///etc/passwd", "INVALID_VALUE"),
        (f"http://{place}/nothing", "IMPORT_ERROR"),
    ):
        with pytest.raises(Refused) as caught:
            local.call("VM.import", url, sr, False, False)
        assert caught.value.code == code
    assert sim.inventory() == before
