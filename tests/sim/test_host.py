# SPDX-License-Identifier: Apache-2.0
"""What an administrator does to a host, and what the host tells of itself."""

import time
import zoneinfo

import pytest

from tests.sim.clients import NULL, Refused, refusal, vm_record


@pytest.fixture
def host(client):
    return client.call("host.get_all")[0]


def log_of(sim):
    path = sim.world.dom0.root / "var/log/xensource.log"
    return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "hostname empty"),
        ("bad name!", "hostname contains invalid characters"),
        ("x" * 256, "hostname is too long"),
    ],
)
def test_a_bad_hostname_is_refused(client, host, name, reason):
    before = client.call("host.get_hostname", host)
    got = refusal(client, "host.set_hostname_live", host, name)
    assert got == ["HOST_NAME_INVALID", reason]
    assert client.call("host.get_hostname", host) == before


def test_a_hostname_shows_in_all_places(client, host):
    client.call("host.set_hostname_live", host, "other-01.example.org")
    record = client.call("host.get_record", host)
    assert record["hostname"] == "other-01.example.org"
    assert record["software_version"]["hostname"] == "other-01.example.org"
    assert record["name_label"] == "xcpng-01"


def test_a_disabled_host_may_be_shut_down(client, host):
    enabled = set(client.call("host.get_allowed_operations", host))
    client.call("host.disable", host)
    disabled = set(client.call("host.get_allowed_operations", host))
    assert disabled - enabled == {"apply_updates", "reboot", "shutdown"}
    assert enabled < disabled


def test_power_on_mode_is_kept(client, host):
    client.call("host.set_power_on_mode", host, "IPMI", {"power_on_ip": "10.0.0.1"})
    record = client.call("host.get_record", host)
    assert record["power_on_mode"] == "IPMI"
    assert record["power_on_config"] == {"power_on_ip": "10.0.0.1"}


def test_the_display_changes_with_the_next_start(client, host):
    assert client.call("host.disable_display", host) == "disable_on_reboot"
    assert client.call("host.disable_display", host) == "disable_on_reboot"
    assert client.call("host.get_display", host) == "disable_on_reboot"
    assert client.call("host.enable_display", host) == "enabled"


def test_the_scheduler_changes_with_the_next_start(local):
    (host,) = local.call("host.get_all")
    local.call("host.set_sched_gran", host, "socket")
    assert local.call("host.get_sched_gran", host) == "cpu"
    later = {"boot_time": f"{time.time() + 60:.0f}."}
    local.call("host.set_other_config", host, later)
    assert local.call("host.get_sched_gran", host) == "socket"


def test_logs_are_sent_where_the_record_says(local, sim):
    (host,) = local.call("host.get_all")
    file = sim.world.dom0.root / "etc/rsyslog.d/remote.conf"
    local.call("host.set_logging", host, {"syslog_destination": "log.example.org"})
    assert not file.exists()
    local.call("host.syslog_reconfigure", host)
    assert "@log.example.org" in file.read_text(encoding="utf-8")
    local.call("host.set_logging", host, {})
    local.call("host.syslog_reconfigure", host)
    assert file.read_text(encoding="utf-8") == ""


def test_time_zones_are_those_of_the_system(client, host):
    known = client.call("host.list_timezones", host)
    assert set(known) == zoneinfo.available_timezones()
    client.call("host.set_timezone", host, known[0])
    assert client.call("host.get_timezone", host) == known[0]
    got = refusal(client, "host.set_timezone", host, "Moon/Tycho")
    assert got == ["INVALID_VALUE", "timezone", "Moon/Tycho"]
    assert client.call("host.get_timezone", host) == known[0]


def test_the_clock_can_be_set_where_nothing_else_sets_it(local):
    (host,) = local.call("host.get_all")
    local.call("host.set_ntp_mode", host, "Factory")
    got = refusal(local, "host.set_servertime", host, "20300101T00:00:00Z")
    assert got == ["NOT_ALLOWED_WHEN_NTP_IS_ENABLED", host]
    assert not str(local.call("host.get_servertime", host)).startswith("2030")
    local.call("host.set_ntp_mode", host, "Disabled")
    local.call("host.set_servertime", host, "20300101T00:00:00Z")
    assert str(local.call("host.get_servertime", host)).startswith("20300101T00:00:")
    assert not str(local.call("host.get_server_localtime", host)).endswith("Z")


@pytest.mark.parametrize(
    "text",
    ["2030-01-01T00:00:00Z", "20300101T00:00:00", "20300101", "20300101T01:00:00+0100"],
)
def test_a_date_may_be_spelt_in_several_ways(local, text):
    host = local.call("host.get_all")[0]
    local.call("host.set_ntp_mode", host, "Disabled")
    local.call("host.set_servertime", host, text)
    assert str(local.call("host.get_servertime", host)).startswith("20300101T00:00:")
    got = refusal(local, "host.set_servertime", host, "20301399T00:00:00Z")
    assert got[0] == "INTERNAL_ERROR"
    assert "Unable to parse date" in got[1]


