# SPDX-License-Identifier: Apache-2.0
"""The driver's benchmark: what it counts, and that the bars hold."""

from __future__ import annotations

import json
import sys

import pytest

from bench import __main__ as command
from bench import driver


@pytest.fixture
def found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "BUILD", tmp_path)
    monkeypatch.setattr(driver, "LATENCIES_MS", (0, 1))
    monkeypatch.setattr(sys, "argv", ["bench", "driver", "--vms", "2,12"])
    command.main()
    table = capsys.readouterr().out
    measured = json.loads((tmp_path / "bench-driver.json").read_text())
    return table, measured, json.loads((tmp_path / "bench.json").read_text())


def test_the_bars_hold_at_any_size(found):
    table, measured, ratios = found
    most = {
        driver.CONNECT: 4,
        driver.POWER_SYNC: 1,
        driver.RESOURCES: 4,
        driver.LIST: 0,
    }
    for what, bar in most.items():
        for cost in measured[what].values():
            assert cost["requests"] <= bar
            assert set(cost["seconds"]) == {"0", "1"}
        assert ratios[f"ratio.requests_{what}_12_to_2".replace(" ", "_")] == 1
    few, many = measured[driver.READ_ALL].values()
    assert few["polls_received"] < many["polls_received"]
    assert few["polls"] <= 2 and many["polls"] <= 2
    assert measured["memory"]["12"]["bytes"] > measured["memory"]["2"]["bytes"] > 0
    assert "power sync" in table and "records in memory" in table
