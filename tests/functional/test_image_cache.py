# SPDX-License-Identifier: Apache-2.0
"""The image cache: one download, disks of one's own, and what stays for how long."""

from __future__ import annotations

import concurrent.futures
import pathlib
import subprocess
import time

import nova.conf
import pytest
from nova import exception as nova_exception
from nova import objects

from tests import breaking, builders
from xenapi_driver.images import cache as images_cache
from xenapi_driver.images import entries, fetching, fresh
from xenapi_driver.images import source as image_source
from xenapi_driver.xapi import vdi as xapi_vdi

CONF = nova.conf.CONF
DAY = 24 * 3600
READER = pathlib.Path(__file__).parents[2] / "demo/vhd_reader.py"
SYSTEM_PYTHON = "/usr/bin/python3"


def entries_of(rig, image_id=None):
    label = f"Glance Image {image_id or rig.image_id}"
    return rig.host.records("VDI", name_label=label)


def root_of(rig, instance):
    (vm,) = rig.host.records("VM", name_label=instance.name)
    (vbd,) = (rig.host.record("VBD", ref) for ref in vm["VBDs"])
    return rig.host.record("VDI", vbd["VDI"])


def built(rig, image_id=None, **changes):
    instance = builders.instance(image_id or rig.image_id, **changes)
    rig.spawn(instance)
    return instance


def told(rig):
    """Wait until the driver knows what somebody else did on the host."""
    rig.driver.home.session.events.barrier()


def content(rig, vdi):
    """Return the start of a disk, read by libvhdi from its files."""
    if subprocess.run([SYSTEM_PYTHON, "-c", "import pyvhdi"]).returncode:
        pytest.skip("missing: python3-libvhdi")
    raw = rig.folder / "read-back.raw"
    leaf = rig.sim.sr_path / f"{vdi['uuid']}.vhd"
    subprocess.run([SYSTEM_PYTHON, str(READER), str(leaf), str(raw)], check=True)
    with open(raw, "rb") as disk:
        return disk.read(len(builders.CONTENT))


def manage(rig, *instances, later=0.0, monkeypatch=None):
    if monkeypatch is not None:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + later)
    rig.driver.manage_image_cache(
        rig.context, objects.InstanceList(objects=list(instances))
    )
    if monkeypatch is not None:
        monkeypatch.undo()


class TestEntries:
    def test_an_entry_says_what_it_is_and_since_when(self, rig):
        began = int(time.time())
        built(rig)
        (entry,) = entries_of(rig)
        config = entry["other_config"]
        assert config["image-id"] == rig.image_id
        assert began <= int(config["cached-time"]) <= time.time()
        assert config["cache-entry"] == entry["uuid"]
        assert set(config) == {"image-id", "cached-time", "cache-entry"}

    def test_a_server_s_disk_bears_nothing_of_the_entry(self, rig):
        """Features, 82."""
        for instance in (built(rig), built(rig)):
            disk = root_of(rig, instance)
            assert disk["name_label"] == instance.name
            assert disk["other_config"] == {
                "nova_instance_uuid": instance.uuid,
                "nova_disk_type": "root",
            }
        assert len(entries_of(rig)) == 1

    def test_a_copy_of_an_entry_is_never_taken_for_one(self, rig):
        built(rig)
        (entry,) = entries_of(rig)
        rig.host.call("VDI.clone", entry["uuid"])
        rig.host.destroy("VDI", entry["uuid"])
        (twin,) = entries_of(rig)
        told(rig)
        instance = built(rig)
        assert rig.images.served == 2
        (new,) = [e for e in entries_of(rig) if e["uuid"] != twin["uuid"]]
        parent = root_of(rig, instance)["sm_config"]["vhd-parent"]
        assert parent == new["sm_config"]["vhd-parent"]

    def test_an_entry_of_an_earlier_release_is_used_and_names_itself(self, rig):
        built(rig)
        (entry,) = entries_of(rig)
        ref = rig.host.xenapi.VDI.get_by_uuid(entry["uuid"])
        old = {"image-id": rig.image_id, "cached-time": "1500000000"}
        rig.host.xenapi.VDI.set_other_config(ref, {**old, "nova_disk_type": "root"})
        told(rig)
        instance = built(rig)
        assert rig.images.served == 1
        config = rig.host.record("VDI", ref)["other_config"]
        assert config == {**old, "cache-entry": entry["uuid"]}
        assert "image-id" not in root_of(rig, instance)["other_config"]

    def test_what_only_has_the_name_is_no_entry(self, rig):
        ref = rig.host.xenapi.VDI.create(
            {"SR": rig.host.xenapi.SR.get_by_uuid(rig.driver.home.sr_uuid),
             "name_label": f"Glance Image {rig.image_id}",
             "virtual_size": str(2**20), "type": "user", "sharable": False,
             "read_only": False, "other_config": {}}
        )  # fmt: skip
        told(rig)
        instance = built(rig)
        assert rig.images.served == 1
        assert content(rig, root_of(rig, instance)) == builders.CONTENT
        assert len(entries_of(rig)) == 2
        assert rig.host.record("VDI", ref)["other_config"] == {}

    def test_the_oldest_of_several_is_taken(self, rig):
        built(rig)
        (entry,) = entries_of(rig)
        other = rig.host.xenapi.VDI.clone(
            rig.host.xenapi.VDI.get_by_uuid(entry["uuid"])
        )
        uuid = rig.host.xenapi.VDI.get_uuid(other)
        rig.host.xenapi.VDI.set_other_config(
            other, entries.keys(rig.image_id, uuid, 1000.0)
        )
        rig.host.destroy("VDI", entry["uuid"])
        told(rig)
        built(rig)
        assert rig.images.served == 1
        assert [one["uuid"] for one in entries_of(rig)] == [uuid]


