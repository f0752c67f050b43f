# SPDX-License-Identifier: Apache-2.0
"""Class host: what an administrator sets: name, time, access, power, caching."""

import datetime
import re
import time
import zoneinfo

from xenapi_driver.sim import boot_times
from xenapi_driver.sim.doors.wire import Timestamp
from xenapi_driver.sim.failure import Failure, internal_error
from xenapi_driver.sim.messages import Call, message
from xenapi_driver.sim.schema import EPOCH, NULL
from xenapi_driver.sim.world import stamp

_HOSTNAME = re.compile(r"[A-Za-z0-9.-]+")
_LONGEST_HOSTNAME = 255
_LONGEST_SSH = 2 * 24 * 3600
_DISPLAY_OFF = {"enabled": "disable_on_reboot", "enable_on_reboot": "disabled"}
_DISPLAY_ON = {"disabled": "enable_on_reboot", "disable_on_reboot": "enabled"}
_SCHEDULER = "boot/sched-gran"
_SYSLOG = "etc/rsyslog.d/remote.conf"


@message("host.set_hostname_live")
def set_hostname_live(call: Call, host: str, name: str) -> None:
    """Give the running system another name."""
    if not name:
        raise Failure("HOST_NAME_INVALID", "hostname empty")
    if len(name) > _LONGEST_HOSTNAME:
        raise Failure("HOST_NAME_INVALID", "hostname is too long")
    if not _HOSTNAME.fullmatch(name):
        raise Failure("HOST_NAME_INVALID", "hostname contains invalid characters")
    software = {**call.db.row("host", host)["software_version"], "hostname": name}
    call.db.update("host", host, hostname=name, software_version=software)


@message("host.set_power_on_mode")
def set_power_on_mode(call: Call, host: str, mode: str, config: dict[str, str]) -> None:
    """Say how the host is started from afar; whether that works is not tried."""
    call.db.update("host", host, power_on_mode=mode, power_on_config=config)


@message("host.enable_display")
def enable_display(call: Call, host: str) -> str:
    """Let dom0 have the display after the next start."""
    return _turn_display(call, host, _DISPLAY_ON)


@message("host.disable_display")
def disable_display(call: Call, host: str) -> str:
    """Keep the display from dom0 after the next start."""
    return _turn_display(call, host, _DISPLAY_OFF)


def _turn_display(call: Call, host: str, steps: dict[str, str]) -> str:
    now = call.db.row("host", host)["display"]
    call.db.update("host", host, display=steps.get(now, now))
    return str(steps.get(now, now))


@message("host.set_sched_gran")
def set_sched_gran(call: Call, host: str, value: str) -> None:
    """Choose what Xen schedules as one, from the next start on."""
    path = call.world.dom0_of(host).root / _SCHEDULER
    path.write_text(value, encoding="ascii")


@message("host.get_sched_gran")
def get_sched_gran(call: Call, host: str) -> str:
    """Return what Xen schedules as one since it was started."""
    path = call.world.dom0_of(host).root / _SCHEDULER
    started = boot_times.of(call.db, host)
    # The start is known to the second only.
    if path.exists() and path.stat().st_mtime + 1 < started:
        return path.read_text(encoding="ascii")
    return "cpu"


