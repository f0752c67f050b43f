# SPDX-License-Identifier: Apache-2.0
"""One disk over /import_raw_vdi and /export_raw_vdi, judged by independent readers."""

import base64
import hashlib
import io
import struct
import subprocess
import tarfile
import threading

import pytest

from tests.sim import vhd_judges
from tests.sim.clients import (
    Refused,
    XmlClient,
    vbd_record,
    vdi_record,
    vm_record,
)
from tests.sim.transfers import Carrier, finished
from xenapi_driver.sim import Simulator
from xenapi_driver.sim.storage import vhd

MIB = 1 << 20
SIZE = 8 * MIB
IMPORT, EXPORT = "/import_raw_vdi", "/export_raw_vdi"
NOWHERE = "OpaqueRef:00000000-0000-0000-0000-000000000000"
# Data at the start, over a block's border and at the end.
CONTENT = (
    b"nova" * 1000
    + bytes(2 * MIB - 5000)
    + b"border" * 1000
    + bytes(SIZE - 2 * MIB - 6000 + 1000 - 512)
    + b"z" * 512
)
IO_ERROR = ["VDI_IO_ERROR", "Device I/O errors"]


@pytest.fixture
def carrier(sim, local):
    return Carrier(sim.serve(), local.session)


@pytest.fixture
def disk(local, sr):
    return local.call("VDI.create", vdi_record(sr, virtual_size=str(SIZE)))


@pytest.fixture
def full(local, carrier, disk):
    """A disk with CONTENT."""
    assert carrier.put(IMPORT, CONTENT, local, vdi=disk)["status"] == "success"
    return disk


def another(local, sr, size=SIZE):
    return local.call("VDI.create", vdi_record(sr, virtual_size=str(size)))


def test_raw_content_goes_in_and_out(sim, local, carrier, disk):
    assert len(CONTENT) == SIZE
    record = carrier.put(IMPORT, CONTENT, local, vdi=disk, format="raw")
    assert (record["status"], record["progress"]) == ("success", 1.0)
    assert record["result"] == f"<value>{disk}</value>"
    uuid = local.call("VDI.get_uuid", disk)
    answer, body = carrier.send("GET", EXPORT, vdi=uuid, format="raw")
    assert body == CONTENT
    assert answer.getheader("content-type") == "application/octet-stream"
    assert answer.getheader("content-disposition") == (
        f'attachment; filename="{uuid}.raw"'
    )
    assert answer.getheader("Connection") == "close"
    assert answer.getheader("content-length") is None
    task = local.call("task.get_record", answer.getheader("task-id"))
    assert (task["status"], task["result"]) == ("success", "")


def test_zeros_take_no_room_and_overwrite(sim, local, carrier, disk):
    carrier.put(IMPORT, bytes(SIZE), local, vdi=disk)
    thin = int(local.call("VDI.get_physical_utilisation", disk))
    assert thin < MIB
    carrier.put(IMPORT, CONTENT, local, vdi=disk)
    assert int(local.call("VDI.get_physical_utilisation", disk)) > 2 * MIB
    carrier.put(IMPORT, bytes(SIZE), local, vdi=disk)
    assert carrier.get(EXPORT, vdi=disk) == bytes(SIZE)


def test_what_was_imported_is_on_the_sr(sim, local, carrier, full, tmp_path):
    path = sim.sr_path / f"{local.call('VDI.get_uuid', full)}.vhd"
    assert vhd_judges.qemu_content(path, tmp_path / "raw") == CONTENT
    expected = hashlib.sha256(CONTENT).hexdigest()
    assert vhd_judges.libvhdi_digest(path) == expected


def test_a_short_stream_leaves_the_rest(local, carrier, full):
    record = carrier.put(IMPORT, b"x" * 8192, local, vdi=full)
    assert record["status"] == "success"
    assert carrier.get(EXPORT, vdi=full) == b"x" * 8192 + CONTENT[8192:]


def test_a_stream_larger_than_the_disk_fails(local, carrier, disk):
    record = carrier.put(IMPORT, CONTENT + bytes(4096), local, vdi=disk)
    assert (record["status"], record["error_info"]) == ("failure", IO_ERROR)


