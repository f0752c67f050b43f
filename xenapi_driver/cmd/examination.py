# SPDX-License-Identifier: Apache-2.0
"""The doctor's checks, in their order; each looks at one thing and changes nothing.

What the driver refuses is decided in ``ops/fitness.py``, ``ops/startup.py`` and below,
by the same functions that the driver calls at its start. What is only worth a warning
is decided here.
"""

from __future__ import annotations

import dataclasses
import datetime
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from importlib import metadata

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from oslo_config import cfg

from xenapi_driver import conf as options
from xenapi_driver import exceptions
from xenapi_driver.ops import fitness, resources, startup
from xenapi_driver.xapi import errors, host, network, pif, plugins
from xenapi_driver.xapi.host_metrics import HostMetricsRecord
from xenapi_driver.xapi.session import Session

OK = "ok"
WARNING = "warning"
FAILED = "failed"
NOT_CHECKED = "not checked"

# A certificate that ends sooner is worth a warning.
SOON_DAYS = 30

# Less free space in the SR, or less free memory, is too little for one server.
LITTLE_DISK_GIB = 10
LITTLE_MEMORY_MIB = 1024

# The oldest release of XCP-ng and XenServer (8.4.0 says XenServer 8) that the driver
# is written for.
OLDEST_PRODUCT = (8, 3)

_GIB = 1024**3
_MIB = 1024**2

CHECKS = (
    *("options", "connection", "certificate", "login", "host", "compute VM"),
    *("storage", "networks", "plugins", "guests"),
)

LOG_ADVICE = "look at /var/log/xensource.log in dom0 for what the host says about it"

DRIVER = "xenapi.XenAPIDriver"

INSTALL = "xenapi-driver dom0 install root@HOST"


@dataclasses.dataclass(frozen=True)
class Row:
    """What one check found.

    :ivar check: name of the check
    :ivar state: one of the four above
    :ivar seen: what was seen, without a full stop
    :ivar remedy: what to do, likewise; "" when nothing is to be done
    """

    check: str
    state: str
    seen: str
    remedy: str


# State, seen, remedy: a row without the name of its check.
Findings = Iterator[tuple[str, str, str]]