class TestPolicy:
    def test_some_keeps_what_asks_for_it(self, bare_rig, tarball):
        bare_rig.set_option("cache_images", "some")
        bare_rig.start()
        image_id = bare_rig.add_image(tarball)
        built(bare_rig, image_id)
        assert entries_of(bare_rig, image_id) == []
        meta = builders.image_meta(img_cache_in_nova=True)
        bare_rig.spawn(builders.instance(image_id), image_meta=meta)
        assert len(entries_of(bare_rig, image_id)) == 1
        # It is there now, so that it serves those that did not ask.
        built(bare_rig, image_id)
        assert bare_rig.images.served == 2

    def test_none_neither_keeps_nor_warms(self, bare_rig, tarball):
        bare_rig.set_option("cache_images", "none")
        bare_rig.start()
        image_id = bare_rig.add_image(tarball)
        for served in (1, 2):
            built(bare_rig, image_id)
            assert bare_rig.images.served == served
        with pytest.raises(NotImplementedError):
            bare_rig.driver.cache_image(bare_rig.context, image_id)
        assert entries_of(bare_rig, image_id) == []


class TestWarm:
    def test_a_warmed_image_is_there_for_the_first_build(self, rig):
        """Features, 221."""
        with rig.recording() as made:
            assert rig.driver.cache_image(rig.context, rig.image_id) is True
        assert len(made) <= 6, made
        with rig.recording() as made:
            assert rig.driver.cache_image(rig.context, rig.image_id) is False
        assert made == []
        with rig.recording() as made:
            instance = built(rig)
        assert len(made) <= 10, made
        assert rig.images.served == 1
        assert content(rig, root_of(rig, instance)) == builders.CONTENT

    def test_an_iso_is_never_cached(self, rig):
        image_id = rig.add_image(b"0" * 2048, disk_format="iso")
        with pytest.raises(NotImplementedError):
            rig.driver.cache_image(rig.context, image_id)
        assert rig.images.served == 0

    def test_an_image_that_cannot_be_fetched_leaves_nothing(self, rig, tarball):
        image_id = rig.add_image(tarball[: len(tarball) // 2])
        rig.records[image_id]["properties"]["os_hash_value"] = "0" * 128
        before = breaking.on_host(rig)
        with pytest.raises(Exception, match=image_id):
            rig.driver.cache_image(rig.context, image_id)
        assert breaking.on_host(rig) == before


class TestManyAtOnce:
    def test_builds_and_warming_share_one_download(self, rig):
        servers = [builders.instance(rig.image_id) for _ in range(6)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            warm = [
                pool.submit(rig.driver.cache_image, rig.context, rig.image_id)
                for _ in range(2)
            ]
            for done in [*pool.map(rig.spawn, servers), *(w.result() for w in warm)]:
                assert done in (None, True, False)
        assert rig.images.served == 1
        assert len(entries_of(rig)) == 1
        assert sorted(rig.driver.list_instance_uuids()) == sorted(
            one.uuid for one in servers
        )

    def test_when_the_one_that_fetches_fails_the_next_one_does_it(self, rig):
        rig.sim.faults.add("host.call_plugin", breaking.REFUSAL, times=1)
        servers = [builders.instance(rig.image_id) for _ in range(4)]
        failed = []
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(rig.spawn, server) for server in servers]:
                if one.exception() is not None:
                    failed.append(one.exception())
        assert len(failed) == 1, failed
        assert rig.images.served == 1
        assert len(rig.driver.list_instance_uuids()) == 3
        assert len(entries_of(rig)) == 1


class TestFullCopies:
    @pytest.fixture
    def rig(self, bare_rig, tarball):
        bare_rig.set_option("use_cow_images", False, "DEFAULT")
        bare_rig.start()
        bare_rig.image_id = bare_rig.add_image(tarball)
        return bare_rig

    def test_a_disk_shares_no_block_with_the_entry(self, rig):
        """Features, 54 and 55: by the plugin, as the SR is an ext one."""
        with rig.recording() as made:
            one, other = built(rig), built(rig)
        assert "Async.VDI.copy" not in made and "VDI.clone" not in made
        assert rig.images.served == 1
        (entry,) = entries_of(rig)
        rig.host.destroy("VDI", entry["uuid"])
        for instance in (one, other):
            disk = root_of(rig, instance)
            assert "vhd-parent" not in disk["sm_config"]
            assert content(rig, disk) == builders.CONTENT
            assert disk["name_label"] == instance.name
            assert set(disk["other_config"]) == {"nova_instance_uuid", "nova_disk_type"}

    def test_of_an_entry_that_has_been_cloned_the_chain_is_copied(self, rig):
        rig.driver.cache_image(rig.context, rig.image_id)
        (entry,) = entries_of(rig)
        rig.host.call("VDI.clone", entry["uuid"])
        (parent,) = {e["sm_config"]["vhd-parent"] for e in entries_of(rig)}
        told(rig)
        instance = built(rig)
        disk = root_of(rig, instance)
        assert disk["sm_config"].get("vhd-parent") != parent
        for one in entries_of(rig):
            rig.host.destroy("VDI", one["uuid"])
        assert content(rig, disk) == builders.CONTENT

    def test_another_kind_of_sr_copies_itself(self, rig):
        rig.driver.cleanup_host("compute1")
        rig.host.create_sr("nfs", role="other")
        rig.set_option("sr_matching_filter", "other-config:role=other")
        rig.start()
        with rig.recording() as made:
            instance = built(rig)
        assert "Async.VDI.copy" in made
        disk = root_of(rig, instance)
        assert "vhd-parent" not in disk["sm_config"]
        assert set(disk["other_config"]) == {"nova_instance_uuid", "nova_disk_type"}
        assert len(entries_of(rig)) == 1

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("method", ["host.call_plugin", "SR.scan"])
    def test_a_copy_that_fails_leaves_the_entry_alone(self, rig, method, after):
        built(rig)
        before = breaking.on_host(rig)
        rig.sim.faults.add(method, breaking.REFUSAL, after=after, times=1)
        with pytest.raises(nova_exception.NovaException):
            built(rig)
        assert breaking.on_host(rig) == before

    def test_a_disk_that_is_written_to_meanwhile_is_copied_again(
        self, rig, monkeypatch
    ):
        monkeypatch.setattr(images_cache.Copies.make.__globals__["time"], "sleep",
                            lambda _seconds: None)  # fmt: skip
        rig.driver.cache_image(rig.context, rig.image_id)
        rig.sim.faults.add("host.call_plugin", ["BUSY", "written to"], times=2)
        assert content(rig, root_of(rig, built(rig))) == builders.CONTENT


class TestAgeing:
    def test_a_used_image_stays_for_ever(self, rig, monkeypatch):
        instance = built(rig)
        manage(rig)
        manage(rig, later=30 * DAY, monkeypatch=monkeypatch)
        assert len(entries_of(rig)) == 1
        rig.destroy(instance)

    def test_a_server_made_from_it_keeps_it_without_sharing_blocks(
        self, rig, monkeypatch
    ):
        rig.driver.cache_image(rig.context, rig.image_id)
        for days in (0, 30, 60):
            manage(rig, builders.instance(rig.image_id), later=days * DAY,
                   monkeypatch=monkeypatch)  # fmt: skip
        assert len(entries_of(rig)) == 1

    def test_an_unused_image_goes_after_its_time(self, rig, monkeypatch):
        rig.destroy(built(rig))
        before = rig.host.records("VDI")
        manage(rig)
        assert len(entries_of(rig)) == 1
        manage(rig, later=DAY - 60, monkeypatch=monkeypatch)
        assert len(entries_of(rig)) == 1
        manage(rig, later=DAY + 60, monkeypatch=monkeypatch)
        assert entries_of(rig) == []
        assert len(rig.host.records("VDI")) < len(before)

    def test_its_age_survives_the_service(self, rig, monkeypatch):
        rig.driver.cache_image(rig.context, rig.image_id)
        manage(rig)
        rig.driver.cleanup_host("compute1")
        rig.start()
        manage(rig, later=DAY + 60, monkeypatch=monkeypatch)
        assert entries_of(rig) == []

    def test_used_again_it_begins_anew(self, rig, monkeypatch):
        rig.driver.cache_image(rig.context, rig.image_id)
        manage(rig)
        instance = built(rig)
        manage(rig, later=DAY + 60, monkeypatch=monkeypatch)
        (entry,) = entries_of(rig)
        assert "unused-since" not in entry["other_config"]
        rig.destroy(instance)
        manage(rig, later=DAY + 120, monkeypatch=monkeypatch)
        assert len(entries_of(rig)) == 1

    def test_a_build_between_two_passes_counts(self, rig, monkeypatch):
        rig.driver.cache_image(rig.context, rig.image_id)
        manage(rig)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + DAY / 2)
        rig.destroy(built(rig))
        monkeypatch.undo()
        manage(rig, later=DAY + 60, monkeypatch=monkeypatch)
        assert len(entries_of(rig)) == 1
        manage(rig, later=1.5 * DAY + 60, monkeypatch=monkeypatch)
        assert entries_of(rig) == []

    def test_options_of_nova_decide(self, rig, monkeypatch):
        rig.driver.cache_image(rig.context, rig.image_id)
        rig.set_option("remove_unused_base_images", False, "image_cache")
        for days in (0, 30):
            manage(rig, later=days * DAY, monkeypatch=monkeypatch)
        assert len(entries_of(rig)) == 1
        rig.set_option("remove_unused_base_images", True, "image_cache")
        rig.set_option(
            "remove_unused_original_minimum_age_seconds", 0, "image_cache"
        )
        manage(rig)
        assert entries_of(rig) == []

    def test_a_pass_over_a_cache_that_stays_asks_nothing(self, rig):
        built(rig)
        manage(rig)
        with rig.recording() as made:
            manage(rig)
        assert made == []

    def test_what_the_host_does_not_let_go_stays(self, rig, monkeypatch, caplog):
        rig.driver.cache_image(rig.context, rig.image_id)
        manage(rig)
        rig.sim.faults.add("VDI.destroy", breaking.REFUSAL)
        manage(rig, later=DAY + 60, monkeypatch=monkeypatch)
        assert len(entries_of(rig)) == 1
        assert "stays" in caplog.text
        manage(rig, later=DAY + 60, monkeypatch=monkeypatch)
        assert entries_of(rig) == []

    def test_an_image_that_is_being_built_from_is_left_alone(self, rig, monkeypatch):
        rig.driver.cache_image(rig.context, rig.image_id)
        manage(rig)
        cache = rig.driver._spawn.cache
        with cache.idle(rig.image_id) as idle:
            assert idle
            manage(rig, later=DAY + 60, monkeypatch=monkeypatch)
        assert len(entries_of(rig)) == 1

    def test_builds_go_on_while_entries_are_removed(self, rig):
        rig.set_option(
            "remove_unused_original_minimum_age_seconds", 0, "image_cache"
        )
        servers = [builders.instance(rig.image_id) for _ in range(6)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            builds = [pool.submit(rig.spawn, one) for one in servers]
            while not all(one.done() for one in builds):
                manage(rig)
            for one in builds:
                one.result()
        assert len(rig.driver.list_instance_uuids()) == len(servers)
        for one in servers:
            rig.destroy(one)
        manage(rig)
        assert entries_of(rig) == []


class TestLeftOvers:
    """What a service that was killed left behind; its run is another one."""

    def restarted(self, rig, monkeypatch, never_ran=lambda _uuid, service_host: False):
        monkeypatch.setattr("xenapi_driver.ops.left_overs.never_ran", never_ran)
        monkeypatch.setattr(fresh, "RUN", "0badcafe")
        rig.driver.cleanup_host("compute1")
        rig.start()

    def test_a_clone_that_never_got_its_name(self, rig, monkeypatch):
        built(rig)
        (entry,) = entries_of(rig)
        rig.host.call("VDI.clone", entry["uuid"])
        half = rig.host.xenapi.VDI.clone(
            rig.host.xenapi.VDI.get_by_uuid(entry["uuid"])
        )
        rig.host.xenapi.VDI.set_name_label(half, "instance-0000dead")
        self.restarted(rig, monkeypatch)
        assert [one["uuid"] for one in entries_of(rig)] == [entry["uuid"]]
        assert rig.host.records("VDI", name_label="instance-0000dead") == []

    def test_an_image_that_was_fetched_and_never_named(self, rig, monkeypatch):
        before = breaking.on_host(rig)
        home, handler = rig.driver.home, rig.driver._keeper._handler
        source = image_source.open_image(rig.context, rig.image_id)
        fetched = fetching.fetch(handler, source, None)
        assert fresh.run_of(fetched, home.host.uuid) == fresh.RUN
        manage(rig)
        assert breaking.on_host(rig) != before
        self.restarted(rig, monkeypatch)
        assert breaking.on_host(rig) == before

    def test_what_a_plugin_finishes_after_the_start_goes_in_the_second_pass(
        self, rig, monkeypatch
    ):
        before = breaking.on_host(rig)
        self.restarted(rig, monkeypatch)
        monkeypatch.setattr(fresh, "RUN", "00000001")
        home = rig.driver.home
        xapi_vdi.create(
            home.session,
            xapi_vdi.new_record(
                home.sr.ref, 2**20, other_config=fresh.keys(home.host.uuid)
            ),
        )
        monkeypatch.setattr(fresh, "RUN", "0badcafe")
        manage(rig)
        assert breaking.on_host(rig) != before
        manage(rig)
        assert breaking.on_host(rig) == before

    def test_disks_of_other_services_and_people_stay(self, rig, monkeypatch):
        home = rig.driver.home
        rig.host.xenapi.VDI.create(
            {"SR": rig.host.xenapi.SR.get_by_uuid(home.sr_uuid), "name_label": "",
             "virtual_size": str(2**20), "type": "user", "sharable": False,
             "read_only": False,
             "other_config": {"nova-fetched-by": "another-host/00000001/x"}}
        )  # fmt: skip
        rig.host.xenapi.VDI.create(
            {"SR": rig.host.xenapi.SR.get_by_uuid(home.sr_uuid), "name_label": "",
             "virtual_size": str(2**20), "type": "user", "sharable": False,
             "read_only": False, "other_config": {}}
        )  # fmt: skip
        before = breaking.on_host(rig)
        self.restarted(rig, monkeypatch)
        for _ in range(3):
            manage(rig)
        assert breaking.on_host(rig) == before

    @pytest.mark.parametrize("ran", [False, True])
    def test_a_disk_without_a_vm_goes_if_its_server_never_ran(
        self, rig, monkeypatch, ran
    ):
        rig.driver.cache_image(rig.context, rig.image_id)
        instance = built(rig)
        (vm,) = rig.host.records("VM", name_label=instance.name)
        rig.host.call("VM.hard_shutdown", vm["uuid"])
        rig.host.destroy("VM", vm["uuid"])
        asked = []

        def never_ran(uuid, service_host):
            asked.append((uuid, service_host))
            return not ran

        self.restarted(rig, monkeypatch, never_ran)
        assert asked == [(instance.uuid, "compute1")]
        left = rig.host.records("VDI", name_label=instance.name)
        assert len(left) == (1 if ran else 0)

    def test_while_nova_does_not_answer_a_disk_stays(self, rig, monkeypatch, caplog):
        instance = built(rig)
        (vm,) = rig.host.records("VM", name_label=instance.name)
        rig.host.call("VM.hard_shutdown", vm["uuid"])
        rig.host.destroy("VM", vm["uuid"])

        def never_ran(uuid, service_host):
            raise TimeoutError("no conductor")

        self.restarted(rig, monkeypatch, never_ran)
        assert len(rig.host.records("VDI", name_label=instance.name)) == 1
        assert "no conductor" in caplog.text

    def test_servers_and_entries_survive_a_restart(self, rig, monkeypatch):
        instance = built(rig)
        before = breaking.on_host(rig)
        self.restarted(rig, monkeypatch)
        assert breaking.on_host(rig) == before
        assert rig.driver.get_info(instance).state == 1
