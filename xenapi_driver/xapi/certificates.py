# SPDX-License-Identifier: Apache-2.0
"""Whom we take for the host: its TLS certificate, by CA or by fingerprint.

A fresh host's certificate is self-signed and seldom names the address that it is
reached at, so fingerprints are the usual way; several of them let a certificate
be changed without an interruption.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import socket
import ssl
from collections.abc import Callable

from xenapi_driver.xapi import errors

# OpenSSL's verification errors (include/openssl/x509_vfy.h) that have a remedy
# of their own; to trust the fingerprint helps with each of them.
_HAS_EXPIRED = 10
_HOSTNAME_MISMATCH = 62
_IP_ADDRESS_MISMATCH = 64
_WRONG_NAME = (
    "name the host in [xenserver] connection_url as its certificate does (the "
    "reason says how we asked)"
)
_REMEDIES = {
    _HAS_EXPIRED: "give the host a new certificate",
    _HOSTNAME_MISMATCH: _WRONG_NAME,
    _IP_ADDRESS_MISMATCH: _WRONG_NAME,
}


@dataclasses.dataclass(frozen=True)
class Verify:
    """How the host's certificate is judged.

    Fingerprints, when there are any, decide alone: neither issuer, name nor
    dates of a certificate with one of them matter. Otherwise the CA file
    decides, and without one the system's CAs.

    :ivar fingerprints: SHA-256, hex, colons and case do not matter
    :ivar insecure: take any certificate
    """

    ca_file: str | None = None
    fingerprints: tuple[str, ...] = ()
    insecure: bool = False

    def context(self) -> ssl.SSLContext:
        """Return the TLS settings that go with this; they are shared.

        :raises OSError: the CA file cannot be read, or holds no certificate
        """
        if self.insecure or self.fingerprints:
            # With a pin, the certificate is compared before the first byte of
            # ours is sent (secured).
            return _unverified()
        changed = os.stat(self.ca_file).st_mtime_ns if self.ca_file else 0
        return _verified(self.ca_file, changed)

    def pinned(self) -> frozenset[str]:
        """Return the fingerprints in the form of :func:`fingerprint_of`."""
        return frozenset(
            _with_colons(text.replace(":", "").strip()) for text in self.fingerprints
        )


# To read the system's CAs takes longer than a handshake: contexts are kept, by
# the time at which the file changed, as it may be replaced while we run.
@functools.lru_cache(maxsize=8)
def _verified(ca_file: str | None, _changed: int) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


@functools.lru_cache(maxsize=1)
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint_of(certificate: bytes) -> str:
    """Return the SHA-256 of a DER certificate: upper-case hex with colons."""
    return _with_colons(hashlib.sha256(certificate).hexdigest())


def _with_colons(digest: str) -> str:
    upper = digest.upper()
    return ":".join(upper[at : at + 2] for at in range(0, len(upper), 2))


def secured(
    verify: Verify, dial: Callable[[], socket.socket], host: str, url: str
) -> ssl.SSLSocket:
    """Connect and return the connection in TLS, its peer verified.

    :param dial: opens a plain connection; a second one is only opened to name a
        certificate that was refused
    :param host: the name or address that the certificate has to be for
    :param url: for messages
    :raises CertificateRefused: the peer is not the one that we trust
    :raises HostUnreachable: no connection
    """
    try:
        context = verify.context()
    except OSError as exc:
        reason = f"the CA file {verify.ca_file} is of no use: {errors.reason(exc)}"
        raise errors.CertificateRefused(url, reason, None) from exc
    plain = dial()
    try:
        sock = context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as exc:
        plain.close()
        raise errors.CertificateRefused(
            url,
            exc.verify_message,
            _fingerprint_shown(dial, host),
            _REMEDIES.get(exc.verify_code, ""),
        ) from exc
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as exc:
        # What begins or ends just now: it says nothing of how it speaks.
        plain.close()
        raise errors.HostUnreachable(url, errors.reason(exc)) from exc
    except ssl.SSLError as exc:
        plain.close()
        reason = f"it does not speak TLS as we do ({errors.reason(exc)})"
        raise errors.CertificateRefused(url, reason, None) from exc
    except TimeoutError as exc:
        # What a host's plain port does, too: it waits for the end of a head.
        plain.close()
        reason = "it takes connections, and does not begin TLS on them in time"
        raise errors.HostUnreachable(url, reason) from exc
    except OSError as exc:
        plain.close()
        raise errors.HostUnreachable(url, errors.reason(exc)) from exc
    _check_pin(verify, sock, url)
    return sock


def _check_pin(verify: Verify, sock: ssl.SSLSocket, url: str) -> None:
    if verify.insecure or not verify.fingerprints:
        return
    seen = fingerprint_of(sock.getpeercert(binary_form=True) or b"")
    if seen not in verify.pinned():
        sock.close()
        reason = "it is not among the fingerprints configured"
        raise errors.CertificateRefused(url, reason, seen)


def _fingerprint_shown(dial: Callable[[], socket.socket], host: str) -> str | None:
    """Look at the certificate once more, only to name it in a message."""
    try:
        with (
            dial() as plain,
            _unverified().wrap_socket(plain, server_hostname=host) as sock,
        ):
            certificate = sock.getpeercert(binary_form=True)
    except (errors.HostUnreachable, OSError):
        return None
    return fingerprint_of(certificate) if certificate else None
