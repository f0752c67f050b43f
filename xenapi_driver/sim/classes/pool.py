# SPDX-License-Identifier: Apache-2.0
"""Class pool: one object that stands for all hosts."""

import ipaddress
import re
from collections.abc import Callable
from typing import Any

from xenapi_driver.sim.classes import host_settings
from xenapi_driver.sim.failure import Failure
from xenapi_driver.sim.messages import Call, computed, message
from xenapi_driver.sim.pools import forwarding
from xenapi_driver.sim.registry import Registry, Row
from xenapi_driver.sim.schema import NULL
from xenapi_driver.sim.world import now

_DAYS = 7
_OVSDB_PORT = 6640


def only(db: Registry) -> str:
    """Return the pool."""
    return db.refs("pool")[0]


def _all_hosts(call: Call, **values: Any) -> None:
    for host in call.db.refs("host"):
        call.db.update("host", host, **values)


@computed("pool", "allowed_operations")
def allowed_operations(db: Registry, ref: str, row: Row) -> list[str]:
    """Return what the pool takes now."""
    return [
        "ha_disable" if row["ha_enabled"] else "ha_enable",
        "cluster_create",
        "designate_new_master",
        "tls_verification_enable",
        "configure_repositories",
        "sync_updates",
        "sync_bundle",
        "apply_updates",
        "cert_refresh",
        "exchange_certificates_on_join",
        "exchange_ca_certificates_on_join",
        "copy_primary_host_certs",
        "eject",
        "get_updates",
        "exchange_crls_on_join",
    ]


@message("pool.sync_database")
def sync_database(call: Call) -> None:
    """Do nothing: there is one database."""


@message("pool.has_extension")
def has_extension(call: Call, pool: str, name: str) -> bool:
    """Return whether all hosts have an extension: none has."""
    return False


# High availability: it is never on, but what-if questions have answers


@message("pool.set_ha_host_failures_to_tolerate")
def set_ha_host_failures_to_tolerate(call: Call, pool: str, value: int) -> None:
    """Set how many hosts may fail, for the time when it is on."""
    if value < 0:
        raise Failure("INVALID_VALUE", "ha_host_failures_to_tolerate", str(value))
    call.db.update("pool", pool, ha_host_failures_to_tolerate=value)


@message(
    "pool.ha_compute_max_host_failures_to_tolerate",
    "pool.ha_compute_hypothetical_max_host_failures_to_tolerate",
)
def ha_compute_max(call: Call, *configuration: dict[str, str]) -> int:
    """Return how many hosts may fail: all, while no VM has to be restarted."""
    protected = [
        ref
        for ref, row in call.db.rows("VM")
        if row["ha_restart_priority"] == "restart" and not row["is_a_template"]
    ]
    wanted = bool(configuration and configuration[0]) or bool(protected)
    return len(call.db.refs("host")) - int(wanted)


@message("pool.ha_failover_plan_exists")
def ha_failover_plan_exists(call: Call, number: int) -> bool:
    """Return whether that many hosts may fail."""
    return number <= ha_compute_max(call)


@message("pool.ha_compute_vm_failover_plan")
def ha_compute_vm_failover_plan(
    call: Call, failed_hosts: list[str], failed_vms: list[str]
) -> dict[str, dict[str, str]]:
    """Return where guests would go; there is no room reserved for any."""
    return {ref: {"error_code": "NO_HOSTS_AVAILABLE"} for ref in failed_vms}


# Networks


def _require_vswitch(call: Call, refusal: Failure) -> None:
    for _, row in call.db.rows("host"):
        if row["software_version"].get("network_backend") != "openvswitch":
            raise refusal


@message("pool.set_vswitch_controller")
def set_vswitch_controller(call: Call, address: str) -> None:
    """Have one controller at this address, or none; the older way to say it."""
    text = "host not configured for vswitch operation"
    _require_vswitch(call, Failure("OPERATION_NOT_ALLOWED", text))
    if address:
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            raise Failure("INVALID_IP_ADDRESS_SPECIFIED", "address") from None
    for ref in call.db.refs("SDN_controller"):
        call.db.destroy("SDN_controller", ref)
    if address:
        fields = {"protocol": "ssl", "address": address, "port": _OVSDB_PORT}
        call.db.create("SDN_controller", fields)
    call.db.update("pool", only(call.db), vswitch_controller=address)


@message("pool.set_igmp_snooping_enabled")
def set_igmp_snooping_enabled(call: Call, pool: str, value: bool) -> None:
    """Let bridges listen to group memberships."""
    _require_vswitch(call, Failure("OPENVSWITCH_NOT_ACTIVE"))
    call.db.update("pool", pool, igmp_snooping_enabled=value)
    status = "enabled" if value else "disabled"
    for ref, row in call.db.rows("PIF"):
        if row["physical"]:
            call.db.update("PIF", ref, igmp_snooping_status=status)


