# SPDX-License-Identifier: Apache-2.0
"""Write an image to the image service (Image API v2), never half of one.

The service takes the data for the whole as soon as the last chunk comes: that is sent
only when everything before it was good. Servers are asked in turn, as long as the
image is still waiting for its data.
"""
import collections
import contextlib
import hashlib
import http.client
import json
import select
import ssl
import urllib.error
import urllib.parse
import urllib.request

from xenapi_dom0 import failures, web
from xenapi_dom0.serve import LOG

ALGORITHM = "sha512"  # what the image service computes, too
CHUNK = 128 * 1024
MAX_ANSWER = 1024 * 1024
LAST_WORDS = 5  # seconds for an answer after a broken connection
_PATCH_TYPE = "application/openstack-images-v2.1-json-patch"
# Said again, whichever server is asked: what is wrong is the request or the quota.
_FINAL = frozenset(
    [400, 401, 402, 403, 405, 406, 407, 409, 410, 411, 412, 413, 414, 415, 416, 417,
     422, 423, 424, 426, 501, 505, 510]
)

Sent = collections.namedtuple("Sent", "bytes checksum")


class _Stopped(Exception):
    """The server answered, or hung up, before it had everything."""


def store(place, properties, make_data):
    """Store an image and return what was sent, as a Sent.

    :param place: web.Place; its URLs are the image's own: .../v2/images/<id>
    :param properties: dict of name to value that the image gets
    :param make_data: callable() -> iterator of bytes, the same whenever it is called
    :raises Failure: IMAGE_NOT_FOUND; NOT_PERMITTED, where asking again is no use;
        IMAGE_TRANSFER_FAILED; CHECKSUM_MISMATCH, where other data was stored than
        was sent
    """
    return _Storing(place, properties, make_data).run()


