# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver doctor`` tells what is in order, what is not, and what to do."""

from __future__ import annotations

import contextlib
import re
from unittest import mock

from tests.functional import doctoring
from xenapi_driver import driver as xenapi
from xenapi_driver.cmd import examination
from xenapi_driver.xapi import transport


def warned(rig, check: str, pattern: str) -> dict[str, str]:
    """The host is fit, and one thing of this check is worth a warning."""
    told = doctoring.consult(rig.nova_conf())
    assert told.status == 0
    [row] = told.of(check, "warning")
    assert re.search(pattern, row["Seen"]), row
    assert row["Remedy"].endswith(".")
    return row


def test_a_fit_host(secured):
    told = doctoring.consult(secured.nova_conf())
    assert told.states() == {check: {"ok"} for check in examination.CHECKS}
    assert told.status == 0
    assert [row for row in told.rows if row["Remedy"]] == []


def test_nothing_is_changed_on_the_host(secured):
    before = secured.sim.inventory()
    doctoring.consult(secured.nova_conf())
    assert secured.sim.inventory() == before
    assert secured.host.records("network", bridge="br-int") == []


def test_its_session_ends(secured):
    before = secured.sim.world.db.refs("session")
    doctoring.consult(secured.nova_conf())
    assert secured.sim.world.db.refs("session") == before


def test_the_password_is_never_shown(secured):
    for password in ("secret", "not-it-at-all"):
        secured.set_option("connection_password", password)
        _, printed = doctoring.run("--config-file", secured.nova_conf())
        assert not re.search(rf"\b{password}\b", printed)


def test_several_files_count_like_nova_s(secured, tmp_path):
    more = tmp_path / "more.conf"
    more.write_text("[xenserver]\nsr_matching_filter = nonsense\n")
    told = doctoring.consult(secured.nova_conf(), more)
    assert told.status == 1
    [row] = told.of("storage", "failed")
    assert "nonsense" in row["Seen"]


def test_a_folder_of_files(secured, tmp_path):
    folder = tmp_path / "nova.conf.d"
    folder.mkdir()
    secured.nova_conf().rename(folder / "one.conf")
    status, printed = doctoring.run("--config-dir", folder)
    assert status == 0, printed
    assert "one.conf" in printed


def test_a_file_that_is_not_there(tmp_path):
    told = doctoring.consult(tmp_path / "none.conf")
    assert told.status == 1
    states = told.states()
    assert list(states) == list(examination.CHECKS)
    assert states.pop("options") == {"failed"}
    assert all(state == {"not checked"} for state in states.values())


def test_what_depends_on_a_failed_check_waits(bare_rig):
    bare_rig.set_option("connection_password", "not-it")
    states = doctoring.consult(bare_rig.nova_conf()).states()
    assert states["connection"] == {"ok"}
    assert states["login"] == {"failed"}
    later = examination.CHECKS[examination.CHECKS.index("login") + 1 :]
    assert {check: states[check] for check in later} == {
        check: {"not checked"} for check in later
    }


def test_what_does_not_depend_on_it_is_checked(secured):
    secured.set_option("sr_matching_filter", "other-config:no-such-key=1")
    secured.set_option("independent_compute", True)
    told = doctoring.consult(secured.nova_conf())
    states = told.states()
    assert states["options"] == states["storage"] == {"failed"}
    assert states["plugins"] == states["guests"] == {"ok"}


def test_options_that_are_no_longer_looked_at(secured):
    secured.set_option("torrent_images", "all")
    row = warned(secured, "options", r"torrent_images has no effect")
    assert row["Remedy"] == "Remove it."


def test_an_old_name_of_an_option(secured):
    path = secured.nova_conf()
    text = path.read_text()
    path.write_text(
        text.replace("[xenserver]", "xenapi_login_timeout = 5\n[xenserver]")
    )
    told = doctoring.consult(path)
    [row] = told.of("options", "warning")
    assert row["Seen"] == "[DEFAULT] xenapi_login_timeout is an old name."
    assert row["Remedy"] == "Write it as [xenserver] login_timeout."


def test_another_driver(secured):
    path = secured.nova_conf()
    path.write_text(path.read_text().replace("xenapi.XenAPIDriver", "fake.FakeDriver"))
    told = doctoring.consult(path)
    assert told.status == 1
    [row] = told.of("options", "failed")
    assert "fake.FakeDriver" in row["Seen"]


def test_a_readable_connection(bare_rig):
    row = warned(bare_rig, "options", "readable")
    assert "https://" in row["Remedy"]


