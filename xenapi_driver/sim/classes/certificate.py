# SPDX-License-Identifier: Apache-2.0
"""Class Certificate: what hosts show to clients, and whom they trust."""

import re
from pathlib import Path

from xenapi_driver.sim.failure import Failure, handle_invalid
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.pools.machines import Machine
from xenapi_driver.sim.pools.settlement import machines_of
from xenapi_driver.sim.registry import Registry
from xenapi_driver.sim.start import identity, pem

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_LISTS = "etc/stunnel/crls"
_TRUSTED = ("ca", "pinned")


def _machine(call: Call, host: str) -> Machine:
    machine = machines_of(call.world).of(call.world, host)
    if machine is None:
        raise Failure("HOST_OFFLINE", host)
    return machine


@message("host.get_server_certificate")
def get_server_certificate(call: Call, host: str) -> str:
    """Return the certificate that clients are shown, as PEM."""
    return identity.public_part(identity.establish(_machine(call, host)))


@message("host.install_server_certificate")
def install_server_certificate(
    call: Call, host: str, certificate: str, key: str, chain: str
) -> None:
    """Show a certificate that somebody else signed."""
    pem.check_server(certificate, key, chain)
    identity.install(_machine(call, host), key, certificate, chain)


@message("host.reset_server_certificate", "host.refresh_server_certificate")
def reset_server_certificate(call: Call, host: str) -> None:
    """Show a new certificate that the host signed itself."""
    identity.renew(_machine(call, host))


@message("host.emergency_reset_server_certificate")
def emergency_reset_server_certificate(call: Call) -> None:
    """Do the same on the coordinator."""
    identity.renew(_machine(call, call.world.coordinator))


# Whom hosts trust


@message("pool.certificate_list")
def certificate_list(call: Call) -> list[str]:
    """Return the names of the CA certificates."""
    return [call.db.row("Certificate", ref)["name"] for ref in _named(call.db)]


def _named(db: Registry) -> list[str]:
    return [ref for ref in db.find("Certificate", type="ca") if _name(db, ref)]


def _name(db: Registry, ref: str) -> str:
    return str(db.row("Certificate", ref)["name"])


@message("pool.certificate_install", "pool.install_ca_certificate")
def certificate_install(call: Call, name: str, text: str) -> None:
    """Trust who has a certificate of this authority."""
    if not _NAME.fullmatch(name):
        raise Failure("CERTIFICATE_NAME_INVALID", name)
    if call.db.find("Certificate", type="ca", name=name):
        raise Failure("CERTIFICATE_ALREADY_EXISTS", name)
    found = pem.load(text, Failure("CERTIFICATE_CORRUPT", name))
    call.db.create("Certificate", {"type": "ca", "name": name, **pem.record(found)})


@message("pool.certificate_uninstall", "pool.uninstall_ca_certificate")
def certificate_uninstall(call: Call, name: str, *force: bool) -> None:
    """Trust an authority no more."""
    found = call.db.find("Certificate", type="ca", name=name) if name else []
    if not found and not any(force):
        raise Failure("CERTIFICATE_DOES_NOT_EXIST", name)
    for ref in found:
        call.db.destroy("Certificate", ref)


@message("pool.install_trusted_certificate")
def install_trusted_certificate(
    call: Call, pool: str, ca: bool, text: str, purpose: list[str]
) -> None:
    """Trust an authority, or one certificate, for some purposes or for all."""
    found = pem.load(text, Failure("TRUSTED_CERTIFICATE_INVALID"))
    pem.check_dates(found, "TRUSTED_CERTIFICATE")
    values = pem.record(found)
    for kind in _TRUSTED:
        same = {"type": kind, "fingerprint_sha256": values["fingerprint_sha256"]}
        if call.db.find("Certificate", **same):
            code = "TRUSTED_CERTIFICATE_ALREADY_EXISTS"
            raise Failure(code, values["fingerprint_sha256"])
    kind = "ca" if ca else "pinned"
    call.db.create("Certificate", {"type": kind, "purpose": purpose, **values})


@message("pool.uninstall_trusted_certificate")
def uninstall_trusted_certificate(call: Call, pool: str, ref: str) -> None:
    """Trust a certificate no more."""
    if not call.db.exists("Certificate", ref):
        raise handle_invalid("Certificate", ref)
    if call.db.row("Certificate", ref)["type"] not in _TRUSTED:
        raise Failure("NOT_TRUSTED_CERTIFICATE", ref)
    call.db.destroy("Certificate", ref)


# Whom they do not trust any more


def _lists(call: Call) -> Path:
    directory = call.world.dom0.root / _LISTS
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@message("pool.crl_list")
def crl_list(call: Call) -> list[str]:
    """Return the names of the lists of revoked certificates."""
    return sorted(path.name for path in _lists(call).iterdir())


@message("pool.crl_install")
def crl_install(call: Call, name: str, text: str) -> None:
    """Distrust what a list revokes."""
    if not _NAME.fullmatch(name) or name.startswith("."):
        raise Failure("CRL_NAME_INVALID", name)
    if name in crl_list(call):
        raise Failure("CRL_ALREADY_EXISTS", name)
    if not pem.is_revocation_list(text):
        raise Failure("CRL_CORRUPT", name)
    (_lists(call) / name).write_text(text, encoding="utf-8")


@message("pool.crl_uninstall")
def crl_uninstall(call: Call, name: str) -> None:
    """Forget a list."""
    if name not in crl_list(call):
        raise Failure("CRL_DOES_NOT_EXIST", name)
    (_lists(call) / name).unlink()
