# SPDX-License-Identifier: Apache-2.0
"""Read an image from the image service, and count and hash what comes.

Only http and https, also behind redirects; certificates are verified; proxies and
other settings of an environment play no part.
"""
import hashlib
import http.client
import io
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request

from xenapi_dom0 import arguments, failures
from xenapi_dom0.serve import LOG

TIMEOUT = 90  # seconds without a byte
MAX_REDIRECTS = 5
CHUNK = 1024 * 1024


def open_image(image_id, url, headers, verify, checksum):
    """Return the image's data as a Source that has not been read yet.

    :param verify: arguments.Verify
    :param checksum: arguments.Checksum, or None: then what the service says counts
    :raises Failure: IMAGE_NOT_FOUND, IMAGE_TRANSFER_FAILED
    """
    request = urllib.request.Request(url, headers=headers)
    request.add_header("Accept-Encoding", "identity")
    LOG.info("Downloading image %s from %s", image_id, origin(url))
    try:
        response = _opener(verify).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as exc:
        exc.close()
        said = "%d %s" % (exc.code, exc.reason)
        if exc.code in (404, 410):
            raise failures.Failure(
                failures.IMAGE_NOT_FOUND, image_id, said
            ) from exc
        raise _transfer_failed(url, said) from exc
    except urllib.error.URLError as exc:
        raise _transfer_failed(url, exc.reason) from exc
    # Python 3.6 lets a wrong host name out as a CertificateError, a ValueError.
    except (OSError, http.client.HTTPException, ssl.CertificateError) as exc:
        raise _transfer_failed(url, exc) from exc
    if response.status != 200:
        response.close()
        # 204: the image has no data yet.
        raise failures.Failure(
            failures.IMAGE_NOT_FOUND, image_id, "no data: status %d" % response.status
        )
    return Source(response, origin(url), checksum or _told_checksum(response))


def origin(url):
    """Return scheme, host and port of a URL: what a log may show of it."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    if ":" in host:
        host = "[%s]" % host
    return "%s://%s:%s" % (parts.scheme, host, port)


def _transfer_failed(url, reason):
    return failures.Failure(
        failures.IMAGE_TRANSFER_FAILED, "%s: %s" % (origin(url), reason)
    )


def _told_checksum(response):
    """Return the MD5 that the answer's headers carry, None where there is none.

    Object stores send other things as ETag: only 32 hexadecimal digits count.
    """
    for name in ("Etag", "Content-MD5", "X-Image-Meta-Checksum"):
        value = (response.headers.get(name) or "").strip('"').lower()
        if re.match(r"[0-9a-f]{32}\Z", value):
            return arguments.Checksum("md5", value)
    return None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow few redirects, to web servers only, and keep the token at home."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not arguments.is_web_url(newurl):
            raise urllib.error.URLError("redirected to what is no http or https URL")
        if req.type == "https" and not newurl.startswith("https:"):
            raise urllib.error.URLError("redirected from https to http")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and origin(newurl) != origin(req.full_url):
            request.headers = {"Accept-encoding": "identity"}
            request.unredirected_hdrs = {}
        return request


def _opener(verify):
    """Return an opener that knows http and https and nothing else."""
    if verify.insecure:
        LOG.warning("The image service's certificate is not verified.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        try:
            context = ssl.create_default_context(cafile=verify.ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise failures.Failure(
                failures.BAD_ARGUMENT, "verify", "the ca_file holds no certificates"
            ) from exc
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


class Source(io.RawIOBase):
    """The body of an answer; counts and hashes every byte that is read.

    Reading raises Failure IMAGE_TRANSFER_FAILED where the connection breaks or ends
    before the announced length.
    """

    def __init__(self, response, server, checksum):
        super().__init__()
        self._response = response
        self._server = server
        self._checksum = checksum
        self._digest = hashlib.new(checksum.algorithm) if checksum else None
        # Known before the first byte is read; the attribute counts down.
        self._announced = response.length
        self._complete = bool(response.chunked or response.length is not None)
        self.received = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        try:
            count = self._response.readinto(buffer)
        except (OSError, http.client.HTTPException) as exc:
            raise self._failed("connection broken: %s" % exc) from exc
        if not count:
            if self._announced is not None and self.received != self._announced:
                raise self._failed(
                    "ended after %d of %d bytes" % (self.received, self._announced)
                )
            return 0
        self.received += count
        if self._digest is not None:
            self._digest.update(memoryview(buffer)[:count])
        return count

    def close(self):
        self._response.close()
        super().close()

    def _failed(self, reason):
        return failures.Failure(
            failures.IMAGE_TRANSFER_FAILED, "%s: %s" % (self._server, reason)
        )

    def finish(self):
        """Read what is left and compare the checksum, where there is one.

        :raises Failure: CHECKSUM_MISMATCH, IMAGE_TRANSFER_FAILED
        """
        while self.read(CHUNK):
            continue
        if self._digest is None:
            LOG.warning("No checksum is known for this image; none was compared.")
            return
        found = self._digest.hexdigest()
        if found != self._checksum.value:
            raise failures.Failure(
                failures.CHECKSUM_MISMATCH, self._checksum.algorithm,
                self._checksum.value, found,
            )

    def explain(self, corrupt):
        """Return the failure to report when the data turned out ``corrupt``.

        Data that was damaged on the way can be had again: where the checksum or the
        form of the transfer shows that, the retryable failure is the true one.
        """
        if self._digest is not None:
            try:
                self.finish()
            except failures.Failure as exc:
                return exc
        elif not self._complete:
            return self._failed("of unknown length and damaged: " + corrupt.params[0])
        return corrupt
