# SPDX-License-Identifier: Apache-2.0
"""Snapshots: what the image holds, what is left on the host, what Nova is told."""

from __future__ import annotations

import random
import threading

import pytest
from nova import exception as nova_exception
from nova.compute import task_states

from tests import builders
from tests.breaking import on_host
from tests.dom0.glance_server import Trouble
from tests.functional.snapshots import Snapshots, unpacked
from tests.sim.clients import wait_until
from xenapi_driver.images import direct_vhd
from xenapi_driver.steps import snapshot as steps
from xenapi_driver.xapi import vdi

SAID = [
    (task_states.IMAGE_PENDING_UPLOAD, None),
    (task_states.IMAGE_UPLOADING, task_states.IMAGE_PENDING_UPLOAD),
]
MIB = builders.MIB


@pytest.fixture
def rig(bare_rig, tarball):
    """A rig that looks often, and asks no service twice."""
    bare_rig.set_option("vhd_coalesce_poll_interval", 0.2)
    bare_rig.set_option("num_retries", 1, "glance")
    bare_rig.start()
    bare_rig.image_id = bare_rig.add_image(tarball)
    return bare_rig


@pytest.fixture
def snapshots(rig):
    return Snapshots(rig)


def test_the_image_holds_what_the_running_server_had_written(rig, snapshots):
    server = snapshots.server()
    server.write(5 * MIB, b"written by the guest")
    before = on_host(rig)
    image = snapshots.take(server)
    assert snapshots.said == SAID
    assert image.status == "active"
    assert (image.fields["disk_format"], image.fields["container_format"]) == (
        "vhd", "ovf",
    )  # fmt: skip
    assert unpacked(rig, image)[1] == server.written
    assert server.vm["power_state"] == "Running"
    assert on_host(rig) == before


def test_a_snapshot_boots_and_so_does_a_snapshot_of_that(rig, snapshots):
    server = snapshots.server()
    for number in range(2):
        server.write((3 + number) * MIB, b"generation %d" % number)
        image = snapshots.take(server)
        other = snapshots.server(image.identity)
        assert other.read_back == server.written
        other.content = server.content
        server = other


def test_what_is_written_between_snapshots_is_in_the_later_one(rig, snapshots):
    server = snapshots.server()
    images, expected = [], []
    for number in range(4):
        server.write(number * 3 * MIB, b"number %d" % number * 1000)
        images.append(snapshots.take(server))
        expected.append(server.written)
    server.write(MIB, b"after all of them")
    assert [unpacked(rig, image)[1] for image in images] == expected
    assert rig.sim.settle_storage()
    assert server.read_back == server.written


@pytest.mark.parametrize("state", ["Halted", "Paused", "Suspended"])
def test_a_server_that_does_not_run_is_snapshotted_as_it_is(rig, snapshots, state):
    server = snapshots.server()
    server.write(7 * MIB, b"before it stopped")
    verb = {"Halted": "hard_shutdown", "Paused": "pause", "Suspended": "suspend"}
    rig.host.call(f"VM.{verb[state]}", server.vm["uuid"])
    image = snapshots.take(server)
    assert unpacked(rig, image)[1] == server.written
    assert server.vm["power_state"] == state


@pytest.mark.parametrize(
    ("image_said", "wanted", "found"),
    [("", True, "True"), ("", False, "False"), ("disabled", False, "disabled")],
)
def test_properties_are_kept(rig, snapshots, image_said, wanted, found):
    rig.set_option("default_os_type", "plan9")
    system = {"image_auto_disk_config": image_said} if image_said else {}
    server = snapshots.server(
        os_type=None, system_metadata=system, auto_disk_config=wanted
    )
    image = snapshots.take(server)
    assert image.fields["auto_disk_config"] == found
    assert image.fields["os_type"] == "plan9"


def test_the_compression_level_is_noted(bare_rig, tarball):
    bare_rig.set_option("image_compression_level", 7)
    bare_rig.start()
    bare_rig.image_id = bare_rig.add_image(tarball)
    image = Snapshots(bare_rig).take(Snapshots(bare_rig).server())
    assert image.fields["xenapi_image_compression_level"] == "7"


def test_an_image_deleted_meanwhile_ends_it_quietly(rig, snapshots):
    server = snapshots.server()
    before = on_host(rig)
    image = snapshots.image()
    del rig.images.images[image.identity]
    with pytest.raises(nova_exception.ImageNotFound, match=image.identity):
        snapshots.take(server, image)
    assert rig.images.puts() == 0
    assert on_host(rig) == before


