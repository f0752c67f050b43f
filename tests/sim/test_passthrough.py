# SPDX-License-Identifier: Apache-2.0
"""Devices for guests on hosts that have network cards only."""

import json

import pytest

from tests.sim.clients import NULL, refusal, vm_record


def read(path):
    return json.loads(path.read_text("ascii"))


def test_a_device_is_hidden_from_dom0_by_a_start(local, sim):
    (host,) = local.call("host.get_all")
    device, other = local.call("host.get_PCIs", host)

    told = sim.world.dom0.root / "boot/hidden-devices"

    def change(method):
        return local.call(f"PCI.{method}_dom0_access", device)

    def status_after_a_start():
        # What was said is as if it were said before the host was started.
        before = {name: (hide, 0.0) for name, (hide, _) in read(told).items()}
        told.write_text(json.dumps(before), "ascii")
        return local.call("PCI.get_dom0_access_status", device)

    assert change("enable") == "enabled"
    assert change("disable") == "disable_on_reboot"
    assert change("disable") == "disable_on_reboot"
    assert change("enable") == "enabled"
    assert change("disable") == "disable_on_reboot"
    assert status_after_a_start() == "disabled"
    assert change("disable") == "disabled"
    assert change("enable") == "enable_on_reboot"
    assert change("disable") == "disabled"
    assert change("enable") == "enable_on_reboot"
    assert status_after_a_start() == "enabled"
    assert local.call("PCI.get_dom0_access_status", other) == "enabled"
    local.call("host.set_other_config", host, {"boot_time": "yesterday"})
    assert local.call("PCI.get_dom0_access_status", device) == "enable_on_reboot"


@pytest.mark.parametrize(
    ("group", "device", "error"),
    [
        ("GPU_group", "VGPU", "GPU_GROUP_CONTAINS_NO_PGPUS"),
        ("USB_group", "VUSB", "USB_GROUP_CONTAINS_NO_PUSBS"),
    ],
)
def test_groups_are_empty(client, group, device, error):
    vm = client.call("VM.create", vm_record())
    ref = client.call(f"{group}.create", "mine", "", {"a": "b"})
    assert client.call(f"{group}.get_by_name_label", "mine") == [ref]
    more = ("0", {}) if device == "VGPU" else ({},)
    assert refusal(client, f"{device}.create", vm, ref, *more) == [error, ref]
    got = refusal(client, f"{device}.create", vm, NULL, *more)
    assert got == ["HANDLE_INVALID", group, NULL]
    assert client.call(f"{device}.get_all") == []
    client.call(f"{group}.destroy", ref)
    assert client.call(f"{group}.get_all") == []


def test_a_scan_of_usb_finds_nothing(client):
    (host,) = client.call("host.get_all")
    client.call("PUSB.scan", host)
    assert client.call("PUSB.get_all") == []


def test_a_pool_knows_its_hosts(client):
    (host,) = client.call("host.get_all")
    uuid = client.call("host.get_uuid", host)
    assert client.call("pool.hello", uuid, "10.0.0.1") == "ok"
    assert client.call("pool.hello", NULL, "10.0.0.1") == "unknown_host"


def test_caching_is_for_all_hosts_or_named_ones(local):
    (host,) = local.call("host.get_all")
    (pool,) = local.call("pool.get_all")
    got = refusal(local, "pool.enable_local_storage_caching", pool)
    assert got == ["HOSTS_FAILED_TO_ENABLE_CACHING", host]
    local.call("host.disable", host)
    (guest,) = local.call("VM.get_by_name_label", "nova-compute")
    local.call("VM.hard_shutdown", guest)
    local.call("pool.enable_local_storage_caching", pool)
    sr = local.call("host.get_local_cache_sr", host)
    assert local.call("SR.get_type", sr) == "ext"
    local.call("pool.disable_local_storage_caching", pool)
    assert local.call("host.get_local_cache_sr", host) == NULL


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("send_test_post", ("far", "1", ""), ["TLS_CONNECTION_FAILED", "far", "1"]),
        ("rotate_secret", (), ["LICENCE_RESTRICTION", "Pool_secret_rotation"]),
        ("enable_binary_storage", (), ["FEATURE_RESTRICTED"]),
    ],
)
def test_what_a_pool_cannot_do_is_refused(client, method, params, error):
    assert refusal(client, f"pool.{method}", *params) == error
