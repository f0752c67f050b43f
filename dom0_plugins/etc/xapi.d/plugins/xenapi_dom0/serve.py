# SPDX-License-Identifier: Apache-2.0
"""How xapi calls a plugin, and how the plugin answers.

xapi starts the plugin file with one argument: an XML-RPC methodCall whose name is
the function and whose parameters are the session reference and a struct of strings.
Ours holds ``request``, a JSON object as text; or ``packed``, the same compressed by
zlib and in base64, because one argument of a process ends at 128 KiB; and, where the
caller wants to see progress, ``call``, the label of its task. The plugin prints one
methodResponse: a struct of Status and Value (a string: our JSON answer) or Status and
ErrorDescription. Anything else on stdout would break it, so stdout is taken away from
all other code and logs go to syslog.
"""
import base64
import binascii
import contextlib
import json
import logging
import logging.handlers
import math
import os
import re
import signal
import sys
import time
import xml.parsers.expat
import xmlrpc.client
import zlib

from xenapi_dom0 import failures, paths

LOG = logging.getLogger("xenapi_dom0")
MAX_TEXT = 2000  # characters of one parameter of a failure
MAX_REQUEST = 8 * 1024 * 1024  # bytes of JSON, unpacked
_LABEL = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


class Request(dict):
    """The arguments of a call: the members of its JSON object.

    :ivar session: reference of the caller's session with XAPI, a secret
    :ivar call: label of the caller's task, or ""
    """

    def __init__(self, members, session="", call=""):
        super().__init__(members)
        self.session = session
        self.call = call


class Stopped(BaseException):
    """SIGTERM came: unwind, so that every ``with`` cleans up what it made."""


def run(functions):
    """Answer the one call that this process was started for, then return.

    :param functions: dict of function name to callable(Request) -> JSON data
    """
    plugin = os.path.basename(sys.argv[0])
    log_to_syslog(plugin)
    answer_fd = _take_stdout()
    signal.signal(signal.SIGTERM, _stop)
    try:
        answer = _answer(functions, plugin)
    except Stopped:
        # End as the signal would have ended us: xapi tells the caller of it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    document = xmlrpc.client.dumps((answer,), methodresponse=True)
    with os.fdopen(answer_fd, "wb") as out:
        out.write(document.encode("utf-8"))


def _answer(functions, plugin):
    """Carry out the call; every error becomes a Failure answer."""
    began = time.monotonic()
    name = "?"
    try:
        name, request = _parse(sys.argv)
        if name not in functions:
            raise failures.Failure(failures.UNKNOWN_FUNCTION, name)
        value = json.dumps(functions[name](request))
    except failures.Failure as exc:
        LOG.warning("%s.%s refused: %s %s", plugin, name, exc.code, exc.params)
        return _failure([exc.code] + exc.params)
    except OSError as exc:
        # Of this host, such as a disk that gives errors: no defect of ours.
        LOG.exception("%s.%s failed", plugin, name)
        failure = failures.from_os_error(
            exc, "%s.%s" % (plugin, name), exc.filename or "of this host"
        )
        return _failure([failure.code] + failure.params)
    except Exception as exc:
        # The top of the process: a defect of ours. It is told as the host's own
        # plugin library tells one, so that the caller knows it from a refusal.
        LOG.exception("%s.%s failed", plugin, name)
        return _failure(
            ["XENAPI_PLUGIN_FAILURE", name, type(exc).__name__, str(exc)]
        )
    LOG.info("%s.%s took %.1f s", plugin, name, time.monotonic() - began)
    return {"Status": "Success", "Value": value}


def _failure(description):
    """Return a Failure answer; texts of others must not break its XML."""
    plain = [
        "".join(char if char.isprintable() else "?" for char in text[:MAX_TEXT])
        for text in description
    ]
    return {"Status": "Failure", "ErrorDescription": plain}


def _parse(argv):
    """Return the function's name and its Request."""
    if len(argv) != 2:
        raise _bad("argv", "xapi gives exactly one argument")
    try:
        # Python 3.6 reads arguments as the locale says, and xapi sets none.
        params, name = xmlrpc.client.loads(os.fsencode(argv[1]))
    except (
        xml.parsers.expat.ExpatError, xmlrpc.client.Error, LookupError, TypeError,
        ValueError,
    ) as exc:
        raise _bad("argv", "is no methodCall") from exc
    if len(params) != 2 or not isinstance(params[1], dict) or not name:
        raise _bad("params", "not a session and a struct")
    session, struct = params
    for key, value in struct.items():
        if key not in ("request", "packed", "call") or not isinstance(value, str):
            raise _bad("params", "holds other than request or packed, and call")
    label = struct.get("call", "")
    if label and _LABEL.match(label) is None:
        raise _bad("call", "is no label of a task")
    return name, Request(_members(struct), str(session), label)


def _members(struct):
    """Return the JSON object of a call, a dict.

    What is wrong is told without the text itself: a request carries tokens.
    """
    text = struct.get("request", "{}")
    if "packed" in struct:
        if "request" in struct:
            raise _bad("packed", "comes together with request")
        text = _unpacked(struct["packed"])
    try:
        members = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError):
        raise _bad("request", "is no JSON") from None
    if not isinstance(members, dict):
        raise _bad("request", "is no JSON object")
    return members


def _unpacked(text):
    unpacking = zlib.decompressobj()
    try:
        packed = base64.b64decode(text.encode("ascii"), validate=True)
        data = unpacking.decompress(packed, MAX_REQUEST + 1)
    except (UnicodeError, binascii.Error, zlib.error):
        raise _bad("packed", "is not base64 of what zlib packed") from None
    if len(data) > MAX_REQUEST:
        raise _bad("packed", "is more than %d bytes" % MAX_REQUEST)
    if not unpacking.eof:
        raise _bad("packed", "is cut off")
    try:
        return data.decode("utf-8")
    except UnicodeError:
        raise _bad("packed", "is no UTF-8") from None


def _no_number(text):
    # JSON has neither NaN nor Infinity; Python reads them.
    raise ValueError(text)


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        # It would be written as Infinity, which is no JSON.
        raise ValueError(text)
    return value


def _bad(name, reason):
    return failures.Failure(failures.BAD_ARGUMENT, name, reason)


def _take_stdout():
    """Return a descriptor of stdout that only the answer uses.

    What else is printed, by us or by a child, goes where stderr goes.
    """
    answer_fd = os.dup(1)
    os.set_inheritable(answer_fd, False)
    os.dup2(2, 1)
    return answer_fd


def _stop(signum, frame):
    # A second SIGTERM must not break off the cleaning that the first began.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def log_to_syslog(plugin):
    """Send our log to the host's syslog; without one, nowhere."""
    # A syslog that restarts meanwhile is no reason to print a traceback.
    logging.raiseExceptions = False
    handler = logging.NullHandler()
    address = paths.host_path("/dev/log")
    if os.path.exists(address):
        # Python 3.6 connects here, later ones with the first message.
        with contextlib.suppress(OSError):
            handler = logging.handlers.SysLogHandler(address=address)
    handler.setFormatter(
        logging.Formatter("xapi-plugin-" + plugin + "[%(process)d]: %(message)s")
    )
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
