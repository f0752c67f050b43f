# SPDX-License-Identifier: Apache-2.0
"""What is reported of a host, from the records that the embedded host gives."""

from __future__ import annotations

import dataclasses
import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nova import exception as nova_exception
from nova.pci import devspec
from nova.pci.utils import parse_address

from tests import embedded
from tests.sim.clients import GIB, vm_record
from xenapi_driver import exceptions
from xenapi_driver.ops import resources
from xenapi_driver.xapi import host, vm
from xenapi_driver.xapi.host import HostRecord
from xenapi_driver.xapi.pci import PciRecord
from xenapi_driver.xapi.pool import PoolRecord
from xenapi_driver.xapi.records import KINDS
from xenapi_driver.xapi.sr import SrRecord
from xenapi_driver.xapi.tables import Snapshot
from xenapi_driver.xapi.vm import VmRecord

MIB = 2**20
HOST = "OpaqueRef:host"


def storage(snapshot):
    """Return the SR of servers' disks: the pool's default."""
    (pool,) = snapshot[PoolRecord].values()
    return snapshot[SrRecord][pool.default_sr]


def reported(session, snapshot=None):
    snapshot = snapshot or embedded.snapshot(session)
    sr_uuid = storage(embedded.snapshot(session)).uuid
    return resources.resources(snapshot, session.host_ref, sr_uuid)


def with_changes(snapshot, kind, ref, **changes):
    record = dataclasses.replace(snapshot[kind][ref], **changes)
    return snapshot.changed({kind: {ref: record}})


def host_with(session, **changes):
    """Report the host as it is but for these fields of its record."""
    snapshot = embedded.snapshot(session)
    return reported(
        session, with_changes(snapshot, HostRecord, session.host_ref, **changes)
    )


def guest(session, *, name="instance-1", server=True, **changes):
    marks = {vm.NOVA_UUID: "0" * 32} if server else {}
    return vm.create(
        session, vm_record(name_label=name, other_config=marks, **changes)
    )  # fmt: skip


def started(session, **kwargs):
    ref = guest(session, **kwargs)
    vm.start_on(session, ref, session.host_ref, paused=False)
    return ref


# Memory


def assert_as_the_host_counts(session):
    found, free = reported(session), host.free_memory(session, session.host_ref)
    total = found.memory_mb * MIB
    assert (total - free) // MIB == found.memory_mb_used


def test_memory_is_what_the_host_itself_counts(session):
    assert_as_the_host_counts(session)
    started(session)
    started(session, name="instance-2", VCPUs_max="4", VCPUs_at_startup="4")
    guest(session, name="halted")
    assert_as_the_host_counts(session)


def test_a_guest_that_may_be_squeezed_counts_at_its_least(session):
    started(
        session,
        memory_static_max=str(4 * GIB),
        memory_dynamic_max=str(4 * GIB),
        memory_dynamic_min=str(GIB),
    )
    assert_as_the_host_counts(session)


def test_a_guest_in_a_shim_counts_whole(session):
    started(
        session,
        domain_type="pv_in_pvh",
        PV_bootloader="pygrub",
        memory_static_max=str(4 * GIB),
        memory_dynamic_max=str(4 * GIB),
        memory_dynamic_min=str(GIB),
    )
    assert_as_the_host_counts(session)


def test_a_guest_on_its_way_here_counts(session):
    ref = guest(session)
    snapshot = embedded.snapshot(session)
    before = reported(session, snapshot)
    coming = with_changes(snapshot, VmRecord, ref, scheduled_on=session.host_ref)
    needed = snapshot[VmRecord][ref].memory_needed
    after = reported(session, coming)
    assert needed > 0
    assert after.memory_mb_used - before.memory_mb_used == needed // MIB
    assert after.vcpus_used > before.vcpus_used


def test_guests_elsewhere_do_not_count(session):
    ref = started(session)
    snapshot = embedded.snapshot(session)
    gone = with_changes(snapshot, VmRecord, ref, resident_on="OpaqueRef:other")
    here, elsewhere = reported(session, snapshot), reported(session, gone)
    assert elsewhere.memory_mb_used < here.memory_mb_used
    assert elsewhere.vcpus_used < here.vcpus_used


def test_what_is_apart_is_all_but_servers(session):
    bare = reported(session)
    assert bare.memory_mb_apart == bare.memory_mb_used > 0
    started(session)
    assert reported(session).memory_mb_apart == bare.memory_mb_apart
    started(session, name="theirs", server=False)
    assert reported(session).memory_mb_apart > bare.memory_mb_apart


