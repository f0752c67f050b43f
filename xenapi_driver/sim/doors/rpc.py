# SPDX-License-Identifier: Apache-2.0
"""XML-RPC and JSON-RPC in front of one machine: bytes in, bytes out.

Every door uses it, with a socket or without one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xenapi_driver.sim.doors import wire
from xenapi_driver.sim.failure import Failure

# Larger bodies are refused ("XAPI today", section 1.1).
MAX_BODY = 300 * 1024
_RAW_ANSWERS = ("system.listMethods", "system.isAlive")


@dataclass(frozen=True)
class Peer:
    """Who is on the other side.

    :ivar name: for the log
    :ivar trusted: a process on the host itself, which needs no password
    :ivar labels: what its request wants a task's other_config to hold
    """

    name: str = "in-process"
    trusted: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


Execute = Callable[[Peer, str, list[Any]], Any]
UNKNOWN = Peer()


class Rpc:
    """Both forms of the protocol.

    :param execute: carries out a method with its parameters, or raises Failure
    """

    def __init__(self, execute: Execute) -> None:
        self._execute = execute

    def xml(self, body: bytes, peer: Peer = UNKNOWN) -> bytes:
        """Answer one XML-RPC request.

        :raises wire.Malformed: the body is no request
        :raises ConnectionError: the host is dead, or a rule cut the connection
        """
        method, params = wire.decode_xml(body)
        try:
            value = self._execute(peer, method, params)
        except Failure as failure:
            return wire.encode_xml(wire.failure(failure.description))
        if method.startswith(_RAW_ANSWERS):
            return wire.encode_xml(value)
        return wire.encode_xml(wire.success(value))

    def json(self, body: bytes, peer: Peer = UNKNOWN) -> bytes:
        """Answer one JSON-RPC request, version 1 or 2, as :meth:`xml` does."""
        method, params, number, v2 = wire.decode_json(body)
        try:
            value = self._execute(peer, method, params)
        except Failure as failure:
            return wire.encode_json(None, failure.description, number, v2)
        return wire.encode_json(value, None, number, v2)
