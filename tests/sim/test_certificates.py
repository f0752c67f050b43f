# SPDX-License-Identifier: Apache-2.0
"""Certificates: what hosts show to clients, and whom they trust."""

import datetime
import hashlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from tests.sim.clients import NULL, HttpSender, XmlClient, refusal

NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)


def private_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def signed(key, begin=NOW - DAY, end=NOW + DAY, algorithm=None):
    """Return a self-signed certificate for localhost, as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(key, algorithm or hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def host(local):
    return local.call("host.get_all")[0]


def shown(server):
    """Return the SHA-256 fingerprint of what a TLS client is shown."""
    pem = ssl.get_server_certificate(("127.0.0.1", server.port))
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


def recorded(client, host):
    records = client.call("Certificate.get_all_records").values()
    (mine,) = (r for r in records if r["type"] == "host" and r["host"] == host)
    return mine


def test_the_record_tells_what_clients_are_shown(local, host, sim):
    server = sim.serve(tls=True)
    record = recorded(local, host)
    assert record["fingerprint"] == shown(server) == server.fingerprint
    assert record["fingerprint_sha256"] == record["fingerprint"]
    pem = local.call("host.get_server_certificate", host)
    assert pem == ssl.get_server_certificate(("127.0.0.1", server.port))
    assert str(record["not_after"]) > str(record["not_before"])


def test_a_host_without_tls_has_a_certificate_too(local, host):
    pem = local.call("host.get_server_certificate", host)
    assert local.call("host.get_server_certificate", host) == pem
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
    assert recorded(local, host)["fingerprint"].replace(":", "") == digest


def test_an_installed_certificate_is_shown_at_once(local, host, sim, key):
    server = sim.serve(tls=True)
    before = shown(server)
    pem = signed(key)
    arguments = (pem, private_pem(key), "")
    local.call("host.install_server_certificate", host, *arguments)
    after = shown(server)
    assert after != before
    assert recorded(local, host)["fingerprint"] == server.fingerprint == after
    context = ssl.create_default_context(cadata=pem)
    context.check_hostname = False
    client = XmlClient(HttpSender(server, "/", context))
    assert client.call("host.get_server_certificate", host).strip() == pem.strip()
    local.call("host.reset_server_certificate", host)
    assert shown(server) not in (before, after)


def test_what_a_host_cannot_show_is_refused(local, host, key):
    before = local.call("host.get_server_certificate", host)
    good, private = signed(key), private_pem(key)
    short = rsa.generate_private_key(65537, 1024)
    curve = ec.generate_private_key(ec.SECP256R1())
    other = rsa.generate_private_key(65537, 2048)
    cases = [
        (good, "rubbish", "", "KEY_INVALID"),
        ("rubbish", private, "", "INVALID"),
        (good, private_pem(short), "", "KEY_RSA_LENGTH_NOT_SUPPORTED"),
        (good, private_pem(curve), "", "KEY_ALGORITHM_NOT_SUPPORTED"),
        (good, private_pem(other), "", "KEY_MISMATCH"),
        (signed(key, NOW - 2 * DAY, NOW - DAY), private, "", "EXPIRED"),
        (signed(key, NOW + DAY, NOW + 2 * DAY), private, "", "NOT_VALID_YET"),
        (
            signed(key, algorithm=hashes.SHA384()),
            private,
            "",
            "SIGNATURE_NOT_SUPPORTED",
        ),
        (good, private, "rubbish", "CHAIN_INVALID"),
    ]
    for certificate, key_pem, chain, code in cases:
        arguments = (host, certificate, key_pem, chain)
        got = refusal(local, "host.install_server_certificate", *arguments)
        assert got[0] == f"SERVER_CERTIFICATE_{code}"
    assert local.call("host.get_server_certificate", host) == before


def test_authorities_are_known_by_name(client, key):
    pem = signed(key)
    client.call("pool.install_ca_certificate", "mine.pem", pem)
    assert client.call("pool.certificate_list") == ["mine.pem"]
    for name, text, code in (
        ("mine.pem", pem, "CERTIFICATE_ALREADY_EXISTS"),
        ("../etc", pem, "CERTIFICATE_NAME_INVALID"),
        ("other", "rubbish", "CERTIFICATE_CORRUPT"),
    ):
        assert refusal(client, "pool.certificate_install", name, text) == [code, name]
    client.call("pool.uninstall_ca_certificate", "mine.pem", False)
    assert client.call("pool.certificate_list") == []
    got = refusal(client, "pool.uninstall_ca_certificate", "mine.pem", False)
    assert got == ["CERTIFICATE_DOES_NOT_EXIST", "mine.pem"]
    client.call("pool.uninstall_ca_certificate", "mine.pem", True)


def test_single_certificates_are_trusted_for_a_purpose(local, key):
    (pool,) = local.call("pool.get_all")
    pem = signed(key)
    install = ("pool.install_trusted_certificate", pool)
    local.call(*install, False, pem, ["ldaps"])
    records = local.call("Certificate.get_all_records")
    (ref,) = (r for r, record in records.items() if record["type"] == "pinned")
    assert records[ref]["purpose"] == ["ldaps"]
    got = refusal(local, *install, True, pem, [])
    fingerprint = records[ref]["fingerprint_sha256"]
    assert got == ["TRUSTED_CERTIFICATE_ALREADY_EXISTS", fingerprint]
    old = signed(key, NOW - 2 * DAY, NOW - DAY)
    assert refusal(local, *install, True, old, [])[0] == "TRUSTED_CERTIFICATE_EXPIRED"
    assert refusal(local, *install, True, "x", []) == ["TRUSTED_CERTIFICATE_INVALID"]
    (own, *_) = (r for r, record in records.items() if record["type"] == "host")
    remove = ("pool.uninstall_trusted_certificate", pool)
    assert refusal(local, *remove, own) == ["NOT_TRUSTED_CERTIFICATE", own]
    assert refusal(local, *remove, NULL) == ["HANDLE_INVALID", "Certificate", NULL]
    local.call(*remove, ref)
    assert ref not in local.call("Certificate.get_all")


def test_lists_of_revoked_certificates_are_kept(local, key):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name)
        .last_update(NOW)
        .next_update(NOW + DAY)
        .sign(key, hashes.SHA256())
    )
    text = crl.public_bytes(serialization.Encoding.PEM).decode()
    local.call("pool.crl_install", "gone.pem", text)
    assert local.call("pool.crl_list") == ["gone.pem"]
    for wrong, body, code in (
        ("gone.pem", text, "CRL_ALREADY_EXISTS"),
        ("../x", text, "CRL_NAME_INVALID"),
        ("other.pem", "rubbish", "CRL_CORRUPT"),
    ):
        assert refusal(local, "pool.crl_install", wrong, body) == [code, wrong]
    local.call("pool.crl_uninstall", "gone.pem")
    assert local.call("pool.crl_list") == []
    got = refusal(local, "pool.crl_uninstall", "gone.pem")
    assert got == ["CRL_DOES_NOT_EXIST", "gone.pem"]