# Licence, redo log, workload balancing


@message("pool.get_license_state")
def get_license_state(call: Call, pool: str) -> dict[str, str]:
    """Return the edition that all hosts have, which never expires."""
    edition = call.db.row("host", call.db.row("pool", pool)["master"])["edition"]
    return {"edition": edition, "expiry": "never"}


@message("pool.apply_edition")
def apply_edition(call: Call, pool: str, edition: str) -> None:
    """Take any edition: this product has one only, with every feature."""


@message("pool.disable_redo_log")
def disable_redo_log(call: Call) -> None:
    """Write no redo log, which is so already."""
    call.db.update("pool", only(call.db), redo_log_enabled=False)


@message("pool.initialize_wlb")
def initialize_wlb(call: Call, url: str, *credentials: str) -> None:
    """Refuse: nobody listens there."""
    if not re.fullmatch(r"[^:/\s]+:\d+", url):
        raise Failure("WLB_URL_INVALID", url)
    raise Failure("WLB_CONNECTION_REFUSED")


# Directories of users


def refuse_external_auth(config: dict[str, str], kind: str) -> Failure:
    """Return why no directory can be used."""
    if kind != "AD":
        return Failure("AUTH_UNKNOWN_TYPE", kind)
    for key in ("user", "pass"):
        if key not in config:
            return Failure("AUTH_ENABLE_FAILED", f"enable requires {key}")
    text = "no domain controller answers"
    return Failure("AUTH_ENABLE_FAILED_DOMAIN_LOOKUP_FAILED", text)


@message("pool.enable_external_auth")
def enable_external_auth(
    call: Call, pool: str, config: dict[str, str], service: str, kind: str
) -> None:
    """Refuse, in the name of the first host that tried."""
    refusal = refuse_external_auth(config, kind)
    if refusal.code == "AUTH_UNKNOWN_TYPE":
        raise refusal
    host = call.db.row("pool", pool)["master"]
    raise Failure(f"POOL_{refusal.code}", host, *refusal.description[1:])


@message("pool.disable_external_auth", "pool.detect_nonhomogeneous_external_auth")
def disable_external_auth(call: Call, pool: str, *config: dict[str, str]) -> None:
    """Do nothing: no host uses a directory, and so all are alike."""


# Certificates


@message("pool.certificate_sync")
def certificate_sync(call: Call) -> None:
    """Do nothing: all hosts read the same records."""


@message("pool.enable_tls_verification")
def enable_tls_verification(call: Call) -> None:
    """Let hosts check each other's certificates."""
    call.db.update("pool", only(call.db), tls_verification_enabled=True)
    _all_hosts(call, tls_verification_enabled=True)


@message("pool.enable_client_certificate_auth")
def enable_client_certificate_auth(call: Call, pool: str, name: str) -> None:
    """Take clients that show a certificate of this name."""
    call.db.update(
        "pool",
        pool,
        client_certificate_auth_enabled=True,
        client_certificate_auth_name=name,
    )


@message("pool.disable_client_certificate_auth")
def disable_client_certificate_auth(call: Call, pool: str) -> None:
    """Ask everybody for a password."""
    call.db.update(
        "pool",
        pool,
        client_certificate_auth_enabled=False,
        client_certificate_auth_name="",
    )


# Updates and telemetry


@message("pool.check_update_readiness")
def check_update_readiness(call: Call, pool: str, reboot: bool) -> list[list[str]]:
    """Return what stands in the way of an update: a host that is down."""
    return [
        ["HOST_NOT_LIVE", ref]
        for ref in call.db.refs("host")
        if not forwarding.counts_as_live(call.db, ref)
    ]


@message("pool.configure_update_sync")
def configure_update_sync(call: Call, pool: str, frequency: str, day: int) -> None:
    """Choose when to look for updates."""
    if not 0 <= day < _DAYS or (frequency == "daily" and day):
        raise Failure("INVALID_UPDATE_SYNC_DAY", str(day))
    call.db.update("pool", pool, update_sync_frequency=frequency, update_sync_day=day)


@message("pool.set_update_sync_enabled")
def set_update_sync_enabled(call: Call, pool: str, value: bool) -> None:
    """Look for updates or not; without a repository there is nowhere to look."""
    if value and not call.db.row("pool", pool)["repositories"]:
        raise Failure("NO_REPOSITORIES_CONFIGURED")
    call.db.update("pool", pool, update_sync_enabled=value)