def test_an_unverified_certificate(secured):
    secured.set_option("connection_fingerprints", None)
    secured.set_option("connection_insecure", True)
    warned(secured, "certificate", "Not verified.*" + secured.server.fingerprint)
    assert "connection_fingerprints" in warned(secured, "options", "insecure")["Remedy"]


def test_two_ways_to_verify(secured):
    secured.set_option("connection_ca_file", str(secured.server.cert_file))
    warned(secured, "options", "connection_ca_file has no effect")


def test_a_certificate_that_ends_soon(secured):
    doctoring.show_certificate(secured, days=10)
    row = warned(secured, "certificate", "ends in (9|10) days")
    assert "renew" in row["Remedy"].lower()


def test_a_certificate_that_has_ended(secured):
    doctoring.show_certificate(secured, days=-3)
    warned(secured, "certificate", "ended [34] days ago")


def test_a_disabled_host(secured):
    [host] = secured.host.records("host")
    secured.host.call("host.disable", host["uuid"])
    row = warned(secured, "host", "disabled")
    assert host["uuid"] in row["Remedy"]


def test_a_bridge_that_is_there(bare_rig):
    bare_rig.start()
    told = doctoring.consult(bare_rig.nova_conf())
    [network] = bare_rig.host.records("network", bridge="br-int")
    assert network["uuid"] in told.of("networks", "ok")[0]["Seen"]


def test_a_host_that_follows_a_coordinator(pool_rig):
    told = doctoring.consult(pool_rig.nova_conf())
    assert told.status == 0
    assert "coordinator xcpng-01 (127.0.0.2) is followed" in told.rows[3]["Seen"]
    assert "xcpng-02" in told.of("host", "ok")[0]["Seen"]


def test_a_host_that_does_not_answer(secured):
    secured.set_option("login_timeout", 1)
    secured.sim.faults.add("session.login_with_password", action="hang", times=9)
    told = doctoring.consult(secured.nova_conf())
    assert told.status == 1
    [row] = told.of("connection", "failed")
    assert "no answer within 1 seconds" in row["Seen"]
    assert "xensource.log" in row["Remedy"]


def test_no_bridge(secured):
    secured.set_option("ovs_integration_bridge", "")
    warned(secured, "networks", "ovs_integration_bridge is not set")


def test_nova_compute_in_dom0(bare_rig, monkeypatch):
    path = bare_rig.folder / "xapi"
    monkeypatch.setattr(transport, "LOCAL_SOCKET", str(path))
    bare_rig.set_option("connection_url", "unix://local")
    bare_rig.set_option("compute_vm_uuid", None)
    with contextlib.closing(bare_rig.sim.serve_unix(path)):
        told = doctoring.consult(bare_rig.nova_conf())
        assert told.status == 0
        assert "dom0" in told.of("compute VM", "ok")[0]["Seen"]
        bare_rig.start()
        assert len(bare_rig.driver.get_available_nodes()) == 1


def test_a_reserve_that_is_too_small(secured):
    secured.set_option("reserved_host_memory_mb", 512, "DEFAULT")
    row = warned(secured, "guests", r"reserved_host_memory_mb = 512 does not")
    least = re.search(r"take (\d+) MiB", row["Seen"])[1]
    assert row["Remedy"].startswith(f"Set it to {least} plus")
    secured.set_option("reserved_host_memory_mb", int(least), "DEFAULT")
    told = doctoring.consult(secured.nova_conf())
    assert told.states()["guests"] == {"ok"}
    # The driver names the same number.
    secured.start()
    (node,) = secured.driver.get_available_nodes()
    secured.set_option("reserved_host_memory_mb", 0, "DEFAULT")
    with mock.patch.object(xenapi.LOG, "warning") as said:
        secured.driver.get_available_resource(node)
    assert f"take {least} MiB" in str(said.call_args.args[1])


def test_a_file_that_is_no_text(secured, tmp_path):
    path = tmp_path / "binary.conf"
    path.write_bytes(b"[xenserver]\nconnection_url = \xff\xfe\n")
    told = doctoring.consult(path)
    assert told.status == 1
    [row] = told.of("options", "failed")
    assert str(path) in row["Seen"]
    assert "files that nova-compute can read" in row["Remedy"]


def test_a_host_that_refuses_one_call(secured):
    secured.sim.faults.add("host.compute_free_memory", ["INTERNAL_ERROR", "a b c"])
    told = doctoring.consult(secured.nova_conf())
    [row] = told.of("guests", "failed")
    assert "a b c" in row["Seen"]
    assert row["Remedy"]
