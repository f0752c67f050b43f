# SPDX-License-Identifier: Apache-2.0
"""Certificates as text: read, checked, and as records show them."""

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from xenapi_driver.sim.doors.wire import Timestamp
from xenapi_driver.sim.failure import Failure

_KEY_SIZES = (2048, 4096)
_EC_KEY = "1.2.840.10045.2.1"


def record(certificate: x509.Certificate) -> dict[str, Any]:
    """Return the fields of a Certificate record that a certificate tells."""
    sha256 = fingerprint(certificate)
    return {
        "not_before": _stamp(certificate.not_valid_before_utc),
        "not_after": _stamp(certificate.not_valid_after_utc),
        "fingerprint": sha256,
        "fingerprint_sha256": sha256,
        # Not for safety: a host tells both.
        "fingerprint_sha1": _digest(certificate, hashes.SHA1()),  # noqa: S303
    }


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 fingerprint, upper-case hex with colons."""
    return _digest(certificate, hashes.SHA256())


def _digest(certificate: x509.Certificate, algorithm: hashes.HashAlgorithm) -> str:
    return ":".join(f"{byte:02X}" for byte in certificate.fingerprint(algorithm))


def _stamp(moment: datetime.datetime) -> Timestamp:
    return Timestamp(moment.strftime("%Y%m%dT%H:%M:%SZ"))


def text(certificate: x509.Certificate) -> str:
    """Return a certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def load(pem: str, refusal: Failure) -> x509.Certificate:
    """Return the certificate that is in a text.

    :raises Failure: ``refusal``, where there is none
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise refusal from None


def check_dates(certificate: x509.Certificate, prefix: str) -> None:
    """Refuse a certificate outside of its time.

    :raises Failure: ``prefix`` with _EXPIRED or _NOT_VALID_YET
    """
    moment = datetime.datetime.now(datetime.timezone.utc)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if moment > end:
        raise Failure(f"{prefix}_EXPIRED", _stamp(moment), _stamp(end))
    if moment < begin:
        raise Failure(f"{prefix}_NOT_VALID_YET", _stamp(moment), _stamp(begin))


def load_key(pem: str) -> rsa.RSAPrivateKey:
    """Return the private key that is in a text; hosts take RSA only.

    :raises Failure: SERVER_CERTIFICATE_KEY_*
    """
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError):
        raise Failure("SERVER_CERTIFICATE_KEY_INVALID") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Failure("SERVER_CERTIFICATE_KEY_ALGORITHM_NOT_SUPPORTED", _EC_KEY)
    if key.key_size not in _KEY_SIZES:
        code = "SERVER_CERTIFICATE_KEY_RSA_LENGTH_NOT_SUPPORTED"
        raise Failure(code, str(key.key_size))
    return key


def check_server(pem: str, key_pem: str, chain: str) -> x509.Certificate:
    """Return a certificate that a host may show to clients.

    :raises Failure: SERVER_CERTIFICATE_*, the first that is wrong
    """
    key = load_key(key_pem)
    certificate = load(pem, Failure("SERVER_CERTIFICATE_INVALID"))
    check_dates(certificate, "SERVER_CERTIFICATE")
    if certificate.public_key() != key.public_key():
        raise Failure("SERVER_CERTIFICATE_KEY_MISMATCH")
    if not isinstance(
        certificate.signature_hash_algorithm, (hashes.SHA256, hashes.SHA512)
    ):
        raise Failure("SERVER_CERTIFICATE_SIGNATURE_NOT_SUPPORTED")
    if chain:
        load(chain, Failure("SERVER_CERTIFICATE_CHAIN_INVALID"))
    return certificate


def is_revocation_list(pem: str) -> bool:
    """Return whether a text is a list of revoked certificates."""
    try:
        x509.load_pem_x509_crl(pem.encode())
    except ValueError:
        return False
    return True