def test_a_server_being_deleted_ends_it(rig, snapshots):
    server = snapshots.server()
    before = on_host(rig)

    def tell(task_state, expected_state=None):
        if task_state == task_states.IMAGE_UPLOADING:
            raise nova_exception.UnexpectedDeletingTaskStateError(
                instance_uuid=server.instance.uuid, expected={}, actual={}
            )

    snapshots.tell = tell
    image = snapshots.image()
    with pytest.raises(nova_exception.UnexpectedDeletingTaskStateError):
        snapshots.take(server, image)
    assert (image.status, rig.images.puts()) == ("queued", 0)
    assert on_host(rig) == before


def test_a_server_deleted_while_it_is_snapshotted_is_gone(rig, snapshots):
    server = snapshots.server()

    def tell(task_state, expected_state=None):
        rig.destroy(server.instance)
        for left in rig.host.records("VDI", is_a_snapshot=True):
            rig.host.destroy("VDI", left["uuid"])

    snapshots.tell = tell
    with pytest.raises(nova_exception.InstanceNotFound):
        snapshots.take(server)


def test_a_server_without_a_vm_is_not_found(rig, snapshots):
    server = snapshots.server()
    rig.destroy(server.instance)
    with pytest.raises(nova_exception.InstanceNotFound):
        snapshots.take(server)


@pytest.mark.parametrize(
    "trouble",
    [Trouble(status=503), Trouble(after=100_000, hang_up=True), Trouble(status=413)],
    ids=["says no", "hangs up", "quota"],
)
def test_an_upload_that_fails_leaves_no_half_image(rig, snapshots, trouble):
    server = snapshots.server()
    before = on_host(rig)
    image = snapshots.image()
    rig.images.troubles = [trouble] * 50
    with pytest.raises(nova_exception.NovaException, match=image.identity):
        snapshots.take(server, image)
    assert (image.status, image.data) == ("queued", None)
    assert on_host(rig) == before


def test_one_upload_that_breaks_off_is_begun_anew(rig, snapshots):
    server = snapshots.server()
    rig.images.troubles = [Trouble(after=100_000, hang_up=True)]
    image = snapshots.take(server)
    assert unpacked(rig, image)[1] == server.written


@pytest.mark.parametrize("others", [0, 12])
def test_requests(rig, snapshots, others):
    """Whatever else is on the SR."""
    server = snapshots.server()
    for _ in range(others):
        rig.host.xenapi.VDI.clone(
            rig.host.xenapi.VDI.get_by_uuid(server.disk["uuid"]), {}
        )
    assert rig.driver.get_info(server.instance).state == 1
    with rig.recording() as made:
        snapshots.take(server)
    assert len(made) <= 6, made
    assert "SR.scan" not in list(made)


def test_uploads_have_a_handler_of_their_own(rig, snapshots):
    """``image_upload_handler``; the host itself makes one disk of the chain."""
    rig.set_option("image_upload_handler", "vdi_remote_stream")
    rig.driver.cleanup_host("compute1")
    rig.start()
    server = snapshots.server()
    server.write(3 * MIB, b"of the guest")
    before = on_host(rig)
    with rig.recording() as made:
        image = snapshots.take(server)
    assert unpacked(rig, image) == (1, server.written)
    assert "GET /export_raw_vdi" in list(made)
    assert len(made) <= 6, made
    assert on_host(rig) == before
    assert snapshots.server(image.identity).read_back == server.written


def test_an_upload_handler_that_cannot_serve_the_sr_is_refused(bare_rig):
    bare_rig.host.create_sr("lvm", key="value")
    bare_rig.set_option("sr_matching_filter", "other-config:key=value")
    bare_rig.set_option("image_handler", "vdi_remote_stream")
    bare_rig.set_option("image_upload_handler", "direct_vhd")
    with pytest.raises(
        nova_exception.InvalidConfiguration, match="remove image_upload_handler"
    ):
        bare_rig.start()
    bare_rig.set_option("image_upload_handler", "")
    bare_rig.start()


def test_a_server_deleted_during_the_upload_does_no_harm(rig, snapshots):
    """Its disk goes, and the snapshot is uploaded to its end."""
    server = snapshots.server()
    server.write(8 * MIB, random.Random(0).randbytes(4 * MIB))
    image, expected = snapshots.image(), server.written
    rig.images.slow = 0.01
    upload = threading.Thread(target=snapshots.take, args=(server, image))
    upload.start()
    wait_until(rig.images.puts, seconds=30)
    rig.destroy(server.instance)
    assert image.status != "active"
    upload.join()
    assert unpacked(rig, image)[1] == expected
    assert rig.host.records("VDI", name_label=server.instance.name) == []


def test_many_at_once(rig, snapshots):
    """Their disks are on one base copy, and the storage manager works all the time."""
    servers = [snapshots.server() for _ in range(4)]
    found = {}

    def work(number):
        found[number] = [snapshots.take(servers[number]) for _ in range(2)]

    for number, server in enumerate(servers):
        server.write((3 + number) * MIB, b"number %d" % number * 512)
    before = on_host(rig)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, server in enumerate(servers):
        contents = {unpacked(rig, image)[1] for image in found[number]}
        assert contents == {server.written}
    assert on_host(rig) == before


