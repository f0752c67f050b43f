# SPDX-License-Identifier: Apache-2.0
"""What a start of the driver puts right that an earlier run has left."""

from __future__ import annotations

import logging

import pytest
from nova import exception as nova_exception

from tests import builders
from tests.sim.clients import vbd_record, vdi_record
from xenapi_driver.images import fresh
from xenapi_driver.xapi import home


def plugged(rig, name: str, other_config: dict) -> tuple[str, str]:
    """Plug a new disk into the VM of nova-compute; return its VDI and VBD."""
    api = rig.host.xenapi
    own = api.VM.get_by_uuid(rig.sim.compute_vm_uuid)
    sr = next(iter(api.pool.get_all_records().values()))["default_SR"]
    disk = api.VDI.create(vdi_record(sr, name_label=name, other_config=other_config))
    device = api.VM.get_allowed_VBD_devices(own)[0]
    vbd = api.VBD.create(vbd_record(own, disk, userdevice=device))
    api.VBD.plug(vbd)
    return disk, vbd


def test_disks_left_in_the_compute_vm_are_freed(bare_rig):
    """As after a kill in the middle of a build (features, 11)."""
    left, left_vbd = plugged(bare_rig, "instance-1", {"nova_instance_uuid": "u"})
    other, other_vbd = plugged(bare_rig, "data", {})
    bare_rig.start()
    api = bare_rig.host.xenapi
    assert left_vbd not in api.VBD.get_all()
    assert api.VDI.get_VBDs(left) == []
    assert api.VBD.get_currently_attached(other_vbd)
    assert api.VDI.get_VBDs(other) == [other_vbd]


def test_a_disk_that_does_not_let_go_keeps_nobody_from_starting(bare_rig, caplog):
    _left, vbd = plugged(bare_rig, "instance-1", {"nova_instance_uuid": "u"})
    rejected = ["DEVICE_DETACH_REJECTED", "VBD", vbd, "busy"]
    bare_rig.sim.faults.add("VBD.unplug", rejected)
    with caplog.at_level(logging.WARNING, "xenapi_driver"):
        bare_rig.start()
    assert bare_rig.host.xenapi.VBD.get_currently_attached(vbd)
    assert "stays in this VM" in caplog.text


def test_an_independent_compute_has_no_vm_of_its_own(bare_rig):
    _left, vbd = plugged(bare_rig, "instance-1", {"nova_instance_uuid": "u"})
    for name, value in {"independent_compute": True, "check_host": False}.items():
        bare_rig.set_option(name, value)
    bare_rig.start()
    assert bare_rig.host.xenapi.VBD.get_currently_attached(vbd)


def test_an_sr_that_goes_while_the_driver_starts_is_refused(bare_rig, monkeypatch):
    """Whatever is missed last, no session and no thread is left."""
    before = bare_rig.sim.world.db.refs("session")
    removed = home.SrNotFound("SR is no longer there")
    monkeypatch.setattr(
        home.Home, "sr", property(lambda self: (_ for _ in ()).throw(removed))
    )
    with pytest.raises(nova_exception.InvalidConfiguration, match="there: set sr_ma"):
        bare_rig.start()
    assert bare_rig.sim.world.db.refs("session") == before


@pytest.mark.parametrize("ended", [False, True])
def test_a_driver_that_is_not_up_says_so(bare_rig, ended):
    """For Nova that is no error of the server's, nor a host without servers."""
    if ended:
        bare_rig.start()
        bare_rig.driver.cleanup_host("compute1")
    instance = builders.instance("image")
    driver = bare_rig.driver
    for verb in (
        lambda: bare_rig.spawn(instance),
        lambda: bare_rig.destroy(instance),
        lambda: driver.get_info(instance),
        driver.list_instance_uuids,
        driver.get_num_instances,
        driver.get_available_nodes,
        lambda: driver.get_available_resource("xcpng-01"),
    ):
        with pytest.raises(nova_exception.VirtDriverNotReady):
            verb()
    assert not driver.node_is_available("xcpng-01")


def test_a_disk_that_was_being_filled_in_the_compute_vm_is_freed_and_goes(bare_rig):
    host = bare_rig.host.records("host")[0]["uuid"]
    keys = {fresh.MAKER_KEY: f"{host}/0badcafe/x"}
    left, left_vbd = plugged(bare_rig, "", keys)
    other, other_vbd = plugged(bare_rig, "", {fresh.MAKER_KEY: "another/0badcafe/x"})
    bare_rig.start()
    api = bare_rig.host.xenapi
    assert left_vbd not in api.VBD.get_all()
    assert left not in api.VDI.get_all()
    assert api.VDI.get_VBDs(other) == [other_vbd]
