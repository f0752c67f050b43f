# SPDX-License-Identifier: Apache-2.0
"""Sessions of the XAPI layer on the embedded host."""

from __future__ import annotations

import json
import xmlrpc.client
from collections.abc import Callable

from xenapi_driver.sim import Simulator
from xenapi_driver.sim.doors.server import Server
from xenapi_driver.xapi import certificates, transport
from xenapi_driver.xapi.records import KINDS
from xenapi_driver.xapi.session import Session
from xenapi_driver.xapi.tables import Snapshot

Door = Callable[[], transport.Transport]


def inside(sim: Simulator) -> Door:
    """Return the way to the first host without a connection."""
    return lambda: transport.InProcessTransport(sim.handle, sim.handle_json)


def through(server: Server, timeouts: transport.Timeouts | None = None) -> Door:
    """Return the way through a door; its certificate is trusted, if it has one."""
    pins = (server.fingerprint,) if server.fingerprint else ()
    verify = certificates.Verify(fingerprints=pins)
    return lambda: transport.HttpTransport(server.url, verify, timeouts)


def session(door: Door, password: str = "secret", **choices: object) -> Session:
    """Return a session of root that is not logged in yet."""
    return Session(door, "root", password, "test", **choices)


def snapshot(session: Session) -> Snapshot:
    """Return all records as the host has them now."""
    found = {}
    for kind in KINDS:
        records = session.call(f"{kind.XAPI_CLASS}.get_all_records")
        found[kind] = {ref: kind.from_xapi(ref, rec) for ref, rec in records.items()}
    return Snapshot(KINDS).changed(found)


class Wire:
    """A way to a host on which it is seen what goes by.

    :ivar calls: method and arguments of each request, the session first
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self.calls: list[tuple[str, tuple]] = []

    def __call__(self) -> transport.Transport:
        carrier = self._door()
        send = carrier.request

        def request(
            path: str, content_type: str, body: bytes, *more: object
        ) -> transport.Answer:
            if "json" in content_type:
                call = json.loads(body)
                method, arguments = call["method"], tuple(call["params"])
            else:
                arguments, method = xmlrpc.client.loads(body.decode())
            self.calls.append((method, arguments))
            return send(path, content_type, body, *more)

        carrier.request = request
        return carrier

    def arguments(self, method: str) -> list[tuple]:
        """Return what a method was called with each time, the session left out."""
        return [found[1:] for name, found in self.calls if name == method]
