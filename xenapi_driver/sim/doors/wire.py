# SPDX-License-Identifier: Apache-2.0
"""XML-RPC and JSON-RPC as a XAPI host reads and writes them.

What differs from the usual: ints travel as text without a tag in XML-RPC, strings
have no tag either, and dates carry colons and a Z ("XAPI today", section 1.2).
"""

import json
import re
import xmlrpc.client  # noqa: S411 (the peer is a test or demo on this machine)
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape  # noqa: S406 (escape only writes)

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
# What cannot be put between tags as it is: looked for first, as it is seldom there.
_SPECIAL = re.compile("[\x00-\x08\x0b-\x1f&<>]")


class Timestamp(str):
    """A date as text, such as ``20260821T02:00:23Z``."""

    __slots__ = ()


class WireInt(int):
    """An int that goes out as <i4>: only event.from's valid_ref_counts do."""


class Malformed(Exception):
    """A body that is no request at all: HTTP 500, not an API failure."""


def decode_xml(body: bytes) -> tuple[str, list[Any]]:
    """Return method and parameters of a methodCall.

    :raises Malformed: no XML-RPC request
    """
    try:
        params, method = xmlrpc.client.loads(body)
        arguments = [_plain(value) for value in params]
    except RecursionError as exc:
        raise Malformed("Stack overflow") from exc
    except (ExpatError, xmlrpc.client.Error, ValueError, TypeError, KeyError) as exc:
        raise Malformed(f"Xmlm.Error: {exc}") from exc
    except IndexError as exc:
        raise Malformed("Xmlm.Error: value without an end") from exc
    if method is None:
        raise Malformed("Xmlm.Error: expected a method name")
    return method, arguments


def _plain(value: Any) -> Any:
    """Turn what xmlrpc.client makes of dates and bytes into what XAPI sees."""
    if isinstance(value, xmlrpc.client.DateTime):
        return Timestamp(str(value))
    if isinstance(value, xmlrpc.client.Binary):
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def value_xml(value: Any) -> str:
    """Return a value as an XML-RPC <value> element."""
    parts: list[str] = []
    _write(value, parts.append)
    return "".join(parts)


def _write(value: Any, put: Callable[[str], None]) -> None:
    """Put the pieces of a <value> element."""
    kind = type(value)
    if kind is str:
        put(_text_xml(value))
    elif kind is dict:
        put("<value><struct>")
        for key, item in value.items():
            put(_member_xml(key))
            _write(item, put)
            put("</member>")
        put("</struct></value>")
    elif kind is list or kind is tuple:
        put("<value><array><data>")
        for item in value:
            _write(item, put)
        put("</data></array></value>")
    elif kind is int:
        put(f"<value>{value}</value>")
    else:
        put(_rare_xml(value))


def _text_xml(text: str) -> str:
    if _SPECIAL.search(text):
        text = escape(_CONTROL.sub("", text), {"\r": "&#13;"})
    return f"<value>{text}</value>"


@lru_cache(maxsize=8192)
def _member_xml(key: Any) -> str:
    """Return the beginning of a struct's member; field names come again and again."""
    return f"<member><name>{escape(str(key))}</name>"


def _rare_xml(value: Any) -> str:
    """Return the element of what is seldom met, or a kind of something frequent."""
    if isinstance(value, bool):
        return f"<value><boolean>{int(value)}</boolean></value>"
    if isinstance(value, Timestamp):
        return f"<value><dateTime.iso8601>{value}</dateTime.iso8601></value>"
    if isinstance(value, WireInt):
        return f"<value><i4>{int(value)}</i4></value>"
    if isinstance(value, float):
        return f"<value><double>{value:.16g}</double></value>"
    if isinstance(value, (list, tuple)):
        return value_xml(list(value))
    if isinstance(value, dict):
        return value_xml(dict(value))
    if value is None:
        return "<value></value>"
    return _text_xml(str(value))


def encode_xml(answer: Any) -> bytes:
    """Return a methodResponse that carries ``answer``."""
    return (
        '<?xml version="1.0"?><methodResponse><params><param>'
        f"{value_xml(answer)}</param></params></methodResponse>"
    ).encode()


def success(value: Any) -> dict[str, Any]:
    """Return XML-RPC's envelope of a result."""
    return {"Status": "Success", "Value": value}


def failure(description: list[str]) -> dict[str, Any]:
    """Return XML-RPC's envelope of a refusal."""
    return {"Status": "Failure", "ErrorDescription": description}


def decode_json(body: bytes) -> tuple[str, list[Any], Any, bool]:
    """Return method, parameters, id and whether it is version 2.0.

    :raises Malformed: no JSON-RPC request; notifications and batches are none here
    """
    try:
        request = json.loads(body)
        if b"\\u" in body:
            # Half a pair of surrogates is no text, and could not be sent back.
            json.dumps(request, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise Malformed(f"Yojson__Common.Json_error({exc})") from exc
    if not isinstance(request, dict):
        raise _no_call("Invalid request body")
    method, number = request.get("method"), request.get("id")
    if not isinstance(method, str):
        raise _invalid("method")
    version = request.get("jsonrpc")
    if version not in (None, "2.0"):
        raise _invalid("jsonrpc")
    if not isinstance(number, (int, str)) or isinstance(number, bool):
        raise _invalid("id")
    params = request.get("params")
    if version == "2.0" and params is None:
        params = []
    if version == "2.0" and isinstance(params, dict):
        params = [params]
    if not isinstance(params, list):
        raise _invalid("params")
    return method, params, number, version == "2.0"


def _no_call(text: str) -> Malformed:
    return Malformed(f'Jsonrpc.Malformed_method_request("{text}")')


def _invalid(name: str) -> Malformed:
    return _no_call(f"Invalid field '{name}' in request body")


def encode_json(result: Any, error: list[str] | None, number: Any, v2: bool) -> bytes:
    """Return a JSON-RPC answer."""
    answer: dict[str, Any]
    if not v2:
        answer = {"result": None if error else result, "error": error, "id": number}
    elif error is None:
        answer = {"jsonrpc": "2.0", "result": result, "id": number}
    else:
        about = {"code": 1, "message": error[0], "data": error[1:]}
        answer = {"jsonrpc": "2.0", "error": about, "id": number}
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()
