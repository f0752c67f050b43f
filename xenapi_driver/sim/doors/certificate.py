# SPDX-License-Identifier: Apache-2.0
"""A self-signed certificate such as a fresh host has."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make(directory: Path, address: str) -> tuple[Path, str]:
    """Write key and certificate into one PEM file.

    :returns: the file and the SHA-256 fingerprint, upper-case hex with colons
    """
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
        .add_extension(_names(address), False)
        .sign(key, hashes.SHA256())
    )
    file = directory / "xapi-ssl.pem"
    file.touch(mode=0o600)
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    digest = certificate.fingerprint(hashes.SHA256()).hex().upper()
    pairs = (digest[at : at + 2] for at in range(0, len(digest), 2))
    return file, ":".join(pairs)


def _names(address: str) -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = [x509.DNSName("localhost")]
    try:
        found.append(x509.IPAddress(ipaddress.ip_address(address)))
    except ValueError:
        found.append(x509.DNSName(address))
    return x509.SubjectAlternativeName(found)