class Examination:
    """One look at the options and at the host; ``rows`` runs it.

    :param conf: as nova-compute reads it
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._opts = conf.xenserver
        self._login: Session | None = None
        self._refused: errors.XapiError | None = None  # what ended the login

    def rows(self) -> list[Row]:
        """Make all checks and log out."""
        found: list[Row] = []
        bad: set[str] = set()  # checks that failed or could not be made
        try:
            for name, needs, look in self._checks():
                first = next((need for need in needs if need in bad), None)
                if first is not None:
                    made = [(NOT_CHECKED, f"waits for: {first}", "")]
                else:
                    made = _findings(look)
                if first is not None or any(state == FAILED for state, *_ in made):
                    bad.add(name)
                found += [Row(name, *finding) for finding in made]
        finally:
            if self._login is not None:
                self._login.logout()
        return found

    def _checks(self) -> list[tuple[str, tuple[str, ...], Callable[[], Findings]]]:
        """Return name, names of what has to be in order before, and function."""
        # A wrong option about something else need not keep us from connecting.
        blocked = any(problem.blocks for problem in fitness.problems(self._conf))
        first = ("options",) if blocked else ()
        connected = ("connection", "certificate")
        needs = [(), first, connected[:1], connected, *[("login",)] * 6]
        looks = [
            *(self._options, self._connection, self._certificate, self._logged_in),
            *(self._host, self._compute_vm, self._storage),
            *(self._networks, self._plugins, self._guests),
        ]
        return list(zip(CHECKS, needs, looks, strict=True))

    @property
    def _session(self) -> Session:
        if self._login is None:
            raise errors.NotLoggedIn()
        return self._login

    def _options(self) -> Findings:
        driver = self._conf.compute_driver
        count = 0
        if driver != DRIVER:
            count += 1
            seen = "is not set" if driver is None else f"= {driver} is another driver"
            yield FAILED, f"[DEFAULT] compute_driver {seen}", f"set it to {DRIVER}"
        for problem in fitness.problems(self._conf) + fitness.old_names(self._conf):
            count += 1
            state = FAILED if problem.fatal else WARNING
            yield state, problem.seen, problem.remedy
        if not count:
            files = ", ".join(options.files(self._conf)) or "no file"
            yield OK, f"read from {files}", ""

    def _connection(self) -> Findings:
        started = time.monotonic()
        try:
            self._login = startup.open_session(self._conf, self._conf.host)
        except (errors.HostUnreachable, errors.ConnectionLost, errors.BadAnswer):
            raise
        except errors.XapiError as exc:
            self._refused = exc  # what a later check shows
        answer = self._opts.connection_read_timeout
        spent = (time.monotonic() - started) * 1000
        yield (
            OK,
            f"{options.shown_url(self._opts.connection_url)} answers; the login took "
            f"{spent:.0f} ms; time-outs: {self._opts.connection_connect_timeout} s for "
            f"a connection, {self._opts.login_timeout or answer} s for a login, "
            f"{answer} s for an answer",
            "",
        )

    def _certificate(self) -> Findings:
        if isinstance(self._refused, errors.CertificateRefused):
            raise self._refused
        parts = urllib.parse.urlsplit(self._opts.connection_url)
        if parts.scheme != "https":
            yield OK, f"a connection by {parts.scheme} has none", ""
            return
        address = (str(parts.hostname), parts.port or 443)
        try:
            pem = ssl.get_server_certificate(
                address, timeout=self._opts.connection_connect_timeout
            )
        except OSError as exc:
            yield WARNING, f"it could not be looked at ({exc})", LOG_ADVICE
            return
        yield _judged(x509.load_pem_x509_certificate(pem.encode()), self._verified_by())

    def _verified_by(self) -> str:
        if self._opts.connection_insecure:
            return "not verified at all"
        if self._opts.connection_fingerprints:
            return "verified by connection_fingerprints"
        if self._opts.connection_ca_file:
            return f"verified by {self._opts.connection_ca_file}"
        return "verified by the system's CAs"

    def _logged_in(self) -> Findings:
        if self._refused is not None:
            raise self._refused
        ours = self._session.host_ref
        coordinator = self._session.pool.master
        user = self._opts.connection_username
        if coordinator == ours:
            seen = "our host is its pool's coordinator"
        else:
            leader = host.get(self._session, coordinator)
            seen = (
                f"the pool's coordinator {leader.hostname} ({leader.address}) is "
                "followed for our host"
            )
        yield OK, f"as {user}, by {self._session.dialect}; {seen}", ""

    def _host(self) -> Findings:
        record = host.get(self._session, self._session.host_ref)
        version = record.software_version
        product = version.get("product_version", "")
        name = f"{version.get('product_brand', 'unknown product')} {product}".strip()
        seen = f"host {record.hostname} ({record.uuid}): {name}, XAPI "
        seen += version.get("xapi_build", "") or version.get("xapi", "unknown")
        if not record.enabled:
            yield (
                WARNING,
                f"{seen}; it is disabled, so that no server starts there",
                f"enable it with xe host-enable uuid={record.uuid}",
            )
        elif _numbers(product) < OLDEST_PRODUCT:
            oldest = ".".join(map(str, OLDEST_PRODUCT))
            yield (
                WARNING,
                f"{seen}; the driver is written for XCP-ng {oldest} and XenServer 8",
                "bring the host to one of these before it serves anybody",
            )
        else:
            yield OK, f"{seen}, enabled", ""

    def _compute_vm(self) -> Findings:
        uuid = startup.check_compute_vm(self._conf, self._session)
        if uuid is not None:
            yield OK, f"nova-compute's VM {uuid} runs on our host", ""
        elif self._opts.check_host:
            yield OK, "nova-compute runs in dom0", ""
        else:
            yield OK, "nova-compute may run anywhere (check_host = false)", ""

    def _storage(self) -> Findings:
        found, path = startup.find_storage(self._conf, self._session)
        free, size = found.free_bytes / _GIB, found.physical_size / _GIB
        seen = (
            f"SR {found.uuid} ({found.name_label}), type {found.type}, in dom0 at "
            f"{path}, {free:.1f} of {size:.1f} GiB free"
        )
        if free < LITTLE_DISK_GIB:
            yield WARNING, seen, "remove what is not needed there, or add a disk"
        else:
            yield OK, seen, ""

    def _networks(self) -> Findings:
        bridge = self._opts.ovs_integration_bridge
        if not bridge:
            yield (
                WARNING,
                "[xenserver] ovs_integration_bridge is not set, so that servers with "
                "ports are refused",
                "name the bridge that Neutron's agent manages, usually br-int",
            )
        else:
            known = network.find_by_bridge(self._session, bridge)
            told = "is not there yet; nova-compute makes it"
            if known is not None:
                told = f"is {known.uuid}"
            yield OK, f"the network on bridge {bridge} {told}", ""
        interface = pif.management(self._session, self._session.host_ref)
        if interface is None or not (interface.ip or interface.ipv6):
            yield (
                WARNING,
                "our host has no management interface with an address, by which dom0 "
                "fetches images",
                "choose one with xe host-management-reconfigure",
            )
        else:
            address = interface.ip or interface.ipv6[0]
            yield OK, f"management interface {interface.device}, {address}", ""

    def _plugins(self) -> Findings:
        yield judged_plugins(plugins.check_version(self._session))

    def _guests(self) -> Findings:
        record = host.get(self._session, self._session.host_ref)
        startup.check_guests(record)
        metrics = self._session.records[HostMetricsRecord][record.metrics]
        total, free = metrics.memory_total, host.free_memory(self._session, record.ref)
        seen = (
            f"HVM; {free // _MIB} of {total // _MIB} MiB memory free, "
            f"{record.cpu_info.get('cpu_count', '?')} CPUs"
        )
        if free < LITTLE_MEMORY_MIB * _MIB:
            yield WARNING, seen, "stop VMs that are not OpenStack's, or add memory"
        else:
            yield OK, seen, ""
        apart = resources.memory_mb_apart(self._session.records, record)
        reserved = self._conf.reserved_host_memory_mb
        small = fitness.small_reserve(apart, reserved)
        if small is not None:
            yield WARNING, small.seen, small.remedy
        else:
            yield (
                OK,
                f"[DEFAULT] reserved_host_memory_mb = {reserved} covers the {apart} "
                "MiB that Xen and VMs that are no servers take",
                "",
            )


def judged_plugins(found: plugins.Installed) -> tuple[str, str, str]:
    """Return the finding about plugins that the driver can work with."""
    needed = plugins.version_text(plugins.REQUIRED)
    told = f"version {found.version}; {needed} or later is needed"
    here = metadata.version("xenapi-driver")
    if not found.package:  # copied from a source tree
        return OK, told, ""
    if found.package == here:
        return OK, f"{told}; of xenapi-driver {here}, as here", ""
    return (
        WARNING,
        f"{told}; of xenapi-driver {found.package}, and here is {here}",
        f"bring them in step with {INSTALL}",
    )


def unreadable(told: str) -> list[Row]:
    """Return the rows for a configuration that cannot be read."""
    advice = "name files that nova-compute can read"
    first, *others = CHECKS
    return [
        Row(first, FAILED, told, advice),
        *(Row(check, NOT_CHECKED, f"waits for: {first}", "") for check in others),
    ]


def _findings(look: Callable[[], Findings]) -> list[tuple[str, str, str]]:
    """Run one check; what it raises is its last finding."""
    found = []
    try:
        for finding in look():
            found.append(finding)
    except (exceptions.DriverError, errors.XapiError) as exc:
        found.append((FAILED, exc.seen, exc.remedy or LOG_ADVICE))
    return found


def _judged(shown: x509.Certificate, verified: str) -> tuple[str, str, str]:
    """Say what certificate was seen, and warn of one that ends soon."""
    # Not by our own transport: the two can disagree.
    digits = shown.fingerprint(hashes.SHA256()).hex(":").upper()
    left = shown.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    days = left.days
    until = f"it ended {-days} days ago" if days < 0 else f"it ends in {days} days"
    seen = f"{verified}; SHA-256 {digits}; {until}"
    if verified.startswith("not"):
        return WARNING, seen, "set connection_fingerprints to what dom0 itself shows"
    if days < SOON_DAYS:
        return (
            WARNING,
            seen,
            "renew it in dom0 with xe host-emergency-reset-server-certificate and set "
            "the new one's fingerprint, or install one of your CA",
        )
    return OK, seen, ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return (8, 3, 0) for 8.3.0; nothing for what is no version."""
    parts = version.split(".")
    return tuple(int(part) for part in parts) if all(map(str.isdigit, parts)) else ()
