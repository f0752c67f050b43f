# SPDX-License-Identifier: Apache-2.0
"""API calls over HTTP: XML-RPC at every path that has no other use, and JSON-RPC."""

from collections.abc import Callable
from dataclasses import replace

from xenapi_driver.sim.doors.exchange import Exchange, handler
from xenapi_driver.sim.doors.refusals import Refusal
from xenapi_driver.sim.doors.rpc import MAX_BODY, Peer
from xenapi_driver.sim.doors.wire import Malformed

# xen-api, ocaml/xapi/context.ml, get_http_other_config.
_LABEL = "x-http-other-config-"


@handler("POST", "/")
def xml_rpc(talk: Exchange) -> None:
    """Answer an XML-RPC request."""
    _answer(talk, "text/xml", talk.site.rpc.xml)


@handler("POST", "/jsonrpc")
@handler("POST", "/json")
def json_rpc(talk: Exchange) -> None:
    """Answer a JSON-RPC request."""
    _answer(talk, "application/json", talk.site.rpc.json)


def _answer(talk: Exchange, kind: str, call: Callable[[bytes, Peer], bytes]) -> None:
    size = talk.body.length
    if size is None:
        text = "We require a Content-Length: HTTP header"
        raise Refusal(500, f'Failure("{text}")')
    if size > MAX_BODY:
        raise Refusal(500, "Http.Client_requested_size_over_limit")
    body = talk.body.exactly(size)
    if len(body) < size:
        raise ConnectionResetError("The request broke off.")
    try:
        answer = call(body, replace(talk.peer, labels=_labels(talk)))
    except Malformed as error:
        raise Refusal(500, str(error)) from error
    # It was written down as a call, by its method's name.
    talk.in_log = True
    talk.answer(kind, answer)


def _labels(talk: Exchange) -> dict[str, str]:
    """Return what the request's headers put into the task of an Async call."""
    return {
        name.removeprefix(_LABEL): value
        for name, value in talk.request.headers.items()
        if name.startswith(_LABEL)
    }


@handler("OPTIONS", "/")
def options(talk: Exchange) -> None:
    """Answer what a browser asks before a call to another site."""
    asked = talk.request.headers.get("access-control-request-headers")
    headers = {"Access-Control-Allow-Methods": "PUT"}
    if asked:
        headers["Access-Control-Allow-Headers"] = asked
    talk.answer("text/plain", b"", headers)