def test_pieces_say_where_they_belong(local, carrier, full):
    pieces = b"".join(
        struct.pack("<QI", offset, len(data)) + data
        for offset, data in ((4096, b"chunkdat"), (5 * MIB, b"later"))
    )
    ended = pieces + struct.pack("<QI", 0, 0)
    record = carrier.put(IMPORT, ended, local, vdi=full, chunked="true")
    assert record["status"] == "success"
    found = carrier.get(EXPORT, vdi=full)
    assert found.find(b"chunkdat") == 4096
    assert found.find(b"later") == 5 * MIB
    assert found[:4000] == CONTENT[:4000]
    record = carrier.put(IMPORT, pieces, local, vdi=full, chunked="true")
    assert record["error_info"] == IO_ERROR  # the end was not told
    beyond = struct.pack("<QI", SIZE - 2, 4) + b"last"
    record = carrier.put(IMPORT, beyond, local, vdi=full, chunked="true")
    assert record["error_info"] == IO_ERROR


def test_an_argument_without_a_value_is_a_bad_request(local, carrier, full):
    answer, _ = carrier.send("PUT", f"{IMPORT}?vdi={full}&chunked", b"x")
    assert answer.status == 400
    assert carrier.get(EXPORT, vdi=full) == CONTENT


# VHD


def test_a_vhd_goes_out_as_others_read_it(local, carrier, full, tmp_path):
    answer, body = carrier.send("GET", EXPORT, vdi=full, format="vhd")
    assert answer.getheader("content-type") == "application/vhd"
    path = tmp_path / "out.vhd"
    path.write_bytes(body)
    assert vhd_judges.qemu_size(path) == SIZE
    assert vhd_judges.qemu_content(path, tmp_path / "raw") == CONTENT
    assert vhd_judges.libvhdi_digest(path) == hashlib.sha256(CONTENT).hexdigest()


def test_a_vhd_comes_in_again(local, carrier, full, sr):
    body = carrier.get(EXPORT, vdi=full, format="vhd")
    new = another(local, sr)
    record = carrier.put(IMPORT, body, local, vdi=new, format="vhd")
    assert record["result"] == f"<value>{new}</value>"
    assert carrier.get(EXPORT, vdi=new) == CONTENT


def test_a_vhd_of_qemu_comes_in(local, carrier, disk, tmp_path):
    (tmp_path / "raw").write_bytes(CONTENT)
    path = tmp_path / "qemu.vhd"
    options = "subformat=dynamic,force_size=on"
    vhd_judges.convert_by_qemu(tmp_path / "raw", path, options)
    record = carrier.put(IMPORT, path.read_bytes(), local, vdi=disk, format="vhd")
    assert record["status"] == "success"
    assert carrier.get(EXPORT, vdi=disk) == CONTENT


def test_only_differences_go_out_on_a_base(sim, local, carrier, full, sr, tmp_path):
    base = local.call("VDI.snapshot", full)
    changed = bytearray(CONTENT)
    changed[5 * MIB : 5 * MIB + 4] = b"more"
    carrier.put(IMPORT, bytes(changed), local, vdi=full)
    delta = carrier.get(EXPORT, vdi=full, base=base, format="vhd")
    assert len(delta) < 3 * MIB
    name = local.call("VDI.get_uuid", base)
    whole = sim.sr_path / f"{name}.vhd"
    (tmp_path / "delta.vhd").write_bytes(delta)
    with vhd.VhdFile(tmp_path / "delta.vhd") as file:
        # It names the base's own file as its parent.
        assert file.parent_path.name == whole.name
        assert len(file.blocks) == 1
    with vhd.VhdFile(whole) as older, vhd.VhdFile(tmp_path / "delta.vhd") as newer:
        assert newer.header.parent_uuid == older.footer.uuid
    # And it comes in on top of a copy of the base.
    copy = local.call("VDI.copy", base, sr)
    record = carrier.put(IMPORT, delta, local, vdi=copy, format="vhd")
    assert record["status"] == "success"
    assert carrier.get(EXPORT, vdi=copy) == bytes(changed)


def test_a_chain_that_came_in_by_parts_is_read_by_libvhdi(
    sim, local, carrier, full, sr
):
    copy = local.call("VDI.copy", full, sr)
    local.call("VDI.snapshot", copy)
    pieces = struct.pack("<QI", 3 * MIB, 4) + b"leaf" + struct.pack("<QI", 0, 0)
    carrier.put(IMPORT, pieces, local, vdi=copy, chunked="true")
    parent = local.call("VDI.get_sm_config", copy)["vhd-parent"]
    uuids = local.call("VDI.get_uuid", copy), parent
    expected = CONTENT[: 3 * MIB] + b"leaf" + CONTENT[3 * MIB + 4 :]
    found = vhd_judges.libvhdi_digest(*(sim.sr_path / f"{u}.vhd" for u in uuids))
    assert found == hashlib.sha256(expected).hexdigest()


