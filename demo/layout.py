# SPDX-License-Identifier: Apache-2.0
"""Where things are: the state folder, the ports, the programs, the password."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
HOST = "demo-host"
REGION = "RegionOne"
# Everything listens on loopback only and is thrown away with the state folder.
PASSWORD = "secret"

# The usual ports; the offset is added to each.
PORTS = {
    "keystone": 5000,
    "glance": 9292,
    "placement": 8778,
    "neutron-api": 9696,
    "nova-api": 8774,
    "epmd": 4369,
    "rabbitmq": 5672,
    "rabbitmq-nodes": 5671,
    "mariadb": 3306,
    "memcached": 11211,
    "xapi": 8443,
}
DEFAULT_OFFSET = 10000
CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Layout:
    """The places of one copy of the demo; two copies differ in both fields."""

    state: Path
    offset: int = DEFAULT_OFFSET
    prefix: Path = Path(sys.prefix)
    checkout: Path = CHECKOUT

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Layout:
        """Read DEMO_STATE and DEMO_PORT_OFFSET.

        :raises ValueError: the offset is no number or leaves the range of ports
        """
        state = Path(environ.get("DEMO_STATE") or CHECKOUT / ".demo").resolve()
        offset = int(environ.get("DEMO_PORT_OFFSET") or DEFAULT_OFFSET)
        if not 0 <= offset <= 65535 - max(PORTS.values()):
            raise ValueError(
                f"DEMO_PORT_OFFSET={offset}: the ports would leave 1..65535"
            )
        return cls(state=state, offset=offset)

    def port(self, name: str) -> int:
        return PORTS[name] + self.offset

    def url(self, name: str, path: str = "") -> str:
        return f"http://{LOOPBACK}:{self.port(name)}{path}"

    def program(self, name: str) -> Path:
        """A command of the virtual environment that runs the demo."""
        return self.prefix / "bin" / name

    @property
    def auth_url(self) -> str:
        return self.url("keystone", "/v3")

    @property
    def etc(self) -> Path:
        return self.state / "etc"

    @property
    def log(self) -> Path:
        return self.state / "log"

    @property
    def run(self) -> Path:
        return self.state / "run"

    @property
    def cache(self) -> Path:
        """What a later run uses again: the only part that outlives a run."""
        return self.state / "cache"

    def config(self, service: str, file: str | None = None) -> Path:
        return self.etc / service / (file or f"{service}.conf")

    def log_of(self, process: str) -> Path:
        return self.log / f"{process}.log"
