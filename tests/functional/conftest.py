# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the functional tests: a rig that is up, or one that is not yet."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from tests import builders, fixtures


@pytest.fixture(scope="session", autouse=True)
def nova_objects():
    fixtures.prepare_nova()


@pytest.fixture(scope="session")
def tarball(tmp_path_factory):
    """An image as Glance stores it."""
    if shutil.which("qemu-img") is None:
        pytest.skip("missing: qemu-img")
    return builders.vhd_tarball(builders.vhd_bytes(tmp_path_factory.mktemp("image")))


@pytest.fixture
def bare_rig(tmp_path):
    """A rig whose driver has not started yet, for tests of what it refuses."""
    rig = fixtures.Rig(tmp_path)
    yield rig
    rig.close()


@pytest.fixture
def secured(bare_rig):
    """A rig whose options trust its host's certificate, in TLS."""
    with contextlib.closing(bare_rig.sim.serve(tls=True)) as server:
        bare_rig.set_option("connection_url", server.url)
        bare_rig.set_option("connection_fingerprints", [server.fingerprint])
        bare_rig.set_option("reserved_host_memory_mb", 8192, "DEFAULT")
        bare_rig.server = server
        yield bare_rig


@pytest.fixture
def pool_rig(tmp_path):
    """A rig of two hosts, whose driver manages the one that does not lead."""
    addresses = ("127.0.0.2", "127.0.0.3")
    rig = fixtures.Rig(tmp_path, hosts=2, addresses=addresses)
    leader = rig.sim.serve(host=addresses[0])
    port = int(leader.url.rpartition(":")[2])
    member = rig.sim.serve(host=addresses[1], port=port, machine=1)
    rig.set_option("connection_url", member.url)
    rig.set_option("sr_matching_filter", "other-config:i18n-key=local-storage")
    rig.set_option("check_host", False)
    rig.set_option("independent_compute", True)
    yield rig
    rig.close()


@pytest.fixture
def rig(bare_rig, tarball):
    """A rig that is up, with one image."""
    bare_rig.start()
    bare_rig.image_id = bare_rig.add_image(tarball)
    return bare_rig
