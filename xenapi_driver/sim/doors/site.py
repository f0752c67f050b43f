# SPDX-License-Identifier: Apache-2.0
"""What stands behind a door: a machine, and who answers for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from xenapi_driver.sim.doors.rpc import Peer, Rpc
from xenapi_driver.sim.request_log import RequestLog
from xenapi_driver.sim.world import World


class Stream(Protocol):
    """A connection, whatever is below it."""

    @property
    def peer(self) -> Peer:
        """Who is on the other side."""

    @property
    def encrypted(self) -> bool:
        """Whether nobody else can read it."""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes as soon as there are some; b"" at the end."""

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""

    def set_timeout(self, seconds: float | None) -> None:
        """Let reading and writing raise TimeoutError after so long."""

    def hang_up(self) -> None:
        """End the connection, also for who reads from it now."""


class Computer(Protocol):
    """The machine that is asked."""

    @property
    def world(self) -> World:
        """Its pool."""

    @property
    def host(self) -> str:
        """Its reference there."""

    @property
    def running(self) -> bool:
        """Whether it is on."""


@dataclass(frozen=True)
class Site:
    """A machine and its answers.

    :ivar log: where requests are written down that are no calls
    :ivar admin: answers the test door from target and body, if it is open
    """

    machine: Computer
    rpc: Rpc
    admin: Callable[[str, bytes | None], Any] | None = None
    log: RequestLog = field(default_factory=RequestLog)
