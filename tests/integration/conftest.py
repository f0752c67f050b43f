# SPDX-License-Identifier: Apache-2.0
"""What every test with real services needs; missing loudly when it is not there.

The programs are those of demo/packages.txt and of the virtual environment that
``make venv`` makes.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

PROGRAMS = ("mariadbd", "rabbitmq-server", "memcached", "qemu-img", "debugfs")
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
