# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.0 and 1.1 on one connection: requests one after another, each answered.

The answer comes from the function that is registered for the longest beginning of the
path ("XAPI today", section 1.1); see :mod:`xenapi_driver.sim.doors.handlers`.
"""

import time

from xenapi_driver.sim.doors import exchange
from xenapi_driver.sim.doors.connection import Connection, Limits
from xenapi_driver.sim.doors.exchange import Exchange
from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.doors.request import Request, parse
from xenapi_driver.sim.doors.site import Site

_METHODS = ("GET", "PUT", "POST", "CONNECT", "OPTIONS")


def serve(connection: Connection, site: Site, limits: Limits) -> None:
    """Answer requests until one side has enough.

    :raises OSError: the connection broke
    """
    first = True
    while True:
        try:
            head = connection.head(limits, first=first)
            if not head:
                return
            talk, function = _begin(connection, site, parse(head))
        except Refusal as refusal:
            talk = Exchange(Request("?", "?"), connection, site)
            talk.refuse(refusal)
            _write_down(talk, 0.0)
            connection.linger()
            return
        begin = time.monotonic()
        try:
            talk.run(function)
        finally:
            if not talk.in_log:
                _write_down(talk, time.monotonic() - begin)
        if talk.must_close:
            if talk.was_refused:
                connection.linger()
            return
        first = False


def _begin(
    connection: Connection, site: Site, request: Request
) -> tuple[Exchange, exchange.Handler]:
    found = exchange.find(request.method, request.path)
    if found is None:
        return Exchange(request, connection, site), _nothing_here
    function, realm = found
    return Exchange(request, connection, site, realm), function


def _write_down(talk: Exchange, seconds: float) -> None:
    """Tell of a request; its query may hold a session, and is left out."""
    what = f"{talk.request.method} {talk.request.path}"
    outcome = str(talk.status) if talk.status else "cut"
    talk.site.log.request(talk.peer.name, what, seconds, outcome)


def _nothing_here(talk: Exchange) -> None:
    """Refuse: there is no web page behind this door."""
    if talk.request.method not in _METHODS:
        raise Refusal(501)
    raise Refusal(403)