# Processors, disk, version


def test_processors(session):
    found = reported(session)
    shape = found.cpu_info["topology"]
    assert shape["sockets"] * shape["cores"] * shape["threads"] == found.vcpus
    assert "sse2" in found.cpu_info["features"]
    assert {"arch", "model", "vendor"} <= set(found.cpu_info)


def test_features_are_bounded_by_the_host_and_by_its_pool(session):
    (pool,) = embedded.snapshot(session)[PoolRecord].values()
    info = {"features_hvm": "a", "features_hvm_host": "b", "cpu_count": "8"}
    found = host_with(session, cpu_info=info)
    common = pool.cpu_info["features_hvm_host"]
    assert found.featuresets == ("a", "b", common)
    assert host_with(session, cpu_info={"cpu_count": "8"}).featuresets == (common,)


def test_dom0s_processors_are_not_used_up(session):
    before = reported(session).vcpus_used
    started(session, VCPUs_max="3", VCPUs_at_startup="3")
    assert reported(session).vcpus_used == before + 3


def test_disk(session):
    found = reported(session)
    size = storage(embedded.snapshot(session)).physical_size
    assert found.local_gb == size // GIB
    assert 0 <= found.local_gb_used <= found.local_gb
    assert found.disk_available_least == found.local_gb


def test_disk_that_was_promised_twice(session):
    snapshot = embedded.snapshot(session)
    record = storage(snapshot)
    promised = {"virtual_allocation": 2 * record.physical_size}
    found = reported(session, with_changes(snapshot, SrRecord, record.ref, **promised))
    assert found.disk_available_least == -found.local_gb


def test_an_sr_that_was_never_scanned_has_nothing(session):
    unknown = {"physical_size": -1, "physical_utilisation": -1}
    snapshot = embedded.snapshot(session)
    ref = storage(snapshot).ref
    found = reported(session, with_changes(snapshot, SrRecord, ref, **unknown))
    assert (found.local_gb, found.local_gb_used) == (0, 0)
    ratios = dict.fromkeys(("VCPU", "MEMORY_MB", "DISK_GB"), 1.0)
    kept = resources.Reserved(cpus=0, memory_mb=0, disk_gb=0)
    assert set(resources.inventories(found, kept, ratios)) == {"VCPU", "MEMORY_MB"}


@pytest.mark.parametrize(
    ("software", "number"),
    [
        ({"product_version": "8.3.0"}, 8003000),
        ({"product_version": "8"}, 8000000),
        ({"product_version": "", "platform_version": "3.4.0"}, 3004000),
        ({}, 0),
    ],
)
def test_version(session, software, number):
    found = host_with(session, software_version=software)
    assert found.hypervisor_version == number


def test_only_hvm_guests_of_known_architectures_are_supported(session):
    told = ("xen-3.0-x86_64", "hvm-3.0-x86_32p", "hvm-3.0-x86_64", "hvm-3.0-new", "?")
    found = host_with(session, capabilities=told)
    assert found.supported == (("i686", "xen", "hvm"), ("x86_64", "xen", "hvm"))
    assert found.architectures == {"i686", "x86_64"}


@pytest.mark.parametrize("kind", [HostRecord, SrRecord])
def test_what_is_gone_is_said_in_words(session, kind):
    snapshot = embedded.snapshot(session)
    ref = session.host_ref if kind is HostRecord else storage(snapshot).ref
    with pytest.raises(exceptions.UnfitHost, match="connection_url|sr_matching_filter"):
        reported(session, snapshot.changed({kind: {ref: None}}))


# PCI devices


def device(ref, **changes):
    fields = {
        "uuid": ref,
        "host": HOST,
        "pci_id": "0000:03:00.0",
        "vendor_id": "8086",
        "device_id": "1533",
        "driver_name": "pciback",
    }
    return PciRecord.from_xapi(ref, {**fields, **changes})


def devices(*records):
    snapshot = Snapshot(KINDS).changed(
        {PciRecord: {record.ref: record for record in records}}
    )
    return resources.pci_devices(snapshot, HOST)


def test_the_embedded_hosts_cards_are_dom0s_own(session):
    assert len(embedded.snapshot(session)[PciRecord]) > 0
    assert reported(session).pci_devices == ()


