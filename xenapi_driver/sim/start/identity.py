# SPDX-License-Identifier: Apache-2.0
"""The certificate by which clients know a host, and the records that tell of it."""

from pathlib import Path

from cryptography import x509

from xenapi_driver.sim.doors import certificate
from xenapi_driver.sim.pools.machines import Machine, address_of
from xenapi_driver.sim.start import pem


def establish(machine: Machine, *addresses: str) -> Path:
    """Return the file with a host's key and certificate; it is kept once it is made.

    :param addresses: where the host is reached besides its own address
    """
    machine.home.mkdir(parents=True, exist_ok=True)
    file, _ = certificate.make(machine.home, *addresses, address_of(machine))
    _tell(machine, x509.load_pem_x509_certificate(file.read_bytes()))
    return file


def install(machine: Machine, key: str, *certificates: str) -> None:
    """Show a certificate that somebody else signed, from now on and at all doors."""
    machine.home.mkdir(parents=True, exist_ok=True)
    file = machine.home / certificate.INSTALLED
    file.touch(mode=0o600)
    file.write_text("\n".join((key, *certificates, "")), encoding="ascii")
    _show(machine)


def renew(machine: Machine) -> None:
    """Show a new certificate that the host signed itself, for the same addresses."""
    (machine.home / certificate.INSTALLED).unlink(missing_ok=True)
    file = machine.home / certificate.SELF_SIGNED
    addresses = certificate.addresses(file)
    file.unlink(missing_ok=True)
    _show(machine, *addresses)


def _show(machine: Machine, *addresses: str) -> None:
    file = establish(machine, *addresses)
    shown = x509.load_pem_x509_certificate(file.read_bytes())
    for door in machine.doors:
        door.show(file, pem.fingerprint(shown))


def _tell(machine: Machine, shown: x509.Certificate) -> None:
    """Write the certificate's facts into the record that stands for it."""
    db = machine.world.db
    fields = pem.record(shown)
    with db.changed:
        for ref in db.find("Certificate", host=machine.host, type="host"):
            db.update("Certificate", ref, **fields)


def public_part(file: Path) -> str:
    """Return the certificate of a file, without its key, as PEM."""
    shown = x509.load_pem_x509_certificate(file.read_bytes())
    return pem.text(shown)
