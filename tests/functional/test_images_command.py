# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver images``: what it shows, fetches and removes, on a real cache."""

from __future__ import annotations

import pytest

from tests import breaking, builders, command_line, fixtures
from tests.functional.test_image_cache import entries_of, told
from xenapi_driver import exceptions
from xenapi_driver.cmd import images, over_xapi


@pytest.fixture
def files(rig):
    """The rig's options as a file, with a user who may read images."""
    path = rig.nova_conf()
    path.write_text(
        path.read_text() + "[service_user]\nauth_type = admin_token\n"
        f"endpoint = {rig.images.url}\ntoken = a-token\n"
    )
    yield ["--config-file", path]
    fixtures.prepare_nova()


def built(rig, image_id):
    instance = builders.instance(image_id)
    rig.spawn(instance)
    return instance


def used_blocks(rig):
    return sum(file.stat().st_blocks for file in rig.sim.sr_path.iterdir())


def set_age(rig, image_id, text):
    (entry,) = entries_of(rig, image_id)
    ref = rig.host.xenapi.VDI.get_by_uuid(entry["uuid"])
    keys = dict(entry["other_config"])
    keys.pop("cached-time")
    if text is not None:
        keys["cached-time"] = text
    rig.host.xenapi.VDI.set_other_config(ref, keys)


def test_the_list_tells_what_is_used_and_by_how_many(rig, files, tarball):
    unused = rig.add_image(tarball)
    rig.driver.cache_image(rig.context, unused)
    for _ in range(2):
        built(rig, rig.image_id)
    (entry,) = entries_of(rig)
    rig.host.call("VDI.clone", entry["uuid"])
    status, rows = command_line.run(images.List, *files)
    assert status == 0
    found = {(row["Image"], row["State"]): row for row in rows}
    assert set(found) == {
        (unused, "unused"), (rig.image_id, "used"), (rig.image_id, "left-over")
    }  # fmt: skip
    used = found[rig.image_id, "used"]
    assert used["VDI"] == entry["uuid"]
    assert used["Disks"] == 2
    assert used["Size MiB"] == 16
    assert used["Cached"].endswith("Z")


def test_clean_removes_what_is_unused_and_nothing_else(rig, files, tarball):
    """Features, 56."""
    unused = rig.add_image(tarball)
    rig.driver.cache_image(rig.context, unused)
    server = built(rig, rig.image_id)
    before = breaking.on_host(rig)
    status, rows = command_line.run(images.Clean, "--dry-run", *files)
    assert breaking.on_host(rig) == before
    assert [(r["Image"], r["State"]) for r in rows] == [(unused, "would be removed")]
    taken = used_blocks(rig)
    status, rows = command_line.run(images.Clean, *files)
    assert status == 0
    assert [(r["Image"], r["State"]) for r in rows] == [(unused, "removed")]
    assert entries_of(rig, unused) == []
    assert len(entries_of(rig)) == 1
    assert used_blocks(rig) < taken
    assert rig.driver.get_info(server).state == 1


def test_clean_all_takes_used_ones_and_no_server_loses_its_disk(rig, files, tarball):
    server = built(rig, rig.image_id)
    other = rig.add_image(tarball)
    rig.driver.cache_image(rig.context, other)
    status, rows = command_line.run(images.Clean, "--all", *files, rig.image_id)
    assert [(r["Image"], r["State"]) for r in rows] == [(rig.image_id, "removed")]
    assert entries_of(rig) == []
    assert len(entries_of(rig, other)) == 1
    rig.driver.reboot(rig.context, server, None, "HARD")
    assert rig.driver.get_info(server).state == 1
    told(rig)
    built(rig, rig.image_id)
    assert rig.images.served == 3


def test_clean_keeps_what_is_young_or_of_unknown_age(rig, files, tarball):
    old, young, unknown = (rig.add_image(tarball) for _ in range(3))
    for image_id in (old, young, unknown):
        rig.driver.cache_image(rig.context, image_id)
    set_age(rig, old, "1000")
    set_age(rig, unknown, None)
    status, rows = command_line.run(images.Clean, "--keep-days", "7", *files)
    assert [(r["Image"], r["State"]) for r in rows] == [(old, "removed")]
    assert entries_of(rig, old) == []
    assert len(entries_of(rig, young)) == len(entries_of(rig, unknown)) == 1


def test_what_cannot_be_removed_is_told(rig, files):
    rig.driver.cache_image(rig.context, rig.image_id)
    rig.sim.faults.add("VDI.destroy", breaking.REFUSAL)
    status, (row,) = command_line.run(images.Clean, *files)
    assert status == 1
    assert row["State"].startswith("stays: ")
    assert len(entries_of(rig)) == 1


def test_warm_fetches_what_is_not_there(rig, files):
    iso = rig.add_image(b"0" * 2048, disk_format="iso")
    status, rows = command_line.run(images.Warm, *files, rig.image_id, iso)
    assert status == 1
    assert [row["State"] for row in rows] == ["fetched", "failed"]
    assert "is not cached" in rows[1]["Seen"]
    status, (row,) = command_line.run(images.Warm, *files, rig.image_id)
    assert (status, row["State"]) == (0, "was cached")
    assert rig.images.served == 1
    told(rig)
    built(rig, rig.image_id)
    assert rig.images.served == 1


def test_warm_needs_somebody_to_ask_the_image_service_as(rig, files):
    files[1].write_text(files[1].read_text().partition("[service_user]")[0])
    with pytest.raises(exceptions.UnfitConfiguration, match=r"\[service_user\]"):
        command_line.run(images.Warm, *files, rig.image_id)
    assert rig.images.served == 0


@pytest.mark.parametrize("command", [images.List, images.Clean])
def test_without_a_host_it_is_one_sentence(tmp_path, command):
    empty = tmp_path / "nova.conf"
    empty.write_text("[DEFAULT]\n")
    with pytest.raises(over_xapi.NoHostNamed, match="has a connection_url"):
        command_line.run(command, "--config-file", empty)