def test_a_device_that_is_set_aside(session):
    snapshot = embedded.snapshot(session)
    (ref, *_others) = snapshot[PciRecord]
    aside = with_changes(snapshot, PciRecord, ref, driver_name="pciback")
    (found,) = reported(session, aside).pci_devices
    address = snapshot[PciRecord][ref].pci_id
    assert found == {
        "address": address,
        "vendor_id": "8086",
        "product_id": "1533",
        "dev_type": "type-PCI",
        "label": "label_8086_1533",
        "dev_id": "pci_" + address.replace(":", "_").replace(".", "_"),
        "numa_node": None,
    }
    spec = devspec.PciDeviceSpec({"vendor_id": "8086", "product_id": "1533"})
    assert spec.match(found)


def test_virtual_functions_name_their_parent():
    card = device("pf", virtual_functions=["vf"])
    function = device("vf", pci_id="0000:03:10.0", physical_function="pf")
    pf, vf = devices(function, card)
    assert (pf["dev_type"], vf["dev_type"]) == ("type-PF", "type-VF")
    assert vf["parent_addr"] == pf["address"]
    assert "parent_addr" not in pf


def test_the_parent_may_stay_with_dom0():
    card = device("pf", driver_name="igb", virtual_functions=["vf"])
    function = device("vf", pci_id="0000:03:10.0", physical_function="pf")
    (vf,) = devices(function, card)
    assert vf["parent_addr"] == card.pci_id


def test_devices_of_dom0_and_of_other_hosts_are_left_out():
    assert devices(device("a", driver_name="igb"), device("b", driver_name="")) == []
    assert devices(device("c", host="OpaqueRef:other")) == []


@pytest.mark.parametrize(
    "changes", [{"vendor_id": ""}, {"device_id": ""}, {"pci_id": "03:00.0"}]
)
def test_a_device_that_nova_could_not_match_is_left_out_with_a_word(caplog, changes):
    with caplog.at_level(logging.DEBUG, resources.__name__):
        assert devices(device("a", **changes)) == []
    assert len(caplog.records) == 1


def test_ids_are_four_lower_case_digits():
    (found,) = devices(device("a", vendor_id="10DE", device_id="0xA2"))
    assert (found["vendor_id"], found["product_id"]) == ("10de", "00a2")


@given(vendor=st.text(max_size=6), product=st.text(max_size=6), where=st.text())
def test_whatever_a_host_says_nova_can_parse_the_report(vendor, product, where):
    record = device("a", vendor_id=vendor, device_id=product, pci_id=where)
    for found in devices(record, device("b")):
        assert re.fullmatch("[0-9a-f]{4}", found["vendor_id"])
        assert re.fullmatch("[0-9a-f]{4}", found["product_id"])
        try:
            parse_address(found["address"])
        except nova_exception.PciDeviceWrongAddressFormat:
            pytest.fail(found["address"])


# Uptime


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "up 0 min"),
        (59 * 60, "up 59 min"),
        (3600, "up  1:00"),
        (24 * 3600, "up 1 day, 0 min"),
        (11 * 24 * 3600 + 3 * 3600 + 7 * 60, "up 11 days,  3:07"),
        # The two clocks differ.
        (-5, "up 0 min"),
    ],
)
def test_uptime(seconds, said):
    now = 1_700_000_000.0
    assert resources.uptime(now - seconds, now) == f" 22:13:20 {said}"


def test_the_host_says_when_it_booted(session):
    ours = embedded.snapshot(session)[HostRecord][session.host_ref]
    stamp = ours.other_config["boot_time"]
    assert reported(session).booted == float(stamp)


@pytest.mark.parametrize("other_config", [{}, {"boot_time": ""}, {"boot_time": "x"}])
def test_a_host_that_does_not_say_when(session, other_config):
    assert host_with(session, other_config=other_config).booted is None


# Placement


def test_inventories(session):
    found = reported(session)
    kept = resources.Reserved(cpus=1, memory_mb=2**40, disk_gb=2)
    ratios = {"VCPU": 4.0, "MEMORY_MB": 1.0, "DISK_GB": 1.5}
    classes = resources.inventories(found, kept, ratios)
    assert classes["VCPU"] == {
        "total": found.vcpus,
        "reserved": 1,
        "min_unit": 1,
        "max_unit": found.vcpus,
        "step_size": 1,
        "allocation_ratio": 4.0,
    }
    assert classes["MEMORY_MB"]["reserved"] == found.memory_mb
    assert classes["DISK_GB"]["reserved"] == 2
    assert classes["DISK_GB"]["allocation_ratio"] == 1.5
