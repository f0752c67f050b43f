# SPDX-License-Identifier: Apache-2.0
"""Read an image from the image service, however many attempts that takes.

One thread reads and hashes; what it reads is taken by the caller's, so that hashing
and unpacking have a core each. After a cut the next server is asked for the rest, and
the unpacking goes on where it was; a server that cannot give the rest sends all of it
again, and the unpacking begins anew.
"""
import contextlib
import hashlib
import queue
import re
import threading
import time
import urllib.error
import urllib.request

from xenapi_dom0 import arguments, failures, web
from xenapi_dom0.serve import LOG

PIECE = 128 * 1024
QUEUED = 32  # pieces read, but not unpacked yet
SLOWEST = 16 * 1024  # bytes in web.TIMEOUT seconds; less is no transfer
# A piece of this size makes good the failures before it. Less would let a server
# that sends byte by byte keep the call for ever.
PROGRESS = 16 * 1024 * 1024
# What a server says no to, it says no to again (RFC 9110, section 15.5).
_PASSING = (408, 425, 429)

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z")
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,256}"\Z')

_END = object()
_ANEW = object()


class _Anew(Exception):
    """What was read so far is void: the next piece is the image's first."""


class _Refused(Exception):
    """A server's answer that it will give again, as the Failure to report."""

    def __init__(self, failure):
        super().__init__(failure)
        self.failure = failure


class _OutOfStep(Exception):
    """The rest that a server sent does not belong to what is there."""


class Image:
    """The bytes of an image, as one stream made of all attempts.

    :param place: web.Place
    :param checksum: arguments.Checksum, or None: then what the service says counts
    :param progress: called with 0.0 to 1.0, in a thread of ours
    """

    def __init__(self, place, checksum, progress):
        self._source = _Source(place, checksum, progress)
        self._thread = threading.Thread(target=self._source.run, daemon=True)
        self._ended = False

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._source.close()
        self._thread.join(0.2)

    def through(self, take):
        """Return what ``take`` makes of the image once all of it is known to be good.

        :param take: callable(iterator of bytes); called again where a server could
            only begin anew, and must not mind
        :raises Failure: IMAGE_NOT_FOUND, IMAGE_TRANSFER_FAILED, CHECKSUM_MISMATCH,
            and those of ``take``
        """
        while True:
            try:
                try:
                    result = take(self._pieces())
                except failures.Failure as exc:
                    self._explain(exc)
                    raise
                self._drain()
                return result
            except _Anew:
                continue

    def _pieces(self):
        while not self._ended:
            piece = self._source.pieces.get()
            if piece is _ANEW:
                raise _Anew
            if piece is _END:
                self._ended = True
            elif isinstance(piece, BaseException):
                self._ended = True
                raise piece
            else:
                yield piece

    def _drain(self):
        for _piece in self._pieces():
            continue

    def _explain(self, exc):
        """Raise the true reason, where damage on the way made an image bad.

        Data that was damaged on the way can be had again.
        """
        if exc.code != failures.IMAGE_CORRUPT:
            return
        if self._source.checksum is not None:
            self._drain()
        elif not self._source.bounded:
            raise web.transfer_failed(
                self._source.url, "of unknown length and damaged: " + exc.params[0]
            ) from exc


