# SPDX-License-Identifier: Apache-2.0
"""What is known of a host by its release."""

from __future__ import annotations

import dataclasses

import pytest

from tests import embedded
from xenapi_driver.xapi import pool, release
from xenapi_driver.xapi.host import HostRecord


@pytest.fixture
def records(session):
    snapshot = embedded.snapshot(session)
    return snapshot[HostRecord][session.host_ref], pool.only(snapshot)


def of(records, platform="3.4.0", xapi="26.17.0", secure=False, **changes):
    host, its_pool = records
    software = {"platform_version": platform, "xapi_build": xapi}
    host = dataclasses.replace(host, software_version=software, **changes)
    return release.abilities(host, its_pool, secure)


def test_a_host_of_today(records):
    host, its_pool = records
    found = release.abilities(host, its_pool, True)
    assert found == release.Abilities(
        secure_boot=True, cpus=int(host.cpu_info["cpu_count"])
    )
    assert found.direct_kernel == "pvh"


@pytest.mark.parametrize(
    ("platform", "xapi", "pv", "uefi", "vtpm", "kernel"),
    [
        ("2.1.0", "1.14.0", True, False, False, "pv"),  # XenServer 7.0
        ("3.2.1", "1.249.32", True, True, False, "pv"),  # 8.2
        ("3.4.0", "24.19.2", False, True, True, "pvh"),  # 8.3
    ],
)
def test_older_hosts(records, platform, xapi, pv, uefi, vtpm, kernel):
    found = of(records, platform, xapi)
    assert (found.pv, found.uefi, found.vtpm) == (pv, uefi, vtpm)
    assert found.direct_kernel == kernel


def test_a_hypervisor_without_pv(records):
    found = of(records, "2.1.0", capabilities=("hvm-3.0-x86_64",))
    assert not found.pv
    assert found.direct_kernel is None


@pytest.mark.parametrize(
    ("policy", "nodes", "expected"),
    [("best_effort", "2", True), ("default_policy", "2", False), ("any", "1", True)],
)
def test_whether_memory_comes_from_one_node(records, policy, nodes, expected):
    host, _pool = records
    cpu = {**host.cpu_info, "nr_nodes": nodes}
    found = of(records, numa_affinity_policy=policy, cpu_info=cpu)
    assert found.one_node is expected


def test_a_licence_without_tpm(records):
    host, its_pool = records
    less = dataclasses.replace(its_pool, restrictions={"restrict_vtpm": "true"})
    assert not release.abilities(host, less, False).vtpm


def test_secure_boot_needs_certificates(session):
    assert not pool.secure_boot_ready(session)
    (ref,) = session.call("pool.get_all")
    session.call("pool.set_custom_uefi_certificates", ref, "Y2VydA==")
    assert pool.secure_boot_ready(session)
