# SPDX-License-Identifier: Apache-2.0
"""A self-signed certificate such as a fresh host has."""

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SELF_SIGNED = "xapi-ssl.pem"
INSTALLED = "xapi-ssl-installed.pem"


def make(directory: Path, *addresses: str) -> tuple[Path, str]:
    """Write key and certificate into one PEM file; one that fits already is kept.

    What an administrator installed comes before it, for whatever address it is.

    :param addresses: names and IP addresses that the certificate is for
    :returns: the file and the SHA-256 fingerprint, upper-case hex with colons
    """
    installed = directory / INSTALLED
    own = _known(installed)
    if own is not None:
        return installed, _fingerprint(own)
    file = directory / SELF_SIGNED
    names = _names(addresses)
    known = _known(file)
    if known is not None and _fits(known, names):
        return file, _fingerprint(known)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "xcpng-01")])
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(names, False)
        .sign(key, hashes.SHA256())
    )
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file, _fingerprint(certificate)


def _fingerprint(certificate: x509.Certificate) -> str:
    digest = certificate.fingerprint(hashes.SHA256()).hex().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def _names(addresses: Iterable[str]) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = [x509.DNSName("localhost")]
    for address in dict.fromkeys(addresses):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError:
            if address.isascii():
                found.append(x509.DNSName(address))
    return x509.SubjectAlternativeName(found)


def _known(file: Path) -> x509.Certificate | None:
    """Return the certificate of a file, or None where there is no whole one."""
    try:
        data = file.read_bytes()
        serialization.load_pem_private_key(data, None)
        return x509.load_pem_x509_certificate(data)
    except (OSError, ValueError):
        return None


def _fits(known: x509.Certificate, names: x509.SubjectAlternativeName) -> bool:
    """Return whether a certificate is good for these names, and still is for a day."""
    kind = x509.SubjectAlternativeName
    has = known.extensions.get_extension_for_class(kind).value
    tomorrow = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    return set(names) <= set(has) and known.not_valid_after_utc > tomorrow


def addresses(file: Path) -> tuple[str, ...]:
    """Return the names and addresses that a file's certificate is for."""
    known = _known(file)
    if known is None:
        return ()
    kind = x509.SubjectAlternativeName
    names = known.extensions.get_extension_for_class(kind).value
    return tuple(str(name.value) for name in names if name.value != "localhost")
