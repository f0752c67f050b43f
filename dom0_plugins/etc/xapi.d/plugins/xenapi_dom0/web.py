# SPDX-License-Identifier: Apache-2.0
"""How the image service is reached, by what reads from it and what writes to it.

Only the schemes that the caller allows, also behind redirects; certificates are
verified; proxies and other settings of an environment play no part.
"""
import collections
import http.client
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request

from xenapi_dom0 import arguments, failures
from xenapi_dom0.serve import LOG

TIMEOUT = 90  # seconds without a byte
MAX_REDIRECTS = 5
FIRST_PAUSE = 0.5  # seconds
LONGEST_PAUSE = 15.0
ERRORS = (OSError, http.client.HTTPException, ssl.CertificateError)

# urls: where the image is, on one server each; attempts: failures in a row allowed
Place = collections.namedtuple("Place", "image_id urls headers verify attempts schemes")


def origin(url):
    """Return scheme, host and port of a URL: what a log may show of it."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    if ":" in host:
        host = "[%s]" % host
    return "%s://%s:%s" % (parts.scheme, host, port)


def transfer_failed(url, reason):
    """Return the Failure of a transfer that another attempt may bring."""
    return failures.Failure(
        failures.IMAGE_TRANSFER_FAILED, "%s: %s" % (origin(url), reason)
    )


def is_final(reason):
    """Say whether a connection failed for what another try will not change.

    :param reason: exception, or text of a redirect that was not followed
    """
    # Python 3.6 lets a wrong host name out as a CertificateError, a ValueError.
    return (
        isinstance(reason, (str, ssl.CertificateError))
        or getattr(reason, "reason", None) == "CERTIFICATE_VERIFY_FAILED"
    )


def tls_context(verify):
    """Return the TLS settings of a connection.

    :param verify: arguments.Verify
    :raises Failure: BAD_ARGUMENT
    """
    if verify.insecure:
        LOG.warning("The server's certificate is not verified.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=verify.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise failures.Failure(
            failures.BAD_ARGUMENT, "verify", "the ca_file holds no certificates"
        ) from exc


def opener(context, schemes):
    """Return an opener that knows http and https and nothing else."""
    found = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(schemes),
    ):
        found.add_handler(handler)
    return found


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow few redirects, to web servers only, and keep the token at home."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def __init__(self, schemes):
        self._schemes = schemes

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not arguments.is_web_url(newurl):
            raise urllib.error.URLError("redirected to what is no http or https URL")
        scheme = urllib.parse.urlsplit(newurl).scheme
        if req.type == "https" and scheme != "https":
            raise urllib.error.URLError("redirected from https to http")
        if scheme not in self._schemes:
            raise urllib.error.URLError("redirected to %s, not allowed here" % scheme)
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and origin(newurl) != origin(req.full_url):
            kept = ("Accept-encoding", "Range", "If-range")
            request.headers = {
                name: value for name, value in req.headers.items() if name in kept
            }
            request.unredirected_hdrs = {}
        if request is not None:
            # The library would read the redirect's own page, however long, to memory.
            fp.close()
        return request


class Turns:
    """Whose turn it is: after a failure the next server's, until too many failed.

    :ivar url: of the server to ask now
    """

    def __init__(self, urls, attempts):
        self._urls = collections.deque(urls)
        self._attempts = attempts
        self._over = threading.Event()
        self.progressed()

    @property
    def url(self):
        return self._urls[0]

    def progressed(self):
        """Count from the beginning: what failed before has been made good."""
        self._left = self._attempts
        self._pause = FIRST_PAUSE

    def failed(self, failure, ask_again=True):
        """Go on to the next server, after a pause.

        :param ask_again: False where this server would only say the same again
        :raises Failure: ``failure``, where no server or no attempt is left
        """
        self._left -= 1
        if ask_again:
            self._urls.rotate(-1)
        else:
            self._urls.popleft()
        if not self._urls or self._left <= 0 or self._over.is_set():
            raise failure
        LOG.warning("%s Going on at %s.", failure.params[-1], origin(self.url))
        self._over.wait(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def end(self):
        """Wake who waits in :meth:`failed`: nobody wants the image any more."""
        self._over.set()