@message("pool.configure_repository_proxy")
def configure_repository_proxy(
    call: Call, pool: str, url: str, username: str, password: str
) -> None:
    """Set the proxy through which updates would come."""
    if not re.fullmatch(r"https?://[^/\s]+", url):
        raise Failure("INVALID_REPOSITORY_PROXY_URL", url)
    if bool(username) != bool(password):
        raise Failure("INVALID_REPOSITORY_PROXY_CREDENTIAL")
    secret = call.db.create("secret", {"value": password}) if password else NULL
    call.db.update(
        "pool",
        pool,
        repository_proxy_url=url,
        repository_proxy_username=username,
        repository_proxy_password=secret,
    )


@message("pool.disable_repository_proxy")
def disable_repository_proxy(call: Call, pool: str) -> None:
    """Use no proxy."""
    secret = call.db.row("pool", pool)["repository_proxy_password"]
    call.db.update(
        "pool",
        pool,
        repository_proxy_url="",
        repository_proxy_username="",
        repository_proxy_password=NULL,
    )
    if call.db.exists("secret", secret):
        call.db.destroy("secret", secret)


@message("pool.reset_telemetry_uuid")
def reset_telemetry_uuid(call: Call, pool: str) -> None:
    """Be somebody else for telemetry."""
    old = call.db.row("pool", pool)["telemetry_uuid"]
    new = call.db.create("secret", {"value": call.db.new_uuid()})
    call.db.update("pool", pool, telemetry_uuid=new)
    if call.db.exists("secret", old):
        call.db.destroy("secret", old)


@message("pool.set_telemetry_next_collection")
def set_telemetry_next_collection(call: Call, pool: str, value: str) -> None:
    """Choose when telemetry is collected next, from now on."""
    if str(value) < str(now()):
        raise Failure("TELEMETRY_NEXT_COLLECTION_TOO_LATE", str(value))
    call.db.update("pool", pool, telemetry_next_collection=value)


# What is set on all hosts at once


@message("pool.set_https_only")
def set_https_only(call: Call, pool: str, value: bool) -> None:
    """Close or open the port without TLS in the hosts' records."""
    _all_hosts(call, https_only=value)


# What is done on each host, and what is said of those where it failed.
_ON_HOSTS: dict[str, tuple[Callable[..., None], str]] = {
    "enable_ssh": (host_settings.enable_ssh, "ENABLE_SSH"),
    "disable_ssh": (host_settings.disable_ssh, "DISABLE_SSH"),
    "set_ssh_enabled_timeout": (
        host_settings.set_ssh_enabled_timeout,
        "SET_SSH_TIMEOUT",
    ),
    "set_console_idle_timeout": (
        host_settings.set_console_idle_timeout,
        "SET_CONSOLE_TIMEOUT",
    ),
    "set_ssh_auto_mode": (host_settings.set_ssh_auto_mode, "SET_SSH_AUTO_MODE"),
}


@message(*(f"pool.{name}" for name in _ON_HOSTS))
def on_hosts(call: Call, pool: str, *values: int | bool) -> None:
    """Do the same on every host, and say at the end where it failed."""
    function, words = _ON_HOSTS[call.method.removeprefix("pool.")]
    failed = []
    for host in call.db.refs("host"):
        try:
            forwarding.require_answer(call.world, host)
            function(call, host, *values)
        except Failure:
            failed.append(host)
    if failed:
        raise Failure(f"{words}_PARTIALLY_FAILED", *failed)


@message("pool.set_ext_auth_cache_size")
def set_ext_auth_cache_size(call: Call, pool: str, value: int) -> None:
    """Say how many directory users are remembered."""
    if value < 0:
        raise Failure("INVALID_VALUE", "size", str(value))
    call.db.update("pool", pool, ext_auth_cache_size=value)


@message("pool.set_ext_auth_cache_expiry")
def set_ext_auth_cache_expiry(call: Call, pool: str, value: int) -> None:
    """Say for how many seconds they are."""
    if value <= 0:
        raise Failure("INVALID_VALUE", "expiry_seconds", str(value))
    call.db.update("pool", pool, ext_auth_cache_expiry=value)


@message("pool.disable_ssl_legacy")
def disable_ssl_legacy(call: Call, pool: str) -> None:
    """Refuse old TLS versions, as is done anyway."""
    _all_hosts(call, ssl_legacy=False)


@message("pool.set_custom_uefi_certificates")
def set_custom_uefi_certificates(call: Call, pool: str, value: str) -> None:
    """Install certificates for guests; the release itself has none here."""
    call.db.update(
        "pool", pool, custom_uefi_certificates=value, uefi_certificates=value
    )


@message("pool.get_guest_secureboot_readiness")
def get_guest_secureboot_readiness(call: Call, pool: str) -> str:
    """Return whether guests can boot securely: no certificates are installed."""
    return "ready" if call.db.row("pool", pool)["uefi_certificates"] else "not_ready"
