# SPDX-License-Identifier: Apache-2.0
"""A host without a connection: the XenAPI package's own Session, in this process.

What it sends is written and read as on a wire, by the same code that answers there;
only the socket is missing.
"""

import http.client
import xmlrpc.client  # noqa: S411 (the peer is in this process)
from collections.abc import Callable
from typing import Any

import XenAPI

from xenapi_driver.sim.doors.refusals import Refusal, reason
from xenapi_driver.sim.doors.rpc import MAX_BODY
from xenapi_driver.sim.doors.wire import Malformed
from xenapi_driver.sim.failure import ConnectionCut

Handle = Callable[[bytes], bytes]

# Only for messages: nothing is looked up.
URL = "http://in-process/"


class Transport(xmlrpc.client.Transport):
    """Takes a marshalled call to a function, and reads its answer as from a socket."""

    def __init__(self, handle: Handle) -> None:
        super().__init__()
        self._handle = handle

    def single_request(
        self, host: Any, handler: str, request_body: Any, verbose: bool = False
    ) -> Any:
        """Return the answer; :meth:`request` asks twice when a connection broke.

        :raises xmlrpc.client.ProtocolError: the host's web page, not an answer
        :raises http.client.RemoteDisconnected: the host is dead, or a rule cut the
            connection
        """
        body = bytes(request_body)
        try:
            if len(body) > MAX_BODY:
                raise Refusal(500, "Http.Client_requested_size_over_limit")
            answer = self._handle(body)
        except Malformed as error:
            raise _protocol_error(host + handler, Refusal(500, str(error))) from error
        except Refusal as refusal:
            raise _protocol_error(host + handler, refusal) from refusal
        except ConnectionCut as error:
            raise http.client.RemoteDisconnected(str(error)) from error
        parser, unmarshaller = self.getparser()
        parser.feed(answer)
        parser.close()
        return unmarshaller.close()


def _protocol_error(url: str, refusal: Refusal) -> xmlrpc.client.ProtocolError:
    words = reason(refusal.status)
    headers = dict(refusal.head())
    return xmlrpc.client.ProtocolError(url, refusal.status, words, headers)


def open_session(handle: Handle) -> XenAPI.Session:
    """Return a session that asks ``handle``; it is not logged in.

    :param handle: answers the body of an XML-RPC request
    """
    return XenAPI.Session(URL, transport=Transport(handle))
