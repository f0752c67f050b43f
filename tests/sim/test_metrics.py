# SPDX-License-Identifier: Apache-2.0
"""What is measured: data sources, and the archives behind /rrd_updates and its kin."""

import http.client
import json
import math
import time
import xml.etree.ElementTree as ET

import pytest

from tests.sim.clients import (
    GIB,
    Refused,
    vbd_record,
    vdi_record,
    vif_record,
    vm_record,
)
from xenapi_driver.sim import Simulator

NOWHERE = "00000000-0000-0000-0000-000000000001"


def boot(client, **changes):
    """Start a VM with a disk and a NIC; return its reference."""
    vm = client.call("VM.create", vm_record(VCPUs_max="2", **changes))
    client.call("VM.set_VCPUs_at_startup", vm, "2")
    (pool,) = client.call("pool.get_all")
    vdi = client.call(
        "VDI.create", vdi_record(client.call("pool.get_default_SR", pool))
    )
    client.call("VBD.create", vbd_record(vm, vdi))
    network = next(
        ref
        for ref, row in client.call("network.get_all_records").items()
        if row["bridge"] == "xenbr0"
    )
    client.call("VIF.create", vif_record(vm, network))
    client.call("VM.start", vm, False, False)
    return vm


@pytest.fixture
def vm(local):
    return boot(local)


@pytest.fixture
def host(local):
    (host,) = local.call("host.get_all")
    return host


@pytest.fixture
def get(sim, local):
    """A function that asks a handler; it returns status, kind and body."""
    web = http.client.HTTPConnection(*sim.serve().address, timeout=20)

    def get(path, headers=None, **arguments):
        arguments = {"session_id": local.session, **arguments}
        query = "&".join(f"{name}={value}" for name, value in arguments.items())
        web.request("GET", f"{path}?{query}", headers=headers or {})
        answer = web.getresponse()
        return answer.status, answer.getheader("content-type"), answer.read()

    yield get
    web.close()


def updates(get, **arguments):
    """Return the parsed JSON of /rrd_updates."""
    arguments = {"json": "true", "start": int(time.time()) - 60, **arguments}
    status, kind, body = get("/rrd_updates", **arguments)
    assert (status, kind) == (200, "application/json")
    return json.loads(body)


def has_run_for_long(client, sim, vm):
    """Let a VM have begun long ago: before its start there is nothing measured."""
    metrics = client.call("VM.get_metrics", vm)
    sim.world.db.update("VM_metrics", metrics, start_time="20200101T00:00:00Z")


def names(document):
    return [entry.split(":")[3] for entry in document["meta"]["legend"]]


# data sources


def test_a_guest_s_sources_follow_its_devices_and_memory(local, vm):
    found = {row["name_label"]: row for row in local.call("VM.get_data_sources", vm)}
    assert {"cpu0", "cpu1", "memory", "vif_0_rx", "vif_0_tx"} <= set(found)
    assert {"vbd_xvda_read", "vbd_xvda_write"} <= set(found)
    assert "cpu2" not in found
    assert found["memory"]["value"] == GIB
    assert (found["memory"]["units"], found["cpu0"]["units"]) == ("B", "(fraction)")
    assert 0 < found["cpu0"]["value"] <= 1
    assert not found["vbd_xvda_read_latency"]["enabled"]
    assert local.call("VM.query_data_source", vm, "memory") == GIB


def test_a_paused_guest_does_nothing(local, vm):
    local.call("VM.pause", vm)
    for name in ("cpu0", "vif_0_rx", "vbd_xvda_write"):
        assert local.call("VM.query_data_source", vm, name) == 0
    assert local.call("VM.query_data_source", vm, "memory") == GIB


@pytest.mark.parametrize(
    ("method", "arguments", "wanted"),
    [
        ("VM.get_data_sources", (), "running"),
        ("VM.query_data_source", ("cpu0",), "running;paused"),
        ("VM.record_data_source", ("cpu0",), "running"),
        ("VM.forget_data_source_archives", ("cpu0",), "running"),
    ],
)
def test_a_halted_guest_has_none(client, method, arguments, wanted):
    vm = client.call("VM.create", vm_record())
    with pytest.raises(Refused) as caught:
        client.call(method, vm, *arguments)
    assert caught.value.args[0] == ["VM_BAD_POWER_STATE", vm, wanted, "halted"]


