# SPDX-License-Identifier: Apache-2.0
"""Class pool: what is asked of all hosts, and what hosts ask each other."""

from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import HANDLERS, Call, message
from xenapi_driver.sim.registry import Registry


@message("pool.hello")
def hello(call: Call, uuid: str, address: str) -> str:
    """Tell a host whether it belongs here."""
    return "ok" if call.db.find("host", uuid=uuid) else "unknown_host"


@message("pool.external_auth_set_ldaps")
def external_auth_set_ldaps(call: Call, pool: str, ldaps: bool, force: bool) -> None:
    """Refuse: no directory is used."""
    raise Failure("AUTH_IS_DISABLED")


@message("pool.send_test_post")
def send_test_post(call: Call, host: str, port: int, body: str) -> str:
    """Refuse: nobody can be reached."""
    raise Failure("TLS_CONNECTION_FAILED", host, str(port))


@message("pool.sync_trusted_certificates_from")
def sync_trusted_certificates_from(
    call: Call, pool: str, address: str, *arguments: object
) -> list[str]:
    """Refuse, for the same reason."""
    raise Failure("TLS_CONNECTION_FAILED", address, "443")


def _cache_of(db: Registry, host: str) -> str:
    """Return the local SR of a host whose driver can cache, or ""."""
    for pbd in db.row("host", host)["PBDs"]:
        sr = db.row("PBD", pbd)["SR"]
        row = db.row("SR", sr)
        drivers = db.find("SM", type=row["type"])
        able = any(
            "SR_SUPPORTS_LOCAL_CACHING" in db.row("SM", one)["features"]
            for one in drivers
        )
        if able and not row["shared"]:
            return str(sr)
    return ""


def _on_all(call: Call, code: str, enable: bool) -> None:
    failed = []
    for host in call.db.refs("host"):
        name = "enable" if enable else "disable"
        handler = HANDLERS[f"host.{name}_local_storage_caching"].function
        try:
            if enable:
                handler(call, host, _cache_of(call.db, host))
            else:
                handler(call, host)
        except Failure:
            failed.append(host)
    if failed:
        raise Failure(code, *failed)


@message("pool.enable_local_storage_caching")
def enable_local_storage_caching(call: Call, pool: str) -> None:
    """Cache shared disks on local ones, on all hosts; names those that cannot."""
    _on_all(call, "HOSTS_FAILED_TO_ENABLE_CACHING", True)


@message("pool.disable_local_storage_caching")
def disable_local_storage_caching(call: Call, pool: str) -> None:
    """Cache nothing on any host."""
    _on_all(call, "HOSTS_FAILED_TO_DISABLE_CACHING", False)


@message("network.pool_introduce")
def pool_introduce(call: Call, *about: object) -> str:
    """Make a network as one that joins has it: nothing is checked."""
    label, description, mtu, config, bridge, managed, purpose = about
    return call.db.create(
        "network",
        {
            "name_label": label,
            "name_description": description,
            "MTU": mtu,
            "other_config": config,
            "bridge": bridge,
            "managed": managed,
            "purpose": purpose,
        },
    )
