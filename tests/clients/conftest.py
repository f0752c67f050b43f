# SPDX-License-Identifier: Apache-2.0
"""A host in a process of its own, and the clients' environments."""

from __future__ import annotations

import os

import pytest

from tests.clients import environments
from tests.clients.host_process import COMMAND, started

REQUIRED = os.environ.get("REQUIRE_CLIENTS") == "1"


def absent(why):
    """Skip, or fail where everything was installed."""
    if REQUIRED:
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def environment():
    """Return a function from a client's name to its environment's folder."""

    def find(name):
        try:
            return environments.make(name)
        except environments.Unavailable as why:
            absent(f"{name}: {why}")

    return find


@pytest.fixture(scope="session", autouse=True)
def command():
    if not COMMAND.exists():
        absent(f"{COMMAND} is not installed (make venv)")


@pytest.fixture
def host(tmp_path):
    """A host over plain HTTP."""
    with started(tmp_path / "host", "--admin") as process:
        yield process


@pytest.fixture(params=["http", "https"])
def any_host(request, tmp_path):
    """A host; tests with it run over HTTP and over HTTPS."""
    tls = ["--tls"] if request.param == "https" else []
    with started(tmp_path / "host", "--admin", *tls) as process:
        yield process
