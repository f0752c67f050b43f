# SPDX-License-Identifier: Apache-2.0
"""Where a guest finds a device that its tenant tagged."""

from __future__ import annotations

import string

import pytest
from nova import objects

from tests import builders
from xenapi_driver.steps import device_tags


@pytest.fixture
def database(monkeypatch):
    """What Nova's database has of a server: put objects into the two lists."""
    vifs, bdms, saved = [], [], []
    for kind, held in (
        (objects.VirtualInterfaceList, vifs),
        (objects.BlockDeviceMappingList, bdms),
    ):
        monkeypatch.setattr(
            kind, "get_by_instance_uuid", lambda *args, held=held: list(held)
        )
    monkeypatch.setattr(objects.Instance, "save", lambda one: saved.append(one.uuid))
    return vifs, bdms, saved


def noted(**changes):
    server = builders.instance("image", **changes)
    device_tags.note(None, server, builders.network_info(1))
    if not server.obj_attr_is_set("device_metadata"):
        return []
    return server.device_metadata.devices


def vif(tag, mac="fa:16:3e:00:00:01"):
    return objects.VirtualInterface(address=mac, tag=tag)


def disk(tag, name):
    return objects.BlockDeviceMapping(device_name=name, tag=tag)


def addresses(devices):
    return [
        (one.bus.obj_name().removesuffix("DeviceBus").lower(), one.bus.address)
        for one in devices
    ]


def test_without_tags_nothing_is_saved(database):
    vifs, bdms, saved = database
    vifs.append(vif(None))
    bdms.append(disk(None, "/dev/xvda"))
    assert noted() == []
    assert saved == []


def test_a_port_by_its_address(database):
    vifs, _bdms, saved = database
    vifs += [vif("front"), vif(None, "fa:16:3e:00:00:02")]
    (found,) = noted()
    assert (found.mac, found.tags) == ("fa:16:3e:00:00:01", ["front"])
    assert isinstance(found.bus, objects.PCIDeviceBus)
    assert len(saved) == 1


@pytest.mark.parametrize(
    ("name", "os_type", "expected"),
    [
        ("/dev/xvda", "linux", [("xen", "51712"), ("xen", "768"), ("ide", "0:0")]),
        ("/dev/vdd", "linux", [("xen", "51760"), ("xen", "5696"), ("ide", "1:1")]),
        ("/dev/xvdf", "linux", [("xen", "51792")]),
        ("/dev/sdq", "linux", [("xen", "268439552")]),
        ("/dev/xvdb", "windows", [("xen", "000100"), ("ide", "0:1")]),
        ("/dev/xvdk", "windows", [("xen", "001000")]),
        ("/dev/nvme0", "linux", []),
        (None, "linux", []),
    ],
)
def test_a_disk_by_all_its_numbers(database, name, os_type, expected):
    _vifs, bdms, _saved = database
    bdms.append(disk("data", name))
    found = noted(os_type=os_type)
    assert addresses(found) == expected
    assert all(one.tags == ["data"] for one in found)


@pytest.mark.parametrize("os_type", ["linux", "windows"])
def test_every_letter_makes_what_nova_takes(database, os_type):
    _vifs, bdms, _saved = database
    bdms += [disk("data", f"/dev/xvd{letter}") for letter in string.ascii_lowercase]
    found = addresses(noted(os_type=os_type))
    assert len(found) == len(set(found)) >= len(bdms)