def test_a_boot_time_that_is_no_time_hurts_nobody(local):
    host = local.call("host.get_all")[0]
    config = local.call("host.get_other_config", host)
    local.call("host.set_other_config", host, {**config, "boot_time": "noon"})
    assert local.call("host.get_sched_gran", host) == "cpu"


@pytest.mark.parametrize(
    ("text", "word"),
    [("{", "Json_error"), ("[]", "Malformed"), ('{"method": 5}', "Malformed")],
)
def test_an_extension_is_called_by_a_whole_request(client, host, text, word):
    got = refusal(client, "host.call_extension", host, text)
    assert got[0] == "INTERNAL_ERROR"
    assert word in got[1]


def test_a_plugin_of_an_impossible_name_is_missing(client, host):
    name = "a" * 300
    got = refusal(client, "host.call_plugin", host, name, "f", {})
    assert got == ["XENAPI_MISSING_PLUGIN", name]


def test_custom_time_servers_come_before_their_use(client, host):
    code = refusal(client, "host.set_ntp_mode", host, "Custom")[0]
    assert code == "INVALID_NTP_CONFIG"
    servers = ["ntp.example.org"]
    bad = refusal(client, "host.set_ntp_custom_servers", host, ["a b"])
    assert bad[0] == "INVALID_NTP_CONFIG"
    client.call("host.set_ntp_custom_servers", host, servers)
    client.call("host.set_ntp_mode", host, "Custom")
    status = client.call("host.get_ntp_servers_status", host)
    assert status == {"ntp.example.org": "Unreachable"}
    assert client.call("host.get_ntp_synchronized", host) is False
    assert refusal(client, "host.set_ntp_custom_servers", host, [])[0] == code
    assert client.call("host.get_ntp_custom_servers", host) == servers


def test_ssh_ends_after_its_time(client, host):
    never = "19700101T00:00:00Z"
    client.call("host.enable_ssh", host)
    assert client.call("host.get_ssh_enabled", host) is True
    assert str(client.call("host.get_ssh_expiry", host)) == never
    client.call("host.set_ssh_enabled_timeout", host, "3600")
    assert str(client.call("host.get_ssh_expiry", host)) > never
    got = refusal(client, "host.set_ssh_enabled_timeout", host, "172801")
    assert got[:2] == ["INVALID_VALUE", "ssh_enabled_timeout"]
    client.call("host.disable_ssh", host)
    assert client.call("host.get_ssh_enabled", host) is False


def test_certificates_are_checked_where_the_pool_does(client, host):
    code = refusal(client, "host.emergency_reenable_tls_verification")[0]
    assert code == "TLS_VERIFICATION_NOT_ENABLED_IN_POOL"
    client.call("pool.enable_tls_verification")
    assert client.call("host.get_tls_verification_enabled", host) is True
    client.call("host.emergency_disable_tls_verification")
    assert client.call("host.get_tls_verification_enabled", host) is False
    client.call("host.emergency_reenable_tls_verification")
    assert client.call("host.get_tls_verification_enabled", host) is True


def test_a_cache_wants_an_idle_host_and_a_fitting_sr(local):
    (host,) = local.call("host.get_all")
    (pool,) = local.call("pool.get_all")
    sr = local.call("pool.get_default_SR", pool)
    (iso,) = local.call("SR.get_by_name_label", "XCP-ng Tools")

    def enable(ref):
        return local.call("host.enable_local_storage_caching", host, ref)

    with pytest.raises(Refused, match="HOST_NOT_DISABLED"):
        enable(sr)
    local.call("host.disable", host)
    with pytest.raises(Refused, match="HOST_IN_USE"):
        enable(sr)
    (guest,) = local.call("VM.get_by_name_label", "nova-compute")
    local.call("VM.hard_shutdown", guest)
    with pytest.raises(Refused, match="SR_OPERATION_NOT_SUPPORTED"):
        enable(iso)
    enable(sr)
    assert local.call("host.get_local_cache_sr", host) == sr
    assert local.call("SR.get_local_cache_enabled", sr) is True
    local.call("host.disable_local_storage_caching", host)
    assert local.call("host.get_local_cache_sr", host) == NULL
    assert local.call("SR.get_local_cache_enabled", sr) is False


