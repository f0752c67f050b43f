# SPDX-License-Identifier: Apache-2.0
"""Images between Glance and the host, by the driver's side of the dom0 plugin."""

from __future__ import annotations

import hashlib
import uuid

import pytest

from tests import builders
from tests.dom0.glance_server import GlanceServer, Trouble
from tests.dom0.vhd_files import chain
from xenapi_driver import exceptions
from xenapi_driver.images import direct_vhd, rules, source

RULES = rules.TransferRules(attempts=2, compression_level=1)
KILLED = ["XENAPI_PLUGIN_FAILURE", "signal: SIGKILL", "", ""]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def service():
    server = GlanceServer()
    yield server
    server.close()


@pytest.fixture
def disks(rig):
    """UUIDs of a chain in the SR, leaf first."""
    uuids = [str(uuid.uuid4()) for _ in range(2)]
    for name, disk in zip(uuids, chain(1, 2), strict=True):
        (rig.sim.sr_path / f"{name}.vhd").write_bytes(bytes(disk))
    return uuids


def target(service, image):
    return source.ImageTarget(
        image.identity, {"os-type": "linux"}, {"X-Auth-Token": "t"}, (service.url,)
    )


def test_a_chain_is_stored_in_one_request(rig, service, disks):
    image = service.image()
    with rig.recording() as made:
        said = direct_vhd.store(
            rig.driver.home, target(service, image), disks, RULES
        )
    assert image.status == "active"
    assert source.Stored(
        len(image.data), hashlib.sha512(image.data).hexdigest()
    ) == said
    assert image.fields["os_type"] == "linux"
    assert sum("call_plugin" in str(one) for one in made) == 1


@pytest.mark.parametrize(
    ("kind", "pattern", "change"),
    [
        (exceptions.ImageGone, "does not have", {"refuses": {"GET": 404}}),
        (exceptions.TransferFailed, "413", {"troubles": [Trouble(status=413)]}),
        (exceptions.TransferFailed, "503", {"troubles": [Trouble(status=503)] * 2}),
    ],
)
def test_what_glance_says_no_to(rig, service, disks, kind, pattern, change):
    image = service.image()
    for name, value in change.items():
        setattr(service, name, value)
    with pytest.raises(kind, match=pattern) as caught:
        direct_vhd.store(rig.driver.home, target(service, image), disks, RULES)
    assert image.identity in str(caught.value)
    assert image.data is None


def test_a_disk_that_is_written_to_is_not_stored(rig, service, disks):
    image = service.image()
    with (
        open(rig.sim.sr_path / f"{disks[1]}.vhd", "r+b"),
        pytest.raises(exceptions.TransferFailed, match="written"),
    ):
        direct_vhd.store(rig.driver.home, target(service, image), disks, RULES)


def test_disks_that_are_no_chain_are_the_hosts_trouble(rig, service, disks):
    image = service.image()
    with pytest.raises(exceptions.UnfitHost, match="no whole chain"):
        direct_vhd.store(rig.driver.home, target(service, image), disks[:1], RULES)


def test_a_plugin_that_is_killed_is_called_again(rig, service, disks):
    image = service.image()
    rig.sim.faults.add("host.call_plugin", KILLED)
    direct_vhd.store(rig.driver.home, target(service, image), disks, RULES)
    assert image.status == "active"


def test_a_plugin_that_is_killed_after_its_work_leaves_nothing(rig):
    rig.sim.faults.add("host.call_plugin", KILLED, after=True)
    before = set(rig.sim.sr_path.iterdir())
    rig.spawn(builders.instance(rig.image_id))
    cached = rig.host.records("VDI", name_label=f"Glance Image {rig.image_id}")
    assert (len(cached), rig.images.served) == (1, 2)
    came = set(rig.sim.sr_path.iterdir()) - before
    # The image, and the server's clone of it, on a disk that both share.
    assert len(came) == 3


def test_all_servers_are_in_one_call(rig, monkeypatch):
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2/", rig.images.url]
    monkeypatch.setattr(source, "_servers", lambda context: tuple(urls))
    with rig.recording() as made:
        rig.spawn(builders.instance(rig.image_id))
    assert sum("call_plugin" in str(one) for one in made) == 1


def test_each_server_is_named_once(monkeypatch):
    monkeypatch.setattr(
        source.glance, "get_api_servers",
        lambda context: iter(["http://a/", "http://b", "http://a"] * 99),
    )  # fmt: skip
    assert source._servers(None) == ("http://a", "http://b")
