# SPDX-License-Identifier: Apache-2.0
"""Two services of a pool with one cache, on the SR that their hosts share."""

from __future__ import annotations

import concurrent.futures

import pytest
from nova import objects

from tests import builders, fixtures
from tests.functional.test_image_cache import entries_of
from xenapi_driver import driver as xenapi


@pytest.fixture
def services(pool_rig, tarball):
    """The drivers of two hosts; the first is the rig's own."""
    rig = pool_rig
    api = rig.host.xenapi
    place = {"server": "server", "serverpath": "/disks"}
    first, _second = api.host.get_all()
    sr = api.SR.create(first, place, "0", "shared", "", "nfs", "", True, {})
    api.SR.set_other_config(sr, {"role": "shared"})
    rig.set_option("sr_matching_filter", "other-config:role=shared")
    other = xenapi.XenAPIDriver(fixtures.VirtApi())
    member = rig.options["xenserver", "connection_url"]
    rig.start()
    rig.set_option("connection_url", member.replace("127.0.0.3", "127.0.0.2"))
    other.init_host("compute2")
    rig.image_id = rig.add_image(tarball)
    yield rig, other
    other.cleanup_host("compute2")


def spawn(rig, driver, instance):
    driver.spawn(
        rig.context, instance, rig.image_meta(instance, {}), [], "", {},
        network_info=builders.network_info(1),
    )  # fmt: skip


def passed(rig, driver):
    driver.home.session.events.barrier()
    driver.manage_image_cache(rig.context, objects.InstanceList(objects=[]))


def test_what_one_has_cached_the_other_uses(services):
    rig, other = services
    assert other.home.sr.shared
    assert other.home.host.uuid != rig.driver.home.host.uuid
    spawn(rig, rig.driver, builders.instance(rig.image_id))
    other.home.session.events.barrier()
    spawn(rig, other, builders.instance(rig.image_id))
    assert rig.images.served == 1
    assert len(entries_of(rig)) == 1


def test_builds_of_both_at_once_leave_one_entry_that_counts(services):
    rig, other = services
    builds = [(one, builders.instance(rig.image_id)) for one in 3 * [rig.driver, other]]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda build: spawn(rig, *build), builds))
    assert 1 <= rig.images.served <= 2
    assert 1 <= len(entries_of(rig)) <= 2
    rig.set_option("remove_unused_original_minimum_age_seconds", 0, "image_cache")
    passed(rig, other)
    assert len(entries_of(rig)) == 1
    served = rig.images.served
    for driver in (rig.driver, other):
        driver.home.session.events.barrier()
        spawn(rig, driver, builders.instance(rig.image_id))
    assert rig.images.served == served


def test_a_clone_that_another_service_may_be_about_to_name_is_left_for_a_pass(
    services,
):
    rig, other = services
    spawn(rig, rig.driver, builders.instance(rig.image_id))
    (entry,) = entries_of(rig)
    rig.host.call("VDI.clone", entry["uuid"])
    passed(rig, other)
    assert len(entries_of(rig)) == 2
    passed(rig, other)
    assert [one["uuid"] for one in entries_of(rig)] == [entry["uuid"]]
