# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the embedded host: that it runs and counts, never how fast."""

import json
import pathlib
import sys

import pytest

from bench import __main__ as command
from bench import conformance, report, simulator
from bench.hosts import Client, Refused, running

FOUND = {
    "VM.get_record": {10: 0.0002, 100: 0.0003, 1000: 0.0004},
    "VM.get_all_records": {10: 0.002, 100: 0.02, 1000: 2.5},
    simulator.IDLE: {10: 0.0, 100: 0.005, 1000: 0.5},
}


def test_ratios_are_of_the_fewest_and_the_most():
    assert simulator.ratios(FOUND) == {
        "ratio.get_record_1000_to_10": 2.0,
        "ratio.get_all_records_1000_to_100": 125.0,
    }
    assert simulator.ratios({"VM.get_record": {10: 1.0}}) == {}


def test_table():
    lines = report.table(FOUND).splitlines()
    assert lines[0].split() == ["VMs", "10", "100", "1,000"]
    assert lines[1].split("  ")[0] == "VM.get_record"
    assert "200 us  5,000/s" in lines[1]
    assert "2.5 s    0.4/s" in lines[2]
    assert lines[3].endswith("50.0%")
    assert len({len(line) for line in lines}) == 1


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(simulator, "_ENOUGH_SECONDS", 0.0)
    monkeypatch.setattr(simulator, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(simulator, "_IDLE_CLIENTS", 2)
    monkeypatch.setattr(command, "BUILD", tmp_path)
    return tmp_path


def test_the_command_measures_and_writes(quick, monkeypatch, capsys):
    argv = ["bench", "simulator", "--vms", "3,2", "-f", "json"]
    monkeypatch.setattr(sys, "argv", argv)
    command.main()
    found = json.loads(capsys.readouterr().out)["simulator"]
    assert found == json.loads((quick / "bench-simulator.json").read_text())
    assert {"2", "3"} == set(found["VM.get_record"])
    assert all(value >= 0 for times in found.values() for value in times.values())
    ratios = json.loads((quick / "bench.json").read_text())
    assert "ratio.get_record_3_to_2" in ratios
    assert all(name.startswith("ratio.") for name in ratios)
    plots = {path.suffix for path in quick.glob("bench-simulator.*")} - {".json"}
    assert plots in (set(), {".svg", ".png"})


def test_vms_run_on_all_hosts():
    with running("--hosts", "2", "--admin") as host:
        client = Client(host.urls[0])
        vms = simulator.fill(client, 4)
        records = [client.call("VM.get_record", vm) for vm in vms]
        assert {one["power_state"] for one in records} == {"Running"}
        assert len({one["resident_on"] for one in records}) == 2
        # A guest stops by itself, as the scoring program asks for.
        conformance.main(host.urls[0], "guest", "halt", records[0]["uuid"])
        with pytest.raises(Refused):
            client.call("VM.clean_shutdown", vms[0])
        client.close()


def test_without_the_recordings_there_is_nothing_to_report(monkeypatch):
    monkeypatch.setattr(conformance, "SCORER", pathlib.Path("/nonexistent/score.py"))
    assert conformance.measure() == {}
