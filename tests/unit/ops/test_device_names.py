# SPDX-License-Identifier: Apache-2.0
"""Names of disks, against where the driver has them in the VM."""

from __future__ import annotations

import uuid
from unittest import mock

import pytest
from nova import exception, objects

from tests import builders, fixtures
from xenapi_driver.ops import device_names

SWAP = {"source_type": "blank", "destination_type": "local", "guest_format": "swap"}
BLANK = {"source_type": "blank", "destination_type": "local", "guest_format": None}
VOLUME = {"source_type": "volume", "destination_type": "volume"}
IMAGE = {"source_type": "image", "destination_type": "local", "boot_index": 0}


@pytest.fixture(scope="module", autouse=True)
def nova_objects():
    fixtures.prepare_nova()


def bdm(kind, name=None, size=1):
    """Return a block device mapping whose ``save`` is counted."""
    values = {"boot_index": -1, "guest_format": None, **kind}
    made = objects.BlockDeviceMapping(device_name=name, volume_size=size, **values)
    object.__setattr__(made, "save", mock.Mock())
    return made


def server(disk_format="vhd", **changes):
    about = {"image_disk_format": disk_format}
    return builders.instance(str(uuid.uuid4()), system_metadata=about, **changes)


@pytest.mark.parametrize(
    ("position", "name"),
    [(0, "a"), (5, "f"), (25, "z"), (26, "aa"), (27, "ab"), (254, "iu")],
)
def test_positions_and_names(position, name):
    assert device_names.name(position) == f"/dev/xvd{name}"
    assert device_names.position(f"/dev/xvd{name}") == position


@pytest.mark.parametrize(
    ("name", "position"),
    [("/dev/vdb", 1), ("sdc", 2), ("/dev/hdp", 15), ("7", 7), ("/dev/xvdf", 5)],
)
def test_any_prefix_will_do(name, position):
    """Reference, appendix D."""
    assert device_names.position(name) == position


@pytest.mark.parametrize(
    "name", ["", "/dev/xvd", "/dev/xvda1", "/dev/mapper/x", "300", "/dev/xvdzz", "a\n"]
)
def test_other_names_are_none(name):
    with pytest.raises(exception.InvalidDevicePath):
        device_names.position(name)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "b"),
        ({"disk_format": "iso"}, "c"),
        ({"disk_format": "iso", "swap": 64}, "d"),
        ({"disk_format": "iso", "swap": 64, "config_drive": "True"}, "e"),
        (
            {
                **{"disk_format": "iso", "swap": 64, "config_drive": "True"},
                "ephemeral_gb": 3000,
            },
            "g",
        ),
    ],
)
def test_a_volume_gets_no_place_of_the_servers_own_disks(changes, name):
    instance = server(**changes)
    root = bdm(IMAGE, "/dev/xvda")
    assert device_names.next_free(instance, [root], -1) == f"/dev/xvd{name}"


def test_two_volumes_get_two_names():
    bdms = [bdm(IMAGE, "/dev/xvda"), bdm(VOLUME, "/dev/vdb")]
    assert device_names.next_free(server(), bdms, -1) == "/dev/xvdc"


def test_a_wish_is_granted_or_refused():
    bdms = [bdm(IMAGE, "/dev/xvda"), bdm(VOLUME, "/dev/xvdf")]
    instance = server(config_drive="True")
    assert device_names.next_free(instance, bdms, -1, "/dev/vdg") == "/dev/xvdg"
    for taken in ("/dev/sdf", "/dev/xvdd", "/dev/xvda", "3"):
        with pytest.raises(exception.DevicePathInUse):
            device_names.next_free(instance, bdms, -1, taken)


def test_there_is_an_end():
    instance = server()
    some = [bdm(VOLUME, f"/dev/xvd{letter}") for letter in "bcd"]
    with pytest.raises(exception.TooManyDiskDevices, match="3"):
        device_names.next_free(instance, some, 3)
    every = [bdm(VOLUME, device_names.name(at)) for at in range(255)]
    with pytest.raises(exception.TooManyDiskDevices, match="255"):
        device_names.next_free(instance, every, -1)


def test_a_new_servers_disks_are_named_after_their_places():
    instance = server(swap=64, config_drive="True")
    image = bdm(IMAGE)
    ephemerals = [bdm(BLANK, size=3000), bdm(BLANK, size=1)]
    swap = bdm(SWAP)
    volumes = [bdm(VOLUME), bdm(VOLUME, "/dev/vdj"), bdm(VOLUME)]
    lists = ([image], ephemerals, [swap], volumes)
    device_names.give_names(instance, "/dev/xvda", lists, -1)
    named = [one.device_name for some in lists for one in some]
    # The first ephemeral disk is two: /dev/xvde and /dev/xvdf.
    assert named == [
        *("/dev/xvda", "/dev/xvde", "/dev/xvdg", "/dev/xvdc"),
        *("/dev/xvdb", "/dev/vdj", "/dev/xvdh"),
    ]
    saved = [one for some in lists for one in some if one.save.called]
    assert len(saved) == 6
    for one in saved:
        one.save.assert_called_once_with()
