# SPDX-License-Identifier: Apache-2.0
"""What every test with real services needs; missing loudly when it is not there.

The programs are those of demo/packages.txt and of the virtual environment that
``make venv`` makes.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.layout import Layout
from demo.processes import Processes
from tests.integration.rows import Outcome

# Away from the ports of a demo that somebody left running.
OFFSET = 14000

PROGRAMS = ("mariadbd", "rabbitmq-server", "memcached", "qemu-img", "debugfs")
OUTCOMES = pytest.StashKey[list[Outcome]]()
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    absent = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    absent += [
        name
        for name in ("nova-compute", "uwsgi")
        if not (Path(sys.prefix) / "bin" / name).exists()
    ]
    if absent:
        pytest.skip(f"missing: {', '.join(absent)} (make venv, demo/packages.txt)")


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """Where all clouds of the tests are, one after the other.

    One folder and one set of ports: the first leaves a template of the databases.
    """
    made = Layout(tmp_path_factory.mktemp("cloud"), OFFSET)
    yield made
    Processes(made).stop_all(())


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> list[Outcome]:
    """What rows of the matrix took; the summary tells it."""
    found: list[Outcome] = []
    request.config.stash[OUTCOMES] = found
    return found


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print a line for each row of the matrix, with the seconds of its phases."""
    found = config.stash.get(OUTCOMES, [])
    if found:
        terminalreporter.section("rows of the matrix, seconds")
    for outcome in found:
        phases = ", ".join(f"{k} {v:.1f}" for k, v in outcome.seconds.items())
        terminalreporter.write_line(f"{outcome.row!s:24} {phases}")
