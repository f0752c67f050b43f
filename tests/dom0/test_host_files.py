# SPDX-License-Identifier: Apache-2.0
"""What plugins read of dom0's own files: traffic counters, xapi's configuration."""

import pytest

from tests.dom0.scratch_host import PluginFailed

COUNTERS = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs
    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0
  eth0: 5000 1 0 0 0 0 0 0 6000 1 0 0 0 0 0 0
vif3.0: 1200 10 0 0 0 0 0 0 70000000000 20 0 0 0 0 0 0
vif3.1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0
vif12.0: 30 1 0 0 0 0 0 0 40 1 0 0 0 0 0 0
vif12.0-emu: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0
vif11111111-22: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0
xvif3.0: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0
vif4.0: 7 1 0 0
vif5.0: seven 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0
vif6.: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0
"""
CONF = """\
# log = file:/nowhere
log = syslog:xapi
 sm-dir=/opt/xensource/sm   # where it is
pool_secret_path = /etc/xensource/ptoken
inactive_session_timeout = 600
inactive_session_timeout = 700
"""


def put(host, path, text):
    file = host.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def failure(host, plugin, fn, request):
    with pytest.raises(PluginFailed) as caught:
        host.call(plugin, fn, request)
    return [caught.value.code, *caught.value.params]


def test_traffic_is_told_as_the_guest_sees_it(host):
    put(host, "proc/net/dev", COUNTERS)
    assert host.call("bandwidth", "fetch_all_bandwidth", {}) == {
        "3": {
            "0": {"bw_in": 70000000000, "bw_out": 1200},
            "1": {"bw_in": 2, "bw_out": 1},
        },
        "12": {"0": {"bw_in": 40, "bw_out": 30}},
    }


def test_no_vif_is_no_fault_and_no_counters_are_one(old_host):
    found = failure(old_host, "bandwidth", "fetch_all_bandwidth", {})
    assert found == ["COMMAND_FAILED", "read the counters", "No such file or directory"]
    put(old_host, "proc/net/dev", COUNTERS.split("vif")[0])
    assert old_host.call("bandwidth", "fetch_all_bandwidth", {}) == {}
    found = failure(old_host, "bandwidth", "fetch_all_bandwidth", {"dom_id": 3})
    assert found[:2] == ["BAD_ARGUMENT", "dom_id"]


def test_the_configuration_is_read(host):
    put(host, "etc/xapi.conf", CONF)

    def value(key):
        return host.call("config_file", "get_val", {"key": key})

    assert value("log") == "syslog:xapi"
    assert value("sm-dir") == "/opt/xensource/sm"
    assert value("inactive_session_timeout") == "700"
    assert value("nowatchdog") == ""
    (host.root / "etc/xapi.conf").unlink()
    assert value("log") == ""


def test_no_secret_and_no_way_to_one_is_read(old_host):
    put(old_host, "etc/xapi.conf", CONF)
    for key in ("pool_secret_path", "password", "../shadow", "# log", " log", "lo"):
        found = failure(old_host, "config_file", "get_val", {"key": key})
        assert found[0] == "NOT_PERMITTED", key
        assert "ptoken" not in str(found) and key not in found
    for key in (None, 5, ["log"], "", "x" * 101, "log\n"):
        found = failure(old_host, "config_file", "get_val", {"key": key})
        assert found[:2] == ["BAD_ARGUMENT", "key"], key