@pytest.mark.parametrize("damage", ["garbage", "cut", "fixed", "larger"])
def test_a_bad_vhd_fails_the_task(local, carrier, full, sr, tmp_path, damage):
    good = carrier.get(EXPORT, vdi=full, format="vhd")
    small = another(local, sr, 4 * MIB)
    if damage == "fixed":
        (tmp_path / "raw").write_bytes(bytes(4 * MIB))
        options = "subformat=fixed,force_size=on"
        vhd_judges.convert_by_qemu(tmp_path / "raw", tmp_path / "f.vhd", options)
        body = (tmp_path / "f.vhd").read_bytes()
    else:
        body = {"garbage": b"garbage" * 1000, "cut": good[:-3000000], "larger": good}[
            damage
        ]
    record = carrier.put(IMPORT, body, local, vdi=small, format="vhd")
    assert (record["status"], record["error_info"]) == ("failure", IO_ERROR)


# other formats


def test_a_qcow2_goes_out_as_qemu_reads_it(carrier, full, tmp_path):
    answer, body = carrier.send("GET", EXPORT, vdi=full, format="qcow2")
    assert answer.getheader("content-type") == "application/x-qemu-disk"
    path, raw = tmp_path / "out.qcow2", tmp_path / "raw"
    path.write_bytes(body)
    try:
        subprocess.run(["qemu-img", "check", str(path)], check=True)
    except FileNotFoundError:
        pytest.skip("missing: qemu-img")
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(raw)]
    subprocess.run(command, check=True)
    assert raw.read_bytes() == CONTENT


def qemu_makes(raw, path, *options):
    """Let qemu make a QCOW2 image of raw content."""
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options]
    try:
        subprocess.run([*command, str(raw), str(path)], check=True)
    except FileNotFoundError:
        pytest.skip("missing: qemu-img")
    return path.read_bytes()


@pytest.mark.parametrize(
    "options", [(), ("-c",), ("-o", "compat=0.10"), ("-o", "cluster_size=2M")]
)
def test_a_qcow2_of_qemu_comes_in(local, carrier, disk, tmp_path, options):
    (tmp_path / "raw").write_bytes(CONTENT)
    body = qemu_makes(tmp_path / "raw", tmp_path / "in.qcow2", *options)
    record = carrier.put(IMPORT, body, local, vdi=disk, format="qcow2")
    assert record["status"] == "success"
    assert carrier.get(EXPORT, vdi=disk) == CONTENT


def test_a_qcow2_goes_out_and_in(local, carrier, full, sr):
    body = carrier.get(EXPORT, vdi=full, format="qcow2")
    new = another(local, sr)
    carrier.put(IMPORT, body, local, vdi=new, format="qcow2")
    assert carrier.get(EXPORT, vdi=new) == CONTENT


@pytest.mark.parametrize(
    "damage", ["cut", "garbage", "backed", "larger", "packed", "far", "far packed"]
)
def test_a_bad_qcow2_fails_the_task(local, carrier, sr, disk, tmp_path, damage):
    (tmp_path / "raw").write_bytes(CONTENT)
    option = ("-c",) if damage == "packed" else ()
    body = bytearray(qemu_makes(tmp_path / "raw", tmp_path / "in.qcow2", *option))
    if damage == "cut":
        del body[100:]
    elif damage == "garbage":
        body[:4] = b"junk"
    elif damage == "backed":
        body[8:16] = struct.pack(">Q", 512)
    elif damage == "far":
        (table,) = struct.unpack_from(">Q", body, 40)
        body[table : table + 8] = struct.pack(">Q", 0x00FFFFFFFFFFFE00)
    elif damage == "far packed":
        (table,) = struct.unpack_from(">Q", body, 40)
        table = struct.unpack_from(">Q", body, table)[0] & 0x00FFFFFFFFFFFE00
        body[table : table + 8] = struct.pack(">Q", 1 << 62 | (1 << 54) - 1)
    elif damage == "packed":
        body[5 * 65536 :] = b"\xff" * (len(body) - 5 * 65536)
    target = another(local, sr, 2 * MIB) if damage == "larger" else disk
    record = carrier.put(IMPORT, bytes(body), local, vdi=target, format="qcow2")
    assert (record["status"], record["error_info"]) == ("failure", IO_ERROR)


