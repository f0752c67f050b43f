# SPDX-License-Identifier: Apache-2.0
"""XAPI's form of XML-RPC: what a call and its answer look like in bytes.

XAPI sends and takes its 64-bit int as decimal text, so a Python int goes out as
a string, and one that comes in stays a string: the record classes convert.
"""

from __future__ import annotations

import re
import xmlrpc.client
from collections.abc import Mapping, Sequence
from typing import Any
from xml.parsers import expat

# Characters that no XML 1.0 document may hold (XML 1.0, section 2.2, "Char").
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# A task's result is the bare <value> element of the answer (13-tasks).
_AS_RESPONSE = "<methodResponse><params><param>{}</param></params></methodResponse>"


class NotXmlRpc(ValueError):
    """The bytes are no XML-RPC answer."""


class Fault(Exception):
    """The host answered with an XML-RPC fault, which XAPI does not do for errors."""


def outgoing(value: Any) -> Any:
    """Return ``value`` with every int as decimal text, as XAPI wants it.

    :raises TypeError: for None and for anything that XAPI has no type for
    :raises ValueError: for text with characters that XML cannot carry
    """
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if _ILLEGAL.search(value):
            raise ValueError("XAPI cannot take text with control characters in it.")
        return value
    if isinstance(value, Mapping):
        return {str(key): outgoing(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [outgoing(item) for item in value]
    raise TypeError(f"XAPI has no type for {type(value).__name__}.")


def call(method: str, args: Sequence[Any]) -> bytes:
    """Return the XML-RPC request for ``method`` with positional ``args``."""
    params = tuple(outgoing(arg) for arg in args)
    return xmlrpc.client.dumps(params, method).encode("utf-8")


def answer(body: bytes | str) -> Any:
    """Return the one value of an XML-RPC answer, its Status struct included.

    :raises NotXmlRpc: the body is something else
    :raises Fault: it is an XML-RPC fault
    """
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    try:
        values, _method = xmlrpc.client.loads(text)
    except xmlrpc.client.Fault as exc:
        raise Fault(f"{exc.faultCode}: {exc.faultString}") from exc
    except (expat.ExpatError, xmlrpc.client.Error, ValueError, TypeError) as exc:
        raise NotXmlRpc(str(exc)) from exc
    if len(values) != 1:
        raise NotXmlRpc(f"{len(values)} values instead of one")
    return values[0]


def task_result(text: str) -> Any:
    """Return the value that a finished task's ``result`` field stands for.

    An empty field is void: the empty string. Some old hosts stored a bare
    reference instead of an XML element; it is returned as it is.
    """
    if not text.lstrip().startswith("<value"):
        return text
    return answer(_AS_RESPONSE.format(text))
