# SPDX-License-Identifier: Apache-2.0
"""The benchmark of builds: it builds, and one download is enough."""

from __future__ import annotations

import json
import sys

from bench import __main__ as command
from bench import builds


def test_builds_at_once_and_a_snapshot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "BUILD", tmp_path)
    monkeypatch.setattr(builds, "SIZES", (1, 4))
    monkeypatch.setattr(builds, "SNAPSHOT_MIB", 2)
    monkeypatch.setattr(builds, "_TIMES", 1)
    monkeypatch.setattr(sys, "argv", ["bench", "builds"])
    command.main()
    assert "builds at once" in capsys.readouterr().out
    measured = json.loads((tmp_path / "bench-builds.json").read_text())
    assert measured[builds.DOWNLOADS] == {"1": 1, "4": 1}
    assert measured[builds.REQUESTS]["1"] == 15
    assert measured[builds.REQUESTS]["4"] == 15 + 3 * 10
    assert set(json.loads((tmp_path / "bench.json").read_text())) == {
        "ratio.build_of_4_at_once", "ratio.snapshot_to_copy",
    }  # fmt: skip
