# SPDX-License-Identifier: Apache-2.0
"""What every handler does, and a server with all its disks, broken at every call.

As ``test_every_call.py`` judges them.
"""

from __future__ import annotations

import pytest

from tests import breaking, builders
from tests.dom0 import kernels
from tests.functional import test_boot_kernels as boot_kernels
from tests.functional.snapshots import Snapshots
from tests.functional.test_config_drive import asked_elsewhere, server
from tests.functional.test_every_call import every_call, judge
from tests.functional.test_raw_images import build_rig, image, raw
from xenapi_driver.images import direct_vhd, repeating
from xenapi_driver.images import kernels as image_kernels
from xenapi_driver.steps import snapshot
from xenapi_driver.xapi import plugged

__all__ = ["asked_elsewhere", "build_rig", "raw"]

STREAM, LOCAL, DIRECT = "vdi_remote_stream", "vdi_local_dev", "direct_vhd"

# Handler, type of the SR, kind of the image.
TRANSFERS = [
    (STREAM, "lvm", "vhd"),
    (STREAM, "ext", "qcow2"),
    (DIRECT, "ext", "raw"),
    (LOCAL, "ext", "tgz"),
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Ask again at once: hundreds of calls are broken here, and none is busy."""
    monkeypatch.setattr(image_kernels, "_PAUSES", (0.0, 0.1))
    monkeypatch.setattr(plugged, "_UNPLUG_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(snapshot, "_DROP_PAUSE_SECONDS", 0.05)
    for module in (direct_vhd, repeating):
        monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.0)


def offer(rig, raw, tarball, kind):
    if kind == "vhd":
        return rig.add_image(tarball)
    data, formats = image(raw, kind)
    return rig.add_image(data, **formats)


@pytest.mark.parametrize(("handler", "sr", "kind"), TRANSFERS)
def test_builds_broken_at_every_call(
    build_rig, raw, tarball, capsys, handler, sr, kind
):
    rig = build_rig(handler, sr)
    rig.image_id = offer(rig, raw, tarball, kind)
    bystander = builders.instance(rig.image_id)
    rig.spawn(bystander)
    broken = every_call(rig, breaking.spawning(rig))
    assert len(broken) >= 20
    judge(rig, bystander, broken, capsys)


@pytest.mark.parametrize(
    ("handler", "sr", "kind"), [(STREAM, "ext", "vhd"), (LOCAL, "ext", "raw")]
)
def test_snapshots_broken_at_every_call(
    build_rig, raw, tarball, capsys, handler, sr, kind
):
    rig = build_rig(handler, sr)
    rig.image_id = offer(rig, raw, tarball, kind)
    bystander = builders.instance(rig.image_id)
    rig.spawn(bystander)
    snapshots = Snapshots(rig)
    subject = snapshots.server()

    def settle(taken):
        assert taken.status == "active" or taken.data is None, "half an upload"
        assert rig.sim.settle_storage()

    operation = breaking.Operation(
        snapshots.image, lambda taken: snapshots.take(subject, taken), settle
    )
    broken = every_call(rig, operation)
    assert len(broken) >= 15
    judge(rig, bystander, broken, capsys)


def with_all_disks(rig):
    """Return a server with swap, two ephemeral disks and a config drive."""
    return server(rig, swap=64, ephemeral_gb=2)


@pytest.fixture
def bystander(rig):
    instance = with_all_disks(rig)
    rig.spawn(instance)
    return instance


def test_builds_of_all_disks_broken_at_every_call(rig, bystander, capsys):
    build = breaking.Operation(
        lambda: with_all_disks(rig), lambda one: rig.spawn(one), rig.destroy
    )
    broken = every_call(rig, build)
    assert len(broken) >= 60
    judge(rig, bystander, broken, capsys)


def test_builds_of_all_disks_broken_at_every_step(rig, bystander, capsys):
    build = breaking.Operation(
        lambda: with_all_disks(rig), lambda one: rig.spawn(one), rig.destroy
    )
    broken = list(breaking.break_steps(rig, build))
    assert len(broken) >= 16
    judge(rig, bystander, broken, capsys)


def test_removals_of_all_disks_broken_at_every_call(rig, bystander, capsys):
    def built():
        instance = with_all_disks(rig)
        rig.spawn(instance)
        return instance

    removal = breaking.Operation(built, rig.destroy, rig.destroy)
    broken = every_call(rig, removal)
    assert len(broken) >= 24
    judge(rig, bystander, broken, capsys)


def with_kernels(rig):
    """Return builds of a server that boots from files in dom0, kept for none."""
    kernels.require_loops()
    rig.set_option("cache_images", "none")
    rig.driver.cleanup_host("compute1")
    rig.start()
    boot_kernels.offer(rig)
    return breaking.Operation(
        lambda: boot_kernels.server(rig), lambda one: rig.spawn(one), rig.destroy
    )


def test_builds_with_kernels_broken_at_every_call(rig, bystander, capsys):
    broken = every_call(rig, with_kernels(rig))
    assert len(broken) >= 60
    judge(rig, bystander, broken, capsys)


def test_builds_with_kernels_broken_at_every_step(rig, bystander, capsys):
    broken = list(breaking.break_steps(rig, with_kernels(rig)))
    assert len(broken) >= 14
    judge(rig, bystander, broken, capsys)