class _Source:
    """The reading thread: asks servers in turn and queues what they send.

    :ivar pieces: queue of bytes, _ANEW, and in the end _END or an exception
    :ivar checksum: arguments.Checksum of the whole, None while none is known
    :ivar bounded: whether the last answer tells its end from a cut
    """

    def __init__(self, place, checksum, progress):
        self._place = place
        self._opener = web.opener(web.tls_context(place.verify), place.schemes)
        self._turns = web.Turns(place.urls, place.attempts)
        self._progress = progress
        self._given_checksum = checksum
        self._closed = threading.Event()
        self.pieces = queue.Queue(QUEUED)
        self._forget()

    @property
    def url(self):
        return self._turns.url

    def _forget(self):
        """Set everything to the image's beginning."""
        self.checksum = self._given_checksum
        self.bounded = False
        self._received = 0
        self._digest = None
        self._total = None
        self._etag = None

    def close(self):
        self._closed.set()
        self._turns.end()

    def run(self):
        try:
            while not self._closed.is_set():
                try:
                    self._attempt()
                    self._compare()
                    self._put(_END)
                    return
                except _Refused as exc:
                    self._turns.failed(exc.failure, ask_again=False)
                except failures.Failure as exc:
                    self._turns.failed(exc)
        except Exception as exc:
            # Raised again where the pieces are taken.
            self._put(exc)

    def _put(self, piece):
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self.pieces.put(piece, timeout=0.1)
                return

    def _begin_anew(self):
        if self._received:
            self._put(_ANEW)
        self._forget()

    def _attempt(self):
        """Ask one server for what is missing, and pass on what it sends."""
        url = self.url
        try:
            with contextlib.closing(self._ask(url)) as response:
                self._check(response)
                self._pass_on(response)
        except _OutOfStep as exc:
            self._begin_anew()
            raise web.transfer_failed(url, exc) from exc
        except urllib.error.HTTPError as exc:
            exc.close()
            raise self._refusal(url, exc) from exc
        except urllib.error.URLError as exc:
            failure = web.transfer_failed(url, exc.reason)
            raise _Refused(failure) if web.is_final(exc.reason) else failure from exc
        except web.ERRORS as exc:
            failure = web.transfer_failed(url, exc)
            raise _Refused(failure) if web.is_final(exc) else failure from exc

    def _ask(self, url):
        request = urllib.request.Request(url, headers=self._place.headers)
        request.add_header("Accept-Encoding", "identity")
        if self._received and not self._can_go_on():
            self._begin_anew()
        if self._received:
            request.add_header("Range", "bytes=%d-" % self._received)
            if self._etag:
                request.add_header("If-Range", self._etag)
        LOG.info(
            "Downloading image %s from %s, from byte %d",
            self._place.image_id, web.origin(url), self._received,
        )
        return self._opener.open(request, timeout=web.TIMEOUT)

    def _can_go_on(self):
        """Say whether something would tell pieces of different data from the whole."""
        return self.checksum is not None or self._etag is not None

    def _refusal(self, url, exc):
        """Return what a status of 300 and more means."""
        said = "%d %s" % (exc.code, exc.reason)
        if exc.code == 416 and self._received:
            self._begin_anew()
            return web.transfer_failed(url, said)
        if exc.code in (404, 410):
            return _Refused(self._not_found(said))
        failure = web.transfer_failed(url, said)
        if 300 <= exc.code < 500 and exc.code not in _PASSING:
            return _Refused(failure)
        return failure

    def _not_found(self, said):
        return failures.Failure(
            failures.IMAGE_NOT_FOUND, self._place.image_id, said
        )

    def _check(self, response):
        """Learn from the headers what comes now, and whether it fits."""
        if response.status == 206 and self._received:
            self._check_rest(response)
        elif response.status == 200:
            self._begin_anew()
            self._total = response.length
            etag = response.headers.get("Etag") or ""
            self._etag = etag if _STRONG_ETAG.match(etag) else None
            self.checksum = self._given_checksum or _told_checksum(response)
            if self.checksum is not None:
                self._digest = hashlib.new(self.checksum.algorithm)
        else:
            # 204: the image has no data yet.
            raise _Refused(self._not_found("no data: status %d" % response.status))
        self.bounded = response.chunked or self._total is not None

    def _check_rest(self, response):
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range") or "")
        if match is None:
            raise _OutOfStep("the rest came without a range")
        first, last = int(match.group(1)), int(match.group(2))
        total = last + 1 if match.group(3) == "*" else int(match.group(3))
        if first != self._received or last != total - 1:
            raise _OutOfStep("another range came than was asked for")
        if self._total not in (None, total):
            raise _OutOfStep("the image has another length here")
        if response.length not in (None, total - first):
            raise _OutOfStep("the length of the rest is not that of its range")
        etag = response.headers.get("Etag")
        if self._etag and etag and etag != self._etag:
            raise _OutOfStep("the image is another one here")
        self._total = total

    def _pass_on(self, response):
        """Queue what comes, up to the end of the image."""
        began = self._received
        while self._total is None or self._received < self._total:
            piece, failure = self._read(response)
            self._received += len(piece)
            if self._digest is not None:
                self._digest.update(piece)
            if piece:
                self._put(piece)
            if failure is not None:
                raise failure
            if not piece or self._closed.is_set():
                break
            if self._total:
                self._progress(self._received / self._total)
            if self._received - began >= PROGRESS:
                self._turns.progressed()
                began = self._received
        if self._total is not None and self._received != self._total:
            raise web.transfer_failed(
                self.url, "ended after %d of %d bytes" % (self._received, self._total)
            )

    def _read(self, response):
        """Return the next piece, empty only at the end, and None or what broke it."""
        buffer = bytearray(PIECE)
        filled, failure, room = 0, None, PIECE
        if self._total is not None:
            room = min(room, self._total - self._received)
        pace = _Pace()
        with memoryview(buffer) as view:
            while filled < room:
                try:
                    count = _read_some(response, view[filled:room])
                    pace.check(count)
                except web.ERRORS as exc:
                    failure = web.transfer_failed(
                        self.url, "connection broken: %s" % exc
                    )
                    break
                if not count:
                    break
                filled += count
        del buffer[filled:]
        return buffer, failure

    def _compare(self):
        """Compare the checksum of the whole; where it is wrong, nothing is kept."""
        if self._digest is None:
            LOG.warning("No checksum is known for this image; none was compared.")
            return
        wanted, found = self.checksum, self._digest.hexdigest()
        if found != wanted.value:
            self._begin_anew()
            raise failures.Failure(
                failures.CHECKSUM_MISMATCH, wanted.algorithm, wanted.value, found
            )


class _Pace:
    """Break off what comes byte by byte: it would keep the call for ever."""

    def __init__(self):
        self._begin()

    def _begin(self):
        self._began = time.monotonic()
        self._bytes = 0

    def check(self, count):
        """Count bytes that came; raise OSError where they were too few for long."""
        self._bytes += count
        if time.monotonic() - self._began > web.TIMEOUT:
            if self._bytes < SLOWEST:
                raise OSError("only %d bytes in %d s" % (self._bytes, web.TIMEOUT))
            self._begin()


def _read_some(response, view):
    """Read what is there, or wait for something; return the number of bytes."""
    if response.chunked:
        data = response.read1(len(view))
        view[:len(data)] = data
        return len(data)
    # Not through the response: it would wait until all of the view is filled.
    return response.fp.readinto1(view)


def _told_checksum(response):
    """Return the MD5 that the answer's headers carry, None where there is none.

    Object stores send other things as ETag: only 32 hexadecimal digits count.
    """
    for name in ("Etag", "Content-MD5", "X-Image-Meta-Checksum"):
        value = (response.headers.get(name) or "").strip('"').lower()
        if re.match(r"[0-9a-f]{32}\Z", value):
            return arguments.Checksum("md5", value)
    return None