def test_unknown_sources_are_refused(local, vm, host):
    for method, ref in (("VM", vm), ("host", host)):
        for verb in ("query_data_source", "forget_data_source_archives"):
            with pytest.raises(Refused) as caught:
                local.call(f"{method}.{verb}", ref, "nonsense")
            assert caught.value.code == "INTERNAL_ERROR"
            assert 'Rrd.Invalid_data_source("nonsense")' in caught.value.params[0]


def test_a_host_s_sources_follow_its_guests(client, sim):
    (host,) = client.call("host.get_all")

    def query(name):
        return client.call("host.query_data_source", host, name)

    before = {name: query(name) for name in ("memory_free_kib", "running_vcpus")}
    vm = boot(client)
    overhead = int(client.call("VM.get_memory_overhead", vm))
    taken = before["memory_free_kib"] - query("memory_free_kib")
    assert taken == (GIB + overhead) / 1024
    assert query("running_vcpus") == before["running_vcpus"] + 2
    free = int(client.call("host.compute_free_memory", host))
    assert query("memory_free_kib") == free / 1024
    total = sum(
        row["name_label"].startswith("cpu") and row["name_label"] != "cpu_avg"
        for row in client.call("host.get_data_sources", host)
    )
    assert total == len(client.call("host.get_host_CPUs", host))


def test_equal_questions_get_equal_answers(local, sim, vm, get):
    has_run_for_long(local, sim, vm)
    start = int(time.time()) - 60
    first = updates(get, start=start, vm_uuid=local.call("VM.get_uuid", vm))
    second = updates(get, start=start, vm_uuid=local.call("VM.get_uuid", vm))
    rows = {row["t"]: row["values"] for row in first["data"]}
    again = {row["t"]: row["values"] for row in second["data"]}
    both = set(rows) & set(again)
    assert len(both) > 5
    for t in both:
        assert again[t] == rows[t]
        assert "NaN" not in rows[t]


@pytest.mark.parametrize("noted", ["yesterday", "", "inf"])
def test_a_start_at_no_time_leaves_the_rest_to_read(local, get, host, noted):
    local.call("host.set_other_config", host, {"boot_time": noted})
    assert "memory_free_kib" in names(updates(get, host="true"))


# /rrd_updates


def test_updates_are_rows_newest_first(local, vm, get):
    uuid = local.call("VM.get_uuid", vm)
    found = updates(get, vm_uuid=uuid)
    meta, data = found["meta"], found["data"]
    assert (meta["step"], meta["rows"]) == ("5", str(len(data)))
    assert meta["columns"] == str(len(meta["legend"]))
    assert f"AVERAGE:vm:{uuid}:cpu0" in meta["legend"]
    times = [int(row["t"]) for row in data]
    assert times == list(range(int(meta["end"]), int(meta["start"]) - 1, -5))
    assert 0 <= time.time() - times[0] < 10
    column = meta["legend"].index(f"AVERAGE:vm:{uuid}:memory")
    # It has just begun: before that nothing was measured.
    assert data[-1]["values"][column] == "NaN"
    assert {row["values"][column] for row in data} <= {"NaN", f"{GIB:.4f}"}


def test_the_latest_sample(local, sim, vm, get):
    has_run_for_long(local, sim, vm)
    uuid = local.call("VM.get_uuid", vm)
    found = updates(get, start=int(time.time()) - 10, cf="AVERAGE", vm_uuid=uuid)
    assert len(found["data"]) in (2, 3)
    assert all(not math.isnan(float(v)) for v in found["data"][0]["values"])