@message("host.syslog_reconfigure")
def syslog_reconfigure(call: Call, host: str) -> None:
    """Send logs where the field ``logging`` says."""
    path = call.world.dom0_of(host).root / _SYSLOG
    destination = call.db.row("host", host)["logging"].get("syslog_destination", "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"*.* @{destination}\n" if destination else "", encoding="utf-8")


# Time


@message("host.list_timezones")
def list_timezones(call: Call, host: str) -> list[str]:
    """Return the names of the time zones that the system knows."""
    return sorted(zoneinfo.available_timezones())


@message("host.set_timezone")
def set_timezone(call: Call, host: str, value: str) -> None:
    """Choose the local time."""
    if value not in zoneinfo.available_timezones():
        raise Failure("INVALID_VALUE", "timezone", value)
    call.db.update("host", host, timezone=value)


@message("host.set_ntp_mode")
def set_ntp_mode(call: Call, host: str, value: str) -> None:
    """Choose whose time the host follows."""
    if value == "Custom" and not call.db.row("host", host)["ntp_custom_servers"]:
        raise Failure("INVALID_NTP_CONFIG", "there are no custom NTP servers")
    call.db.update("host", host, ntp_mode=value)


@message("host.set_ntp_custom_servers")
def set_ntp_custom_servers(call: Call, host: str, value: list[str]) -> None:
    """Name the servers for the mode ``Custom``, which wants at least one."""
    row = call.db.row("host", host)
    if not value and row["ntp_mode"] == "Custom":
        raise Failure("INVALID_NTP_CONFIG", "there are no custom NTP servers")
    for name in value:
        if not re.fullmatch(r"[A-Za-z0-9.:-]+", name):
            raise Failure("INVALID_NTP_CONFIG", f"{name} is no address")
    call.db.update("host", host, ntp_custom_servers=value)


@message("host.get_ntp_servers_status")
def get_ntp_servers_status(call: Call, host: str) -> dict[str, str]:
    """Return how far the servers are: none can be reached from here."""
    row = call.db.row("host", host)
    servers = row["ntp_custom_servers"] if row["ntp_mode"] == "Custom" else []
    return dict.fromkeys(servers, "Unreachable")


@message("host.get_ntp_synchronized")
def get_ntp_synchronized(call: Call, host: str) -> bool:
    """Return whether the clock follows a server: none can be reached."""
    return False


@message("host.set_servertime")
def set_servertime(call: Call, host: str, value: str) -> None:
    """Set the clock, which nothing else may do then."""
    if call.db.row("host", host)["ntp_mode"] != "Disabled":
        raise Failure("NOT_ALLOWED_WHEN_NTP_IS_ENABLED", host)
    call.world.clocks[host] = _epoch(value) - time.time()


def _epoch(text: str) -> float:
    """Return a date of the wire in seconds of the epoch; without a zone it is UTC."""
    plain = text.replace("-", "", 2) if text[4:5] == "-" else text
    plain = re.sub(r"\.\d+", "", plain).replace("Z", "+0000").replace(" ", "T")
    plain = re.sub(r"([+-]\d\d):(\d\d)$", r"\1\2", plain)
    plain = plain if "T" in plain else f"{plain}T00:00:00"
    plain = plain if re.search(r"[+-]\d{4}$", plain) else f"{plain}+0000"
    try:
        return datetime.datetime.strptime(plain, "%Y%m%dT%H:%M:%S%z").timestamp()
    except ValueError:
        text = f'Invalid_argument("Unable to parse date: {text}")'
        raise internal_error(text) from None


@message("host.get_servertime", "host.get_server_localtime")
def get_servertime(call: Call, host: str) -> Timestamp:
    """Return the time by the host's clock; its local time has no zone."""
    found = stamp(time.time() + call.world.clocks.get(host, 0.0))
    if call.method.endswith("localtime"):
        return Timestamp(str(found).rstrip("Z"))
    return found


# Access


@message("host.enable_ssh")
def enable_ssh(call: Call, host: str) -> None:
    """Let administrators log in to dom0, for as long as is set."""
    timeout = call.db.row("host", host)["ssh_enabled_timeout"]
    expiry = stamp(time.time() + timeout) if timeout else EPOCH
    call.db.update(
        "host", host, ssh_enabled=True, ssh_expiry=expiry, ssh_auto_mode=False
    )


@message("host.disable_ssh")
def disable_ssh(call: Call, host: str) -> None:
    """Let nobody log in to dom0."""
    call.db.update("host", host, ssh_enabled=False, ssh_expiry=stamp(time.time()))


@message("host.set_ssh_enabled_timeout")
def set_ssh_enabled_timeout(call: Call, host: str, value: int) -> None:
    """Limit how long dom0 can be logged in to after enable_ssh; 0: no limit."""
    if not 0 <= value <= _LONGEST_SSH:
        raise Failure("INVALID_VALUE", "ssh_enabled_timeout", str(value))
    expiry = EPOCH
    if call.db.row("host", host)["ssh_enabled"] and value:
        expiry = stamp(time.time() + value)
    call.db.update("host", host, ssh_enabled_timeout=value, ssh_expiry=expiry)


@message("host.set_ssh_auto_mode")
def set_ssh_auto_mode(call: Call, host: str, value: bool) -> None:
    """Let the host open ssh by itself when its toolstack fails."""
    call.db.update("host", host, ssh_auto_mode=value)


@message("host.set_console_idle_timeout")
def set_console_idle_timeout(call: Call, host: str, value: int) -> None:
    """Limit how long dom0's console may be idle; 0: no limit."""
    if value < 0:
        raise Failure("INVALID_VALUE", "console_idle_timeout", str(value))
    call.db.update("host", host, console_idle_timeout=value)


@message("host.emergency_disable_tls_verification")
def emergency_disable_tls_verification(call: Call) -> None:
    """Stop checking the other hosts' certificates on this host."""
    call.db.update("host", call.world.coordinator, tls_verification_enabled=False)


@message("host.emergency_reenable_tls_verification")
def emergency_reenable_tls_verification(call: Call) -> None:
    """Check the other hosts' certificates again, where the pool does."""
    (pool,) = call.db.refs("pool")
    if not call.db.row("pool", pool)["tls_verification_enabled"]:
        raise Failure("TLS_VERIFICATION_NOT_ENABLED_IN_POOL")
    call.db.update("host", call.world.coordinator, tls_verification_enabled=True)


@message("host.emergency_clear_mandatory_guidance")
def emergency_clear_mandatory_guidance(call: Call) -> None:
    """Forget what has to be done after an update."""
    call.db.update("host", call.world.coordinator, pending_guidances=[])


# Storage


@message("host.set_iscsi_iqn")
def set_iscsi_iqn(call: Call, host: str, value: str) -> None:
    """Name the host's initiator; other_config says the same."""
    if not value:
        raise Failure("INVALID_VALUE", "value", value)
    config = {**call.db.row("host", host)["other_config"], "iscsi_iqn": value}
    call.db.update("host", host, iscsi_iqn=value, other_config=config)


@message("host.set_multipathing")
def set_multipathing(call: Call, host: str, value: bool) -> None:
    """Reach storage on several paths, or on one; other_config says the same."""
    text = str(value).lower()
    config = {**call.db.row("host", host)["other_config"], "multipathing": text}
    call.db.update("host", host, multipathing=value, other_config=config)


# Caching on a local disk


def _require_idle(call: Call, host: str) -> None:
    row = call.db.row("host", host)
    if row["enabled"]:
        raise Failure("HOST_NOT_DISABLED")
    for vm in row["resident_VMs"]:
        if vm != row["control_domain"]:
            raise Failure("HOST_IN_USE", host, "VM", vm)


@message("host.enable_local_storage_caching")
def enable_local_storage_caching(call: Call, host: str, sr: str) -> None:
    """Cache shared disks on a local SR of the host."""
    _require_idle(call, host)
    row = call.db.row("SR", sr)
    (driver,) = call.db.find("SM", type=row["type"])[:1] or ("",)
    if not driver:
        raise Failure("SR_UNKNOWN_DRIVER", row["type"])
    if "SR_SUPPORTS_LOCAL_CACHING" not in call.db.row("SM", driver)["features"]:
        raise Failure("SR_OPERATION_NOT_SUPPORTED", sr)
    if len(row["PBDs"]) > 1:
        raise Failure("SR_HAS_MULTIPLE_PBDS", row["PBDs"][0])
    if not call.db.find("PBD", SR=sr, host=host, currently_attached=True):
        raise Failure("HOST_CANNOT_SEE_SR", host, sr)
    disable_local_storage_caching(call, host)
    call.db.update("SR", sr, local_cache_enabled=True)
    call.db.update("host", host, local_cache_sr=sr)


@message("host.disable_local_storage_caching")
def disable_local_storage_caching(call: Call, host: str) -> None:
    """Cache nothing any more."""
    _require_idle(call, host)
    old = call.db.row("host", host)["local_cache_sr"]
    call.db.update("host", host, local_cache_sr=NULL)
    if call.db.exists("SR", old):
        call.db.update("SR", old, local_cache_enabled=False)
