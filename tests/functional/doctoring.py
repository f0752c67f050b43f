# SPDX-License-Identifier: Apache-2.0
"""Runs ``xenapi-driver doctor`` as the command line does, in this process."""

from __future__ import annotations

import datetime
import io
import ipaddress
import json
import pathlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from xenapi_driver.cmd import app, doctor


@dataclass(frozen=True)
class Told:
    """What the command printed, and its exit status."""

    status: int
    rows: list[dict[str, str]]

    def states(self) -> dict[str, set[str]]:
        """Return the states of each check, in the checks' order."""
        found: dict[str, set[str]] = {}
        for row in self.rows:
            found.setdefault(row["Check"], set()).add(row["State"])
        return found

    def of(self, check: str, state: str) -> list[dict[str, str]]:
        """Return a check's rows in a state."""
        return [r for r in self.rows if (r["Check"], r["State"]) == (check, state)]


def run(*argv: object) -> tuple[int, str]:
    """Run the command; return its exit status and what it printed."""
    application = app.XenapiDriver()
    application.stdout = io.StringIO()
    command = doctor.Doctor(application, None)
    parsed = command.get_parser("xenapi-driver doctor").parse_args(
        [str(word) for word in argv]
    )
    return command.run(parsed), application.stdout.getvalue()


def consult(*files: object) -> Told:
    """Have these configuration files, and what they name, checked."""
    argv = [word for file in files for word in ("--config-file", file)]
    status, printed = run("-f", "json", *argv)
    return Told(status, json.loads(printed))


def show_certificate(rig, days: int) -> pathlib.Path:
    """Have the host show a certificate that ends so soon, and trust it.

    :returns: its file, with the key
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "xcpng-01")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=100))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + made.public_bytes(serialization.Encoding.PEM)
    file = rig.folder / "shown.pem"
    file.write_bytes(pem)
    fingerprint = made.fingerprint(hashes.SHA256()).hex(":").upper()
    rig.server.show(file, fingerprint)
    rig.set_option("connection_fingerprints", [fingerprint])
    return file