@pytest.mark.parametrize(
    ("age", "interval", "step"),
    [
        (60, None, 5),
        (60, 5, 5),
        (60, 60, 60),
        (3600, None, 60),
        (86400, None, 3600),
        (30 * 86400, None, 86400),
        (60, 3600, 3600),
        (10, 86400, 86400),
    ],
)
def test_the_finest_archive_that_reaches_back(get, age, interval, step):
    more = {} if interval is None else {"interval": interval}
    found = updates(get, start=int(time.time()) - age, host="true", **more)
    assert found["meta"]["step"] == str(step)


def test_from_the_beginning_a_year_of_days(get):
    found = updates(get, start=0, host="true", vm_uuid="none")
    assert found["meta"]["start"] == "86400"
    assert (found["meta"]["step"], found["meta"]["rows"]) == ("86400", "366")
    assert int(found["meta"]["end"]) % 86400 == 0


def test_who_is_told_of(local, vm, get):
    uuid = local.call("VM.get_uuid", vm)
    (host,) = local.call("host.get_all")
    host_uuid = local.call("host.get_uuid", host)
    dom0 = local.call("VM.get_uuid", local.call("host.get_control_domain", host))

    def told(**arguments):
        found = updates(get, **arguments)["meta"]["legend"]
        return {tuple(entry.split(":")[1:3]) for entry in found}

    everybody = {("vm", uuid), ("vm", dom0)}
    assert everybody <= told()
    assert everybody | {("host", host_uuid)} <= told(host="true", vm_uuid="all")
    assert told(vm_uuid=uuid) == {("vm", uuid)}
    assert told(vm_uuid="none", host="true") == {("host", host_uuid)}
    assert told(vm_uuid=NOWHERE) == set()
    local.call("VM.hard_shutdown", vm)
    assert told(vm_uuid=uuid) == set()


def test_kinds_of_values(local, vm, get):
    uuid = local.call("VM.get_uuid", vm)

    def kinds(**arguments):
        legend = updates(get, **arguments)["meta"]["legend"]
        return {entry.split(":")[0] for entry in legend}

    assert kinds(vm_uuid=uuid) == {"AVERAGE"}
    assert kinds(vm_uuid="none", host="true") == {"AVERAGE", "MIN", "MAX"}
    assert kinds(vm_uuid="none", host="true", cf="MAX") == {"MAX"}
    (pool,) = local.call("pool.get_all")
    key = "create_min_max_in_new_VM_RRDs"
    local.call("pool.add_to_other_config", pool, key, "true")
    assert kinds(vm_uuid=uuid) == {"AVERAGE", "MIN", "MAX"}


def test_extremes_enclose_the_average(local, get, host):
    config = local.call("host.get_other_config", host)
    local.call("host.set_other_config", host, {**config, "boot_time": "0."})
    start = int(time.time()) - 3600
    found = updates(get, start=start, host="true", vm_uuid="none")
    legend = [entry.split(":") for entry in found["meta"]["legend"]]
    assert found["data"]
    for row in found["data"]:
        of = {
            (entry[0], entry[3]): float(value)
            for entry, value in zip(legend, row["values"], strict=True)
        }
        for (kind, name), value in of.items():
            if kind == "AVERAGE":
                assert of["MIN", name] <= value + 1e-3
                assert value <= of["MAX", name] + 1e-3


def test_xml_says_the_same(local, vm, get):
    arguments = {"start": int(time.time()) - 30, "host": "true"}
    status, kind, body = get("/rrd_updates", **arguments)
    assert (status, kind) == (200, "text/xml")
    root = ET.fromstring(body)
    assert root.tag == "xport"
    legend = [entry.text for entry in root.findall("meta/legend/entry")]
    assert legend == updates(get, **arguments)["meta"]["legend"]
    rows = root.findall("data/row")
    assert len(rows) == int(root.findtext("meta/rows"))
    for row in rows:
        assert len(row.findall("v")) == len(legend)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/xml", "text/xml"),
        ("application/json;q=0.2, text/xml", "text/xml"),
        ("text/html", "text/xml"),
        ("*/*;q=x", "text/xml"),
    ],
)
def test_the_form_that_the_caller_likes(get, accept, kind):
    start = int(time.time()) - 10
    assert get("/rrd_updates", {"Accept": accept}, start=start)[1] == kind


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({}, 400),
        ({"start": "soon"}, 400),
        ({"start": "0", "interval": "x"}, 400),
        ({"start": "0", "cf": "MEDIAN"}, 500),
        ({"start": "0", "session_id": "OpaqueRef:NULL"}, 401),
    ],
)
def test_questions_that_make_no_sense(get, arguments, status):
    assert get("/rrd_updates", **arguments)[0] == status