class _Storing:
    """One image on its way.

    :ivar _sent: Sent, once the last chunk is out, whatever became of it
    """

    def __init__(self, place, properties, make_data):
        self._place = place
        self._properties = properties
        self._make_data = make_data
        self._context = web.tls_context(place.verify)
        self._opener = web.opener(self._context, place.schemes)
        self._turns = web.Turns(place.urls, place.attempts)
        self._described = False
        self._sent = None

    def run(self):
        while True:
            try:
                return self._attempt(self._turns.url)
            except failures.Failure as exc:
                if exc.code != failures.IMAGE_TRANSFER_FAILED:
                    raise
                self._turns.failed(exc)

    def _attempt(self, url):
        if not self._described:
            self._describe(url)
            self._described = True
        known = self._look(url)
        status = known.get("status")
        if status == "active" and self._sent is not None and self._is_sent(known):
            LOG.info("The image was stored; only the answer was lost.")
            return self._sent
        if status == "saving":
            # Perhaps no server has noticed yet that another attempt, of this call or
            # of one that was killed, is gone.
            raise web.transfer_failed(url, "the image is still being saved")
        if status != "queued":
            raise self._refused("its status is not queued: %s" % ascii(status)[:40])
        sent = self._put(url)
        self._confirm(url)
        return sent

    def _refused(self, reason):
        return failures.Failure(
            failures.NOT_PERMITTED, "upload of image " + self._place.image_id, reason
        )

    def _failure(self, url, status, reason):
        """Return the Failure that an HTTP status means."""
        said = "%d %s" % (status, reason)
        if status == 404:
            return failures.Failure(
                failures.IMAGE_NOT_FOUND, self._place.image_id, said
            )
        if status in _FINAL:
            return self._refused("%s: %s" % (web.origin(url), said))
        return web.transfer_failed(url, said)

    def _ask(self, url, method, data=None, kind=None):
        """Return the body of an answer to a small request."""
        request = urllib.request.Request(
            url, data=data, headers=self._place.headers, method=method
        )
        if kind:
            request.add_header("Content-Type", kind)
        try:
            answer = self._opener.open(request, timeout=web.TIMEOUT)
            with contextlib.closing(answer):
                return answer.read(MAX_ANSWER)
        except urllib.error.HTTPError as exc:
            exc.close()
            raise self._failure(url, exc.code, exc.reason) from exc
        except urllib.error.URLError as exc:
            raise web.transfer_failed(url, exc.reason) from exc
        except web.ERRORS as exc:
            raise web.transfer_failed(url, exc) from exc

    def _describe(self, url):
        """Set what the image is; a service that minds says so when the data comes."""
        wanted = {"container_format": "ovf", "disk_format": "vhd",
                  "visibility": "private"}
        wanted.update(self._properties)
        changes = [
            {"op": "add", "path": "/" + name, "value": value}
            for name, value in wanted.items()
        ]
        data = json.dumps(changes).encode("ascii")
        try:
            self._ask(url, "PATCH", data, _PATCH_TYPE)
        except failures.Failure as exc:
            if exc.code != failures.NOT_PERMITTED:
                raise
            LOG.warning("The image's properties were not set: %s", exc.params[-1])

    def _look(self, url):
        """Return what the service knows of the image, a dict."""
        try:
            known = json.loads(self._ask(url, "GET").decode("utf-8"))
        except (ValueError, RecursionError):
            known = None
        if not isinstance(known, dict):
            raise web.transfer_failed(url, "what it says of the image is no JSON")
        return known

    def _is_sent(self, known):
        return (
            known.get("size") == self._sent.bytes
            and known.get("os_hash_algo") == ALGORITHM
            and known.get("os_hash_value") == self._sent.checksum
        )

    def _confirm(self, url):
        """Compare what was stored with what was sent, as far as the service tells."""
        try:
            known = self._look(url)
        except failures.Failure as exc:
            LOG.warning("The stored image was not looked at: %s", exc.params[-1])
            return
        found = known.get("os_hash_value")
        told = known.get("status") == "active" and known.get("os_hash_algo")
        if told == ALGORITHM and found != self._sent.checksum:
            raise failures.Failure(
                failures.CHECKSUM_MISMATCH, ALGORITHM, self._sent.checksum, found
            )

    def _put(self, url):
        """Send the data; return a Sent once the service has taken all of it."""
        LOG.info("Uploading image %s to %s", self._place.image_id, web.origin(url))
        connection = self._connection(url)
        try:
            with contextlib.closing(connection):
                answer = self._exchange(connection, url)
                status, reason = answer.status, answer.reason
        except ssl.CertificateError as exc:
            raise web.transfer_failed(url, exc) from exc
        except web.ERRORS as exc:
            raise web.transfer_failed(url, "connection broken: %s" % exc) from exc
        if not 200 <= status < 300:
            raise self._failure(url, status, reason)
        if self._sent is None:
            raise web.transfer_failed(url, "it said %d before the end" % status)
        return self._sent

    def _connection(self, url):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=web.TIMEOUT, context=self._context
            )
        return http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=web.TIMEOUT
        )

    def _exchange(self, connection, url):
        connection.putrequest(
            "PUT", urllib.parse.urlsplit(url).path + "/file", skip_accept_encoding=True
        )
        for name, value in self._place.headers.items():
            if name.lower() != "content-type":
                connection.putheader(name, value)
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        self._sent = None
        try:
            with contextlib.closing(self._make_data()) as data:
                sent = self._send(connection, data)
            # From here on the service may have the whole, whatever we hear of it.
            self._sent = sent
            _write(connection, b"0\r\n\r\n")
        except _Stopped as exc:
            return self._last_words(connection, exc)
        return connection.getresponse()

    def _send(self, connection, data):
        """Send everything but the last chunk; return what it was."""
        digest, count = hashlib.new(ALGORITHM), 0
        for piece in data:
            digest.update(piece)
            count += len(piece)
            for at in range(0, len(piece), CHUNK):
                chunk = piece[at:at + CHUNK]
                # Not on TLS, where a session ticket looks the same.
                if connection.default_port == http.client.HTTP_PORT and select.select(
                    [connection.sock], [], [], 0
                )[0]:
                    raise _Stopped("it answered before the end")
                _write(connection, b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return Sent(count, digest.hexdigest())

    def _last_words(self, connection, stopped):
        """Return the answer of a server that wants no more, if there is one."""
        try:
            connection.sock.settimeout(LAST_WORDS)
            return connection.getresponse()
        except web.ERRORS:
            raise OSError(str(stopped)) from None


def _write(connection, data):
    try:
        connection.send(data)
    except OSError as exc:
        raise _Stopped("connection broken: %s" % exc) from exc