def test_a_tar_goes_out_and_in(local, carrier, full, sr):
    body = carrier.get(EXPORT, vdi=full, format="tar")
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        names = archive.getnames()
        assert archive.extractfile("00000000").read() == CONTENT[:MIB]
    assert "00000007.xxhash" in names
    assert "00000004" not in names  # zeros
    new = another(local, sr)
    assert carrier.put(IMPORT, body, local, vdi=new, format="tar")["status"] == (
        "success"
    )
    assert carrier.get(EXPORT, vdi=new) == CONTENT
    spoilt = body.replace(b"nova", b"evil", 1)
    record = carrier.put(IMPORT, spoilt, local, vdi=new, format="tar")
    assert record["error_info"] == IO_ERROR


def test_an_unknown_format_is_not_found(carrier, disk):
    assert carrier.send("GET", EXPORT, vdi=disk, format="bogus")[0].status == 404
    assert carrier.send("PUT", IMPORT, b"", vdi=disk, format="bogus")[0].status == 404


# who, where, when


def test_a_new_disk_is_made_of_the_right_size(local, carrier, sr):
    record = carrier.put(IMPORT, CONTENT, local, sr_id=sr, format="raw")
    ref = record["result"].removeprefix("<value>").removesuffix("</value>")
    about = local.call("VDI.get_record", ref)
    assert (about["name_label"], about["virtual_size"]) == ("Imported VDI", str(SIZE))
    assert carrier.get(EXPORT, vdi=ref) == CONTENT
    before = local.call("VDI.get_all")
    assert carrier.put(IMPORT, b"x", local, sr_id=sr, format="vhd")["status"] == (
        "failure"
    )
    assert local.call("VDI.get_all") == before


def test_basic_authentication_and_cookies(sim, local, carrier, full):
    def ask(**headers):
        answer, body = carrier.send(
            "GET", EXPORT, None, headers, session_id=None, vdi=full
        )
        return answer.status, body

    good = base64.b64encode(b"root:secret").decode()
    assert ask(Authorization=f"Basic {good}") == (200, CONTENT)
    assert ask(Cookie=f"session_id={local.session}") == (200, CONTENT)
    bad = base64.b64encode(b"root:wrong").decode()
    assert ask(Authorization=f"Basic {bad}")[0] == 401
    assert ask()[0] == 401


def test_what_cannot_be_found_is_told(local, carrier, disk):
    for arguments, text in (
        ({}, b"Missing vdi query parameter"),
        ({"vdi": "no-such"}, b"Db_exn.Read_missing_uuid"),
        ({"vdi": disk, "task_id": NOWHERE}, b"Db_exn.DBCache_NotFound"),
        ({"vdi": disk, "base": "no-such", "format": "vhd"}, b"Read_missing_uuid"),
    ):
        answer, body = carrier.send("GET", EXPORT, **arguments)
        assert (answer.status, text in body) == (500, True)


def test_http_chunks_are_refused(carrier, disk):
    head = {"Transfer-Encoding": "chunked"}
    assert carrier.send("PUT", IMPORT, b"", head, vdi=disk)[0].status == 403


def test_a_disk_in_use_is_read_but_not_written(local, carrier, full):
    vm = local.call("VM.create", vm_record())
    local.call("VBD.create", vbd_record(vm, full))
    local.call("VM.start", vm, False, False)
    assert carrier.get(EXPORT, vdi=full) == CONTENT
    record = carrier.put(IMPORT, bytes(SIZE), local, vdi=full)
    assert record["error_info"] == ["VDI_IN_USE", full, "import"]
    assert carrier.get(EXPORT, vdi=full) == CONTENT


def test_a_read_only_disk_is_not_written(local, carrier, sr):
    disk = local.call(
        "VDI.create", vdi_record(sr, virtual_size="8388608", read_only=True)
    )
    record = carrier.put(IMPORT, b"x", local, vdi=disk)
    assert record["error_info"] == ["VDI_READONLY", disk]