def test_management_moves_to_an_interface_with_an_address(local):
    (host,) = local.call("host.get_all")
    first = local.call("host.get_management_interface", host)
    (other,) = set(local.call("host.get_PIFs", host)) - {first}
    network = local.call("PIF.get_network", other)
    for method, ref in (("host", other), ("pool", network)):
        got = refusal(local, f"{method}.management_reconfigure", ref)
        assert got == ["PIF_HAS_NO_NETWORK_CONFIGURATION", other]
    address = ("Static", "10.1.1.1", "255.255.255.0", "", "")
    local.call("PIF.reconfigure_ip", other, *address)
    local.call("host.management_reconfigure", other)
    assert local.call("host.get_management_interface", host) == other
    assert local.call("host.get_address", host) == "10.1.1.1"
    local.call("host.local_management_reconfigure", "eth0")
    assert local.call("host.get_management_interface", host) == first
    local.call("pool.management_reconfigure", network)
    assert local.call("host.get_management_interface", host) == other
    assert refusal(local, "host.local_management_reconfigure", "eth7") == [
        "INTERFACE_HAS_NO_IP",
        "eth7",
    ]
    local.call("host.management_disable")
    got = refusal(local, "host.get_management_interface", host)
    assert got == ["HOST_HAS_NO_MANAGEMENT_IP"]


def test_interfaces_are_found_again(local):
    (host,) = local.call("host.get_all")
    local.call("host.reset_networking", host)
    assert local.call("host.get_PIFs", host) == []
    local.call("PIF.scan", host)
    devices = {
        record["device"] for record in local.call("PIF.get_all_records").values()
    }
    assert devices == {"eth0", "eth1"}


@pytest.mark.parametrize(
    ("method", "params", "trace"),
    [
        ("bugreport_upload", ("ftp://up.example.org/x", {}), "up.example.org"),
        ("backup_rrds", (0.0,), "done"),
        ("sync_data", (), "done"),
        ("send_debug_keys", ("h",), "keys h"),
        ("sm_dp_destroy", ("vbd/0/xvda", False), "vbd/0/xvda"),
    ],
)
def test_what_shows_nowhere_else_is_in_the_log(local, sim, method, params, trace):
    (host,) = local.call("host.get_all")
    local.call(f"host.{method}", host, *params)
    assert f"host.{method}: " in log_of(sim)
    assert trace in log_of(sim).splitlines()[-1]


def test_reports_name_what_is_there(local):
    (host,) = local.call("host.get_all")
    assert "<capability" in local.call("host.get_system_status_capabilities", host)
    assert "MainThread" in local.call("host.get_thread_diagnostics", host)
    assert "attached" in local.call("host.get_sm_diagnostics", host)


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("get_log", (), ["NOT_IMPLEMENTED", "get_log"]),
        ("enable_external_auth", ({}, "s", "x"), ["AUTH_UNKNOWN_TYPE", "x"]),
        ("external_auth_set_ldaps", (True, False), ["AUTH_IS_DISABLED"]),
    ],
)
def test_what_a_host_does_not_have_is_refused(client, host, method, params, error):
    assert refusal(client, f"host.{method}", host, *params) == error


def test_ha_cannot_be_ended_where_it_is_off(client):
    assert refusal(client, "host.emergency_ha_disable", False) == ["HA_NOT_ENABLED"]


def test_room_is_kept_for_a_guest(local):
    (host,) = local.call("host.get_all")
    vm = local.call("VM.create", vm_record())
    local.call("host.allocate_resources_for_vm", host, vm, False)
    assert local.call("VM.get_scheduled_to_be_resident_on", vm) == host
    got = refusal(local, "host.allocate_resources_for_vm", host, NULL, False)
    assert got == ["HANDLE_INVALID", "VM", NULL]


def test_a_restarted_toolstack_knows_no_sessions(local):
    (host,) = local.call("host.get_all")
    local.call("host.restart_agent", host)
    end = time.monotonic() + 10
    with pytest.raises(Refused, match="SESSION_INVALID"):
        while time.monotonic() < end:
            local.call("host.get_all")
            time.sleep(0.01)


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13", "20260101"])
def test_a_date_is_a_date(local, text):
    if text == "20260101":
        assert local.call("message.get_since", text) == {}
    else:
        assert refusal(local, "message.get_since", text)[0] == "INTERNAL_ERROR"


def test_the_initiator_stands_in_other_config_too(client, host):
    assert refusal(client, "host.set_iscsi_iqn", host, "") == [
        *("INVALID_VALUE", "value", "")
    ]
    for name in ("iqn.2020-01.org.example:a", "iqn.2020-01.org.example:b"):
        client.call("host.set_iscsi_iqn", host, name)
        assert client.call("host.get_iscsi_iqn", host) == name
        assert client.call("host.get_other_config", host)["iscsi_iqn"] == name
    client.call("host.set_multipathing", host, True)
    assert client.call("host.get_multipathing", host) is True
    assert client.call("host.get_other_config", host)["multipathing"] == "true"
