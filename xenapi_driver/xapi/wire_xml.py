# SPDX-License-Identifier: Apache-2.0
"""XAPI's XML-RPC, which every host speaks, by the XenAPI package.

The package's ``Session`` is the XML-RPC proxy; login, connections and repetition
are ours, so it is handed a transport that takes each request to our own.
"""

from __future__ import annotations

import xmlrpc.client
from collections.abc import Sequence
from typing import Any
from xml.parsers import expat

import XenAPI

from xenapi_driver.xapi import errors, wire

_PATH = "/"
_CONTENT_TYPE = "text/xml"

# The proxy wants one; where the request goes is its transport's matter.
_NOWHERE = "http://xapi/"

# A task's result is the bare <value> element of the answer (13-tasks).
_AS_RESPONSE = "<methodResponse><params><param>{}</param></params></methodResponse>"


class _NotXmlRpc(ValueError):
    """The bytes are no XML-RPC answer."""


class _Values(xmlrpc.client.Unmarshaller):
    """Makes the values that :mod:`wire` describes."""

    dispatch: dict[str, Any] = dict(xmlrpc.client.Unmarshaller.dispatch)

    def _end_int(self, data: str) -> None:
        self.append(str(int(data)))

    def _end_date(self, data: str) -> None:
        self.append(data)

    def _end_nil(self, _data: str) -> None:
        self.append("")

    for _tag in ("i1", "i2", "i4", "i8", "int", "biginteger"):
        dispatch[_tag] = _end_int
    dispatch["dateTime.iso8601"] = _end_date
    dispatch["nil"] = _end_nil


class _Carrier(xmlrpc.client.Transport):
    """Takes a proxy's requests to our transport, each of them once."""

    def __init__(self, carry: wire.Carry) -> None:
        super().__init__()
        self._carry = carry
        self.url = _NOWHERE  # who answered

    def request(
        self, host: Any, handler: str, request_body: Any, verbose: bool = False
    ) -> Any:
        # XML turns a carriage return into a line feed, unless it is written so.
        body = bytes(request_body).replace(b"\r", b"&#13;")
        answer = self._carry(_PATH, _CONTENT_TYPE, body)
        self.url = answer.url
        try:
            return (_value(answer.body.decode("utf-8", "replace")),)
        except _NotXmlRpc as exc:
            raise errors.BadAnswer(answer.url, f"no XML-RPC ({exc})") from exc


class XmlRpc:
    """The dialect; one object serves all threads."""

    name = "XML-RPC"

    def exchange(self, carry: wire.Carry, method: str, params: Sequence[Any]) -> Any:
        """Carry out one call; see :meth:`wire.Dialect.exchange`."""
        carrier = _Carrier(carry)
        proxy = XenAPI.Session(_NOWHERE, transport=carrier)
        arguments = [wire.outgoing(param) for param in params]
        try:
            answer = getattr(proxy, method)(*arguments)
        except xmlrpc.client.Fault as exc:
            # XAPI itself answers its errors otherwise.
            described = f"{exc.faultCode}: {exc.faultString}"
            raise XenAPI.Failure(["INTERNAL_ERROR", described]) from exc
        return _opened(answer, method, carrier.url)


def _opened(answer: Any, method: str, url: str) -> Any:
    """Take a value out of XAPI's envelope."""
    if isinstance(answer, dict) and answer.get("Status") == "Success":
        return answer.get("Value", "")
    if isinstance(answer, dict) and "Status" in answer:
        details = answer.get("ErrorDescription") or ["INTERNAL_ERROR"]
        raise XenAPI.Failure([str(detail) for detail in details])
    if method.startswith("system."):
        return answer  # the only calls without an envelope
    raise errors.BadAnswer(url, "an answer without a Status")


def _value(text: str) -> Any:
    """Return the one value of an XML-RPC answer.

    :raises _NotXmlRpc: it is something else
    :raises xmlrpc.client.Fault: it is a fault
    """
    try:
        values = _parsed(text)
    except xmlrpc.client.Fault:
        raise
    except (expat.ExpatError, xmlrpc.client.Error, ValueError, TypeError) as exc:
        # Old hosts let characters through that XML may not hold.
        if not wire.ILLEGAL.search(text):
            raise _NotXmlRpc(str(exc)) from exc
        return _value(wire.ILLEGAL.sub("", text))
    if len(values) != 1:
        raise _NotXmlRpc(f"{len(values)} values instead of one")
    return values[0]


def _parsed(text: str) -> Sequence[Any]:
    values = _Values()
    parser = xmlrpc.client.ExpatParser(values)
    parser.feed(text)
    parser.close()
    found: Sequence[Any] = values.close()
    return found


def task_result(text: str) -> Any:
    """Return the value that a finished task's ``result`` field stands for.

    The field holds XML in either dialect. An empty one is void: "". Some old
    hosts stored a bare reference instead; it is returned as it is.

    :raises ValueError: the text looks like XML, and is none
    """
    if not text.lstrip().startswith("<value"):
        return text
    return _value(_AS_RESPONSE.format(text))
