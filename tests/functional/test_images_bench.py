# SPDX-License-Identifier: Apache-2.0
"""The benchmark of images: what it measures is a whole transfer, and memory is flat."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from bench import __main__ as command
from bench import images, images_report


def test_both_directions_are_measured_beside_a_pipeline(
    tmp_path, monkeypatch, capsys
):
    if not all(map(shutil.which, images.PROGRAMS)):
        pytest.skip("NO curl OR pigz HERE")
    monkeypatch.setattr(command, "BUILD", tmp_path)
    monkeypatch.setattr(images, "SIZES", (2, 32))
    monkeypatch.setattr(images, "TIMES", 1)
    monkeypatch.setattr(sys, "argv", ["bench", "images"])
    command.main()
    assert "upload_vhd" in capsys.readouterr().out
    measured = json.loads((tmp_path / "bench-images.json").read_text())
    for fn in (images.DOWNLOAD, images.UPLOAD):
        for column in (images.OURS, images.THEIRS, images.PEAK):
            assert all(measured[fn][column][size] > 0 for size in ("2", "32"))
        peaks = measured[fn][images.PEAK].values()
        assert max(peaks) < images_report.MOST_MEMORY
    assert {
        f"{kind}.{fn}"
        for kind in ("ratio", "peak_mib") for fn in (images.DOWNLOAD, images.UPLOAD)
    } == set(json.loads((tmp_path / "bench.json").read_text()))