def test_a_guest_that_must_be_quiesced_has_to_be_stopped(rig, snapshots):
    server = snapshots.server(system_metadata={"image_os_require_quiesce": "yes"})
    before = on_host(rig)
    with pytest.raises(nova_exception.InstanceQuiesceNotSupported, match="stop the"):
        snapshots.take(server)
    assert on_host(rig) == before
    rig.host.call("VM.hard_shutdown", server.vm["uuid"])
    rig.driver.home.session.events.barrier()
    assert snapshots.take(server).status == "active"


def test_a_snapshot_that_cannot_be_removed_does_no_harm(rig, snapshots):
    server = snapshots.server()
    busy = ["VDI_IN_USE", "OpaqueRef:x", "destroy"]
    rig.sim.faults.add("VDI.destroy", busy, times=3)
    image = snapshots.take(server)
    assert image.status == "active"
    assert len(rig.host.records("VDI", is_a_snapshot=True)) == 1
    # The next one takes it with it.
    snapshots.take(server)
    assert rig.host.records("VDI", is_a_snapshot=True) == []


def test_what_a_killed_service_left_goes_at_the_next_start(rig, snapshots):
    server, others = snapshots.server(), snapshots.server()
    api, home = rig.host.xenapi, rig.driver.home
    (disk, other) = (
        vdi.by_uuid(home.session, one.disk["uuid"]) for one in (server, others)
    )
    before = on_host(rig)
    steps.TakeSnapshot(home, disk, "image").run(steps.Taken())
    operators = api.VDI.snapshot(other.ref, {})
    # Another member's service is just about to upload this one.
    elsewhere = api.VDI.snapshot(other.ref, {})
    api.VDI.add_to_other_config(elsewhere, steps.IMAGE_KEY, "image")
    api.VDI.add_to_other_config(elsewhere, steps.HOST_KEY, "another host's UUID")
    rig.driver.cleanup_host("compute1")
    rig.start()
    left = [one["uuid"] for one in rig.host.records("VDI", is_a_snapshot=True)]
    kept = [rig.host.record("VDI", one)["uuid"] for one in (operators, elsewhere)]
    assert sorted(left) == sorted(kept)
    for one in (operators, elsewhere):
        api.VDI.destroy(one)
    assert on_host(rig) == before


def test_an_operators_snapshot_outlives_its_server(rig, snapshots):
    server = snapshots.server()
    disk = rig.host.xenapi.VDI.get_by_uuid(server.disk["uuid"])
    own = rig.host.xenapi.VDI.snapshot(disk, {})
    rig.driver.home.session.events.barrier()
    rig.destroy(server.instance)
    assert rig.host.record("VDI", own)["managed"]


def test_a_chain_that_is_too_long_for_an_image_is_flattened(
    rig, snapshots, monkeypatch
):
    monkeypatch.setattr(direct_vhd.DirectVhd, "longest_chain", 2)
    server = snapshots.server()
    server.write(2 * MIB, b"one")
    rig.host.xenapi.VDI.snapshot(
        rig.host.xenapi.VDI.get_by_uuid(server.disk["uuid"]), {}
    )
    server.write(4 * MIB, b"two")
    rig.driver.home.session.events.barrier()
    before = on_host(rig)
    image = snapshots.take(server)
    assert unpacked(rig, image) == (1, server.written)
    assert on_host(rig) == before


@pytest.mark.parametrize("kind", ["volume", "none"])
def test_without_a_root_disk_of_its_own_there_is_no_image(rig, snapshots, kind):
    server = snapshots.server()
    rig.host.call("VM.hard_shutdown", server.vm["uuid"])
    (drive,) = server.vm["VBDs"]
    if kind == "none":
        rig.host.xenapi.VBD.destroy(drive)
    else:
        rig.host.xenapi.VBD.add_to_other_config(drive, "osvol", "a volume's UUID")
    rig.driver.home.session.events.barrier()
    before = on_host(rig)
    # The whole sentence: a build alone lacks resources where a host is unfit.
    with pytest.raises(nova_exception.NovaException, match=r"\AServer .* no root disk"):
        snapshots.take(server)
    assert on_host(rig) == before


def test_an_operators_snapshots_are_left_alone(rig, snapshots):
    server = snapshots.server()
    disk = rig.host.xenapi.VDI.get_by_uuid(server.disk["uuid"])
    own = rig.host.xenapi.VDI.snapshot(disk, {})
    snapshots.take(server)
    snapshots.take(server)
    (left,) = rig.host.records("VDI", is_a_snapshot=True)
    assert left["uuid"] == rig.host.record("VDI", own)["uuid"]
