# SPDX-License-Identifier: Apache-2.0
"""How xapi calls a plugin, and how the plugin answers.

xapi starts the plugin file with one argument: an XML-RPC methodCall whose name is
the function and whose parameters are the session reference and a struct of strings.
Ours holds one string, ``request``: a JSON object. The plugin prints one
methodResponse: a struct of Status and Value (a string: our JSON answer) or Status and
ErrorDescription. Anything else on stdout would break it, so stdout is taken away from
all other code and logs go to syslog.
"""
import contextlib
import json
import logging
import logging.handlers
import os
import signal
import sys
import time
import xmlrpc.client

from xenapi_dom0 import failures, paths

LOG = logging.getLogger("xenapi_dom0")
MAX_TEXT = 2000  # characters of one parameter of a failure


class Stopped(BaseException):
    """SIGTERM came: unwind, so that every ``with`` cleans up what it made."""


def run(functions):
    """Answer the one call that this process was started for, then return.

    :param functions: dict of function name to callable(request: dict) -> JSON data
    """
    plugin = os.path.basename(sys.argv[0])
    _log_to_syslog(plugin)
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
    """Return the function's name and the request, a dict."""
    if len(argv) != 2:
        raise failures.Failure(
            failures.BAD_ARGUMENT, "argv", "xapi gives exactly one argument"
        )
    # Python 3.6 reads arguments as the locale says, and xapi sets none.
    params, name = xmlrpc.client.loads(os.fsencode(argv[1]))
    if len(params) != 2 or not isinstance(params[1], dict):
        raise failures.Failure(
            failures.BAD_ARGUMENT, "params", "not a session and a struct"
        )
    try:
        request = json.loads(params[1].get("request", "{}"))
    except ValueError as exc:
        # The text is left out: a request carries tokens.
        raise failures.Failure(
            failures.BAD_ARGUMENT, "request", "is no JSON"
        ) from exc
    if not isinstance(request, dict):
        raise failures.Failure(
            failures.BAD_ARGUMENT, "request", "is no JSON object"
        )
    return name, request


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


def _log_to_syslog(plugin):
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
