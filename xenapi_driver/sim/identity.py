# SPDX-License-Identifier: Apache-2.0
"""The certificate by which clients know a host, and the records that tell of it."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from xenapi_driver.sim.doors import certificate
from xenapi_driver.sim.machines import Machine, address_of
from xenapi_driver.sim.world import stamp


def establish(machine: Machine, *addresses: str) -> Path:
    """Return the file with a host's key and certificate; it is kept once it is made.

    :param addresses: where the host is reached besides its own address
    """
    machine.home.mkdir(parents=True, exist_ok=True)
    file, _ = certificate.make(machine.home, *addresses, address_of(machine))
    _tell(machine, x509.load_pem_x509_certificate(file.read_bytes()))
    return file


def _tell(machine: Machine, shown: x509.Certificate) -> None:
    """Write the certificate's facts into the record that stands for it."""
    db = machine.world.db
    sha256 = _colons(shown.fingerprint(hashes.SHA256()))
    fields = {
        "fingerprint": sha256,
        "fingerprint_sha256": sha256,
        # Not for safety: a host tells both.
        "fingerprint_sha1": _colons(shown.fingerprint(hashes.SHA1())),  # noqa: S303
        "not_before": stamp(shown.not_valid_before_utc.timestamp()),
        "not_after": stamp(shown.not_valid_after_utc.timestamp()),
    }
    with db.changed:
        for ref in db.find("Certificate", host=machine.host, type="host"):
            db.update("Certificate", ref, **fields)


def _colons(digest: bytes) -> str:
    return ":".join(f"{byte:02X}" for byte in digest)


def public_part(file: Path) -> str:
    """Return the certificate of a file, without its key, as PEM."""
    shown = x509.load_pem_x509_certificate(file.read_bytes())
    return shown.public_bytes(serialization.Encoding.PEM).decode()