def test_a_source_is_recorded_from_then_on_and_forgotten(local, sim, vm, get):
    uuid = local.call("VM.get_uuid", vm)
    has_run_for_long(local, sim, vm)
    assert "runstate_fullrun" not in names(updates(get, vm_uuid=uuid))
    local.call("VM.record_data_source", vm, "runstate_fullrun")
    found = updates(get, vm_uuid=uuid)
    column = names(found).index("runstate_fullrun")
    assert found["data"][-1]["values"][column] == "NaN"
    local.call("VM.forget_data_source_archives", vm, "cpu0")
    assert "cpu0" not in names(updates(get, vm_uuid=uuid))
    (cpu0,) = [
        row
        for row in local.call("VM.get_data_sources", vm)
        if row["name_label"] == "cpu0"
    ]
    assert not cpu0["enabled"]


# whole archives


def test_a_guest_s_archives(local, vm, get):
    uuid = local.call("VM.get_uuid", vm)
    status, kind, body = get("/vm_rrd", uuid=uuid)
    assert (status, kind) == (200, "text/xml")
    root = ET.fromstring(body)
    assert (root.tag, root.findtext("version"), root.findtext("step")) == (
        "rrd",
        "0003",
        "5",
    )
    sources = [ds.findtext("name") for ds in root.findall("ds")]
    assert {"cpu0", "memory", "vif_0_rx"} <= set(sources)
    rows = [
        (rra.findtext("cf"), rra.findtext("pdp_per_row"), len(rra.findall(".//row")))
        for rra in root.findall("rra")
    ]
    assert rows == [
        ("AVERAGE", "1", 120),
        ("AVERAGE", "12", 120),
        ("AVERAGE", "720", 168),
        ("AVERAGE", "17280", 366),
    ]
    for row in root.findall("rra/database/row"):
        assert len(row.findall("v")) == len(sources)
    newest = root.find("rra/database")[-1]
    memory = newest.findall("v")[sources.index("memory")].text
    assert memory in (f"{GIB:.4f}", "NaN")


def test_a_host_s_archives_as_json(get):
    status, kind, body = get("/host_rrd", json="true")
    assert (status, kind) == (200, "application/json")
    found = json.loads(body)
    assert {rra["cf"] for rra in found["rra"]} == {"AVERAGE", "MIN", "MAX"}
    assert "memory_free_kib" in {source["name"] for source in found["ds"]}


def test_archives_of_nobody(local, get):
    halted = local.call("VM.create", vm_record())
    assert get("/vm_rrd")[0] == 400
    assert get("/vm_rrd", uuid=NOWHERE)[0] == 500
    assert get("/vm_rrd", uuid=local.call("VM.get_uuid", halted))[0] == 404


def test_another_host_names_the_one_that_knows(tmp_path):
    simulator = Simulator(tmp_path / "state", hosts=2)
    try:
        session = simulator.session()
        session.login_with_password("root", "secret", "1.0", "tests")
        vm = session.xenapi.VM.create(vm_record())
        there = simulator.machines.all[1].host
        session.xenapi.VM.start_on(vm, there, False, False)
        uuid = session.xenapi.VM.get_uuid(vm)
        path = f"/vm_rrd?uuid={uuid}&session_id={session.handle}"
        web = http.client.HTTPConnection(*simulator.serve().address, timeout=10)
        web.request("GET", path)
        answer = web.getresponse()
        address = session.xenapi.host.get_address(there)
        assert answer.status == 302
        assert answer.getheader("Location") == f"https://{address}{path}"
        web.close()
    finally:
        simulator.close()
