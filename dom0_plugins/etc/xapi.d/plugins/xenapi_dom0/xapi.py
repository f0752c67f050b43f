# SPDX-License-Identifier: Apache-2.0
"""Ask this host's XAPI, over the socket that only root can open.

A plugin works with its caller's session: it may do what the caller may, and no login
is left behind. A hook has no caller; it logs in as root, which the socket allows
without a password, and out again.
"""
import contextlib
import http.client
import os
import socket
import xml.parsers.expat
import xmlrpc.client

from xenapi_dom0 import failures, paths

SOCKET = "/var/lib/xcp/xapi"
TIMEOUT = 120  # seconds; a plug or unplug waits for the storage manager
ORIGINATOR = "xenapi-driver-dom0"
# All that a call of xmlrpc.client ends with where no XAPI answers; of ValueError are a
# certificate for another host (Python 3.6) and texts that are not what they say.
ERRORS = (
    OSError, http.client.HTTPException, xmlrpc.client.Error, LookupError, TypeError,
    ValueError, xml.parsers.expat.ExpatError,
)


class Refused(failures.Failure):
    """XAPI said no.

    :ivar method: what was asked; no argument, for those can be secrets
    :ivar error: its ErrorDescription, a list of text, the code first
    """

    def __init__(self, method, error):
        super().__init__(failures.XAPI_REFUSED, method, *error)
        self.method = method
        self.error = error


class Session:
    """The caller's session, or one of our own."""

    def __init__(self, reference, timeout=TIMEOUT):
        self._reference = reference
        self._proxy = _proxy(timeout)

    def call(self, method, *args):
        """Call ``method``, such as ``VBD.plug``, and return its value.

        :raises Refused: with XAPI's code
        :raises Failure: COMMAND_FAILED, where XAPI does not answer
        """
        return ask(self._proxy, "XAPI", method, (self._reference,) + args)


@contextlib.contextmanager
def local_login(timeout=TIMEOUT):
    """Give a Session of root for the length of a ``with``."""
    proxy = _proxy(timeout)
    reference = ask(
        proxy, "XAPI", "session.login_with_password", ("root", "", "1.0", ORIGINATOR)
    )
    try:
        yield Session(reference, timeout)
    finally:
        # The host ends a session that nobody uses; ours does its best.
        with contextlib.suppress(failures.Failure):
            ask(proxy, "XAPI", "session.logout", (reference,))


def ask(proxy, asked, method, args):
    """Return the value that a XAPI answers, whoever it is.

    :param proxy: xmlrpc.client.ServerProxy
    :param asked: what a failure calls it, such as ``XAPI``
    :raises Refused: with its code
    :raises Failure: COMMAND_FAILED, where it does not answer as a XAPI does
    """
    try:
        answer = getattr(proxy, method)(*args)
    except ERRORS as exc:
        # Not an Error's own text, which can hold the request.
        reason = exc.strerror if isinstance(exc, OSError) else None
        raise failures.Failure(
            failures.COMMAND_FAILED, "ask %s for %s" % (asked, method),
            reason or type(exc).__name__,
        ) from None
    if not isinstance(answer, dict):
        answer = {}
    if answer.get("Status") == "Success":
        return answer.get("Value")
    error = answer.get("ErrorDescription")
    if not isinstance(error, list) or not error:
        raise failures.Failure(
            failures.COMMAND_FAILED, "ask %s for %s" % (asked, method),
            "what it answered is neither a value nor a refusal",
        )
    raise Refused(method, [str(item) for item in error])


class _Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        # Resolved, because an address may not be longer than 107 bytes.
        self.sock.connect(os.path.realpath(paths.host_path(SOCKET)))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, timeout):
        super().__init__()
        self._timeout = timeout

    def make_connection(self, host):
        self._connection = host, _Connection(host, timeout=self._timeout)
        return self._connection[1]

    def request(self, host, handler, request_body, verbose=False):
        # The library's own asks a second time where the connection is cut, and makes
        # two of what was done already. A connection that was left open would be cut
        # whenever XAPI has waited long enough: each question has its own.
        try:
            return self.single_request(host, handler, request_body, verbose)
        finally:
            self.close()


def _proxy(timeout):
    return xmlrpc.client.ServerProxy(
        "http://localhost/RPC2", transport=_Transport(timeout), allow_none=True
    )