def test_an_unplugged_sr_is_refused(local, carrier, disk, sr):
    for pbd in local.call("SR.get_PBDs", sr):
        local.call("PBD.unplug", pbd)
    answer, body = carrier.send("GET", EXPORT, vdi=disk)
    assert answer.status == 500
    assert b"SR_HAS_NO_PBDS" in body


def test_a_full_sr_breaks_the_transfer(sim, local, carrier, disk, sr):
    sim.world.stores[sr].size_bytes = sim.world.stores[sr].used_bytes() + MIB
    record = carrier.put(IMPORT, CONTENT, local, vdi=disk)
    assert record["error_info"] == IO_ERROR


def test_others_work_while_a_disk_comes_in(sim, local, carrier, disk, sr):
    """A slow sender holds neither the database nor the SR."""
    go, task = threading.Event(), local.call("task.create", "slow", "")

    def slowly():
        yield CONTENT[: 4 * MIB]
        assert go.wait(10)
        yield CONTENT[4 * MIB :]

    length = {"Content-Length": str(SIZE)}
    sender = threading.Thread(
        target=carrier.send,
        args=("PUT", IMPORT, slowly(), length),
        kwargs={"vdi": disk, "task_id": task},
    )
    sender.start()
    try:
        while not float(local.call("task.get_progress", task)):
            local.call("event.from", [f"task/{task}"], "", 0.05)
        twin = local.call("VDI.create", vdi_record(sr, virtual_size=str(SIZE)))
        local.call("VDI.destroy", local.call("VDI.clone", twin))
        for method in ("VDI.snapshot", "VDI.destroy"):
            with pytest.raises(Refused) as caught:
                local.call(method, disk)
            assert caught.value.code == "VDI_IN_USE"
        assert local.call("task.get_status", task) == "pending"
    finally:
        go.set()
        sender.join()
    assert finished(local, task)["status"] == "success"
    assert carrier.get(EXPORT, vdi=disk) == CONTENT


def test_a_cancelled_transfer_ends(local, carrier, disk):
    task = local.call("task.create", "cancelled", "")

    def until_cancelled():
        yield CONTENT[: 2 * MIB]
        local.call("task.cancel", task)
        while True:
            yield CONTENT[: 2 * MIB]

    with pytest.raises(OSError):
        length = {"Content-Length": str(1 << 40)}
        carrier.send("PUT", IMPORT, until_cancelled(), length, vdi=disk, task_id=task)
    record = finished(local, task)
    assert (record["status"], record["error_info"][0]) == (
        "cancelled",
        "TASK_CANCELLED",
    )


def test_the_caller_is_sent_to_a_host_that_has_the_sr(tmp_path):
    sim = Simulator(tmp_path, hosts=2)
    try:
        local = XmlClient(sim.handle)
        carrier = Carrier(sim.serve(), local.session)
        second = local.call("host.get_all")[1]
        (sr,) = [
            local.call("PBD.get_SR", pbd)
            for pbd in local.call("host.get_PBDs", second)
            if len(local.call("SR.get_PBDs", local.call("PBD.get_SR", pbd))) == 1
            and local.call("SR.get_type", local.call("PBD.get_SR", pbd)) == "ext"
        ]
        disk = local.call("VDI.create", vdi_record(sr, virtual_size=str(SIZE)))
        address = local.call("host.get_address", second)
        for method, path in (("GET", EXPORT), ("PUT", IMPORT)):
            answer, _ = carrier.send(method, path, b"", vdi=disk, format="raw")
            assert answer.status == 302
            location = answer.getheader("Location")
            assert location.startswith(f"https://{address}{path}?session_id=")
            assert location.endswith(f"vdi={disk.replace(':', '%3A')}&format=raw")
        there = Carrier(sim.serve(machine=1), local.session)
        assert there.get(EXPORT, vdi=disk) == bytes(SIZE)
    finally:
        sim.close()


def test_a_disk_that_is_being_let_go_is_waited_for(sim, local, carrier, disk):
    """Clients send an empty request first, and the real one on its answer."""
    uuid = local.call("VDI.get_uuid", disk)
    sim.world.held_disks.add(uuid)
    release = threading.Timer(0.2, sim.world.held_disks.discard, (uuid,))
    release.start()
    try:
        assert carrier.put(IMPORT, CONTENT, local, vdi=disk)["status"] == "success"
    finally:
        release.join()
