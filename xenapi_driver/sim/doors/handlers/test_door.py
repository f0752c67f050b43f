# SPDX-License-Identifier: Apache-2.0
"""The test door over HTTP; where it is closed, its paths are like any other."""

import json

from xenapi_driver.sim.doors.admin import PREFIX
from xenapi_driver.sim.doors.exchange import Exchange, handler
from xenapi_driver.sim.doors.handlers import calls
from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.failure import Failure


@handler("GET", PREFIX)
def look(talk: Exchange) -> None:
    """Answer as :mod:`xenapi_driver.sim.doors.admin` says."""
    _answer(talk, None)


@handler("POST", PREFIX)
def act(talk: Exchange) -> None:
    """Do what was posted."""
    if talk.site.admin is None:
        calls.xml_rpc(talk)
    else:
        _answer(talk, talk.body.exactly(talk.body.length or 0))


def _answer(talk: Exchange, body: bytes | None) -> None:
    if talk.site.admin is None:
        raise Refusal(403)
    try:
        found = talk.site.admin(talk.request.target, body)
    except (TypeError, ValueError, LookupError, Failure) as error:
        talk.answer("text/plain", f"{error}\n".encode(), status=400)
        return
    talk.answer("application/json", json.dumps(found).encode() + b"\n")
