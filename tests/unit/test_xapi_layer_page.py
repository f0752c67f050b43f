# SPDX-License-Identifier: Apache-2.0
"""The page on the XAPI layer: its example runs as it stands."""

from __future__ import annotations

import pathlib
import re
import textwrap

from xenapi_driver.sim import Simulator

PAGE = pathlib.Path(__file__).parents[2] / "doc/source/contributor/xapi-layer.rst"


def test_the_example_runs(tmp_path):
    blocks = re.findall(r"code-block:: python\n\n((?:   .*\n|\n)+)", PAGE.read_text())
    (block,) = blocks
    sim = Simulator(tmp_path)
    server = sim.serve(tls=True)
    before = sim.inventory()
    names = {"url": server.url, "fingerprint": server.fingerprint, "password": "secret"}
    try:
        exec(textwrap.dedent(block), names)
        assert sim.inventory() == before
    finally:
        server.close()
        sim.close()
