# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between us and a XAPI host.

::

    XapiError
    +-- HostUnreachable        no connection: nothing was asked
    +-- ConnectionLost         cut while a call was under way
    |   +-- AnswerLate         not cut, but given up
    +-- CertificateRefused     the host's certificate is not the one we trust
    +-- BadAnswer              what came back is not XAPI's protocol
    |   +-- NoSuchDialect      and the host does not know the dialect at all
    +-- ConnectionsBusy        all connections are in use, for too long
    +-- NotLoggedIn            the session was closed, or never opened
    +-- EventsLate             the host's events do not come
    +-- NotUnique              one object was expected, several were found
    +-- OutcomeUnknown         an answer was lost, and nothing tells what was done
    +-- TaskLost               a task vanished: its outcome is unknown
    +-- PluginMissing          our dom0 plugins are not installed
    +-- PluginTooOld           they are, in a version that we cannot use
    +-- NotAMember             the URL's address is not that of one host of the pool
    +-- PluginError            one of our plugins refused its request
    +-- XapiFailure            the host refused a call: code, params, call
        +-- HandleInvalid, VmBadPowerState, ... one class a code, see below
        +-- TaskCancelled
            +-- TaskTimeout    cancelled by us: not finished in the time given

Streams have some of their own, beside what raises them: ``handlers.HandlerRefused``,
``streams.SourceMismatch``, ``streams.ExportShort`` and ``console.NoConsole``.

Secrets are in none of them: the session masks its own reference and password
before it raises.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Sequence
from typing import ClassVar

# Longer parameters (a plugin's stderr, a backend's trace) are cut in messages.
_SHOWN_CHARACTERS = 300

MASK = "***"
# A shorter password is also an ordinary part of words: masking it would spoil
# the message and tell that it is there.
_SHORTEST_SECRET = 6


class XapiError(Exception):
    """Anything that this layer raises; ``str()`` is a sentence for a log.

    :ivar seen: what happened, without a full stop
    :ivar remedy: what an operator can do, likewise; "" where that is not known
    """

    @property
    def seen(self) -> str:
        return str(self).removesuffix(".")

    @property
    def remedy(self) -> str:
        return ""


class Advised(XapiError):
    """An error whose remedy is known: its sentence is both halves."""

    @property
    def seen(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return f"{self.seen}: {self.remedy}."


class HostUnreachable(Advised):
    """No connection could be opened, so the host was not asked anything.

    :ivar url: where we tried, without credentials
    :ivar silent: something took the connection and did not answer
    """

    def __init__(self, url: str, reason: str, silent: bool = False) -> None:
        super().__init__(url, reason, silent)
        self.url, self.reason, self.silent = url, reason, silent

    @property
    def seen(self) -> str:
        return f"The XAPI host at {self.url} cannot be reached ({self.reason})"

    @property
    def remedy(self) -> str:
        if self.silent:
            return "see in dom0's /var/log/xensource.log what keeps its toolstack busy"
        if self.url.startswith("http://"):
            address = re.sub(r":\d+$", "", self.url.removeprefix("http://"))
            return (
                "a host of today may answer on port 443 only, so try [xenserver] "
                f"connection_url = https://{address}"
            )
        if self.url.startswith("unix:"):
            return "see that xapi runs; outside of dom0 set connection_url = https://ADDRESS"
        return (
            "check that [xenserver] connection_url names the host, that it is up and "
            "that no firewall is between"
        )


class ConnectionLost(XapiError):
    """The connection broke, or the answer took longer than the time-out.

    :ivar begun: False when the host certainly never saw the whole request;
        True when it may or may not have carried it out
    """

    def __init__(self, url: str, reason: str, begun: bool = True) -> None:
        super().__init__(url, reason, begun)
        self.url = url
        self.reason = reason
        self.begun = begun

    def __str__(self) -> str:
        return f"The connection to the XAPI host at {self.url} was lost: {self.reason}."


class AnswerLate(ConnectionLost):
    """The host did not answer in time; it may do, or begin, the work later."""


class CertificateRefused(Advised):
    """The host's TLS certificate is not trusted.

    :ivar fingerprint: SHA-256 of the certificate that the host showed, as hex
        with colons; None when it showed none
    :param instead: what helps if the fingerprint shall not decide; "" for the usual
    """

    def __init__(
        self, url: str, reason: str, fingerprint: str | None, instead: str = ""
    ) -> None:
        super().__init__(url, reason, fingerprint, instead)
        self.url = url
        self.reason = reason
        self.fingerprint = fingerprint
        self._instead = instead or (
            "name the issuer's CA file in [xenserver] connection_ca_file"
        )

    @property
    def seen(self) -> str:
        if self.fingerprint is None:
            return f"No TLS session with the XAPI host at {self.url} ({self.reason})"
        return (
            f"The certificate of the XAPI host at {self.url} is not trusted "
            f"({self.reason}); its SHA-256 fingerprint is {self.fingerprint}"
        )

    @property
    def remedy(self) -> str:
        if self.fingerprint is None:
            return (
                "check [xenserver] connection_ca_file and the port in [xenserver] "
                "connection_url"
            )
        return (
            "compare that with the host's own and set it as [xenserver] "
            f"connection_fingerprints (commas separate several), or {self._instead}"
        )


class BadAnswer(Advised):
    """What answered does not speak XML-RPC or JSON-RPC the way XAPI does.

    :ivar status: the HTTP status that says so; None when it was 200
    """

    def __init__(self, url: str, reason: str, status: int | None = None) -> None:
        super().__init__(url, reason, status)
        self.url = url
        self.reason = reason
        self.status = status

    @property
    def seen(self) -> str:
        return f"{self.url} did not answer as a XAPI host does ({self.reason})"

    @property
    def remedy(self) -> str:
        return "check that [xenserver] connection_url names a XAPI host"


class NoSuchDialect(BadAnswer):
    """The host does not know the dialect (JSON-RPC): nothing was carried out."""


class ConnectionsBusy(Advised):
    """Every connection that we may have is in use; the host was not asked."""

    def __init__(self, most: int, seconds: float) -> None:
        super().__init__(most, seconds)
        self.most = most
        self.seconds = seconds

    @property
    def seen(self) -> str:
        return (
            f"None of the {self.most} connections to the XAPI host became free within "
            f"{self.seconds:g} seconds"
        )

    @property
    def remedy(self) -> str:
        return (
            "find out what keeps the host busy, or raise [xenserver] "
            "connection_concurrent"
        )


class NotLoggedIn(XapiError):
    """The session was asked for a call before login or after logout."""

    def __str__(self) -> str:
        return "There is no XAPI session: log in first."


class EventsLate(XapiError):
    """What is known of the host is too old to go by."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"The XAPI host has told nothing of its state for {self.seconds:g} s."


class NotUnique(XapiError):
    """A name that should belong to one object belongs to several."""

    def __init__(self, xapi_class: str, name: str, count: int) -> None:
        super().__init__(xapi_class, name, count)
        self.xapi_class = xapi_class
        self.name = name
        self.count = count

    def __str__(self) -> str:
        return f"{self.count} {self.xapi_class} objects are named {self.name!r}."


class OutcomeUnknown(XapiError):
    """A call that changes something may or may not have been carried out."""

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.call = call

    def __str__(self) -> str:
        return (
            f"The host's answer to {self.call} was lost, and nothing tells whether "
            "it was carried out."
        )


class TaskLost(XapiError):
    """The host forgot a task before we saw it end: outcome unknown."""

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.call = call

    def __str__(self) -> str:
        return f"The host no longer knows the task of {self.call}: outcome unknown."


class PluginMissing(Advised):
    """The host has none of our dom0 plugins."""

    def __init__(self, plugin: str, required: str) -> None:
        super().__init__(plugin, required)
        self.plugin = plugin
        self.required = required

    @property
    def seen(self) -> str:
        return f"The dom0 plugin {self.plugin!r} is not installed on the host"

    @property
    def remedy(self) -> str:
        return (
            f"install those of this release (version {self.required}) with "
            "xenapi-driver dom0 install root@HOST"
        )


class PluginTooOld(Advised):
    """The host's dom0 plugins are of a version that we cannot work with."""

    def __init__(self, found: str, required: str) -> None:
        super().__init__(found, required)
        self.found = found
        self.required = required

    @property
    def seen(self) -> str:
        return (
            f"The host's dom0 plugins have version {self.found}, but version "
            f"{self.required} or a later one of the same series is needed"
        )

    @property
    def remedy(self) -> str:
        return "replace its /etc/xapi.d/plugins by xenapi-driver dom0 install root@HOST"


class NotAMember(Advised):
    """No host of the pool has the address that led there, or several have.

    :ivar addresses: what the URL's host name stands for
    """

    def __init__(self, addresses: Iterable[str]) -> None:
        self.addresses = tuple(sorted(addresses))
        super().__init__(self.addresses)

    @property
    def seen(self) -> str:
        listed = " or ".join(self.addresses) or "of [xenserver] connection_url"
        return f"Not one host of the pool alone has the address {listed}"

    @property
    def remedy(self) -> str:
        return "set [xenserver] connection_url to an address of our host's interface"


class PluginError(XapiError):
    """One of our plugins answered with an error of its own.

    :ivar code: such as ``"IMAGE_NOT_FOUND"``; the plugin's docstring lists them
    :ivar params: the rest, a tuple of str
    """

    def __init__(self, code: str, params: Sequence[str], call: str) -> None:
        super().__init__(code, tuple(params), call)
        self.code = code
        self.params = tuple(params)
        self.call = call

    def __str__(self) -> str:
        return f"dom0 plugin {self.call} failed: {_listed(self.code, self.params)}."


class XapiFailure(XapiError):
    """The host refused a call. A code without a class of its own stays this.

    :ivar code: XAPI error code, such as ``"VM_BAD_POWER_STATE"``
    :ivar params: the rest of ErrorDescription, a tuple of str
    :ivar call: the method that was refused, such as ``"VM.start"``
    """

    codes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, code: str, params: Sequence[str], call: str) -> None:
        super().__init__(code, tuple(params), call)
        self.code = code
        self.params = tuple(params)
        self.call = call

    def __str__(self) -> str:
        return f"{self.call} was refused: {_listed(self.code, self.params)}."


class SessionInvalid(XapiFailure):
    """The session expired, or was thrown out. params: its reference (masked)."""

    codes = ("SESSION_INVALID",)

    def __str__(self) -> str:
        return f"{self.call} was refused: the XAPI session is no longer valid."


class AuthenticationFailed(Advised, XapiFailure):
    """Wrong user or password. params: user, text."""

    codes = ("SESSION_AUTHENTICATION_FAILED", "SESSION_AUTHORIZATION_FAILED")

    @property
    def seen(self) -> str:
        user = self.params[0] if self.params else "?"
        return f"The XAPI host does not accept user {user!r} with the password given"

    @property
    def remedy(self) -> str:
        return "check [xenserver] connection_username and connection_password"


class HostIsSlave(XapiFailure):
    """A pool member was asked. params: the coordinator's address."""

    codes = ("HOST_IS_SLAVE",)


class HostStillBooting(XapiFailure):
    """The host's toolstack is not ready yet."""

    codes = ("HOST_STILL_BOOTING",)


class PermissionDenied(XapiFailure):
    """The user's role is too weak. params: permission, text."""

    codes = ("RBAC_PERMISSION_DENIED", "PERMISSION_DENIED")


class MethodUnknown(XapiFailure):
    """This host does not have the call. params: method."""

    codes = ("MESSAGE_METHOD_UNKNOWN", "MESSAGE_REMOVED", "NOT_IMPLEMENTED")


class EventTokenInvalid(XapiFailure):
    """event.from does not know the token: read everything again."""

    codes = ("EVENT_FROM_TOKEN_PARSE_FAILURE", "EVENTS_LOST")


class HandleInvalid(XapiFailure):
    """The reference names nothing (any more). params: class, reference."""

    codes = ("HANDLE_INVALID", "OBJECT_NOLONGER_EXISTS")


class UuidInvalid(XapiFailure):
    """No object has that UUID. params: class, uuid."""

    codes = ("UUID_INVALID",)


class OperationNotAllowed(XapiFailure):
    """A rule about the object's state forbids it. params: text."""

    codes = ("OPERATION_NOT_ALLOWED",)


class OtherOperationInProgress(XapiFailure):
    """The object is busy. params: class, reference, operation, its reference."""

    codes = ("OTHER_OPERATION_IN_PROGRESS",)


class TaskCancelled(XapiFailure):
    """The task was cancelled. params: its reference."""

    codes = ("TASK_CANCELLED",)


class TaskTimeout(TaskCancelled):
    """We cancelled the task, as it was not finished in time."""

    def __str__(self) -> str:
        return f"{self.call} was not finished in time and was cancelled."


class VmBadPowerState(XapiFailure):
    """Not in this power state. params: VM, expected, actual (lower case)."""

    codes = ("VM_BAD_POWER_STATE",)


class VmShutdownTimeout(XapiFailure):
    """The guest did not shut down in time. params: VM, seconds."""

    codes = ("VM_SHUTDOWN_TIMEOUT", "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT")


class VmLacksFeature(XapiFailure):
    """The guest has no driver or agent for this. params: VM."""

    codes = (
        "VM_LACKS_FEATURE",
        "VM_LACKS_FEATURE_SHUTDOWN",
        "VM_MISSING_PV_DRIVERS",
        "VM_OLD_PV_DRIVERS",
    )


class HostNotEnoughFreeMemory(XapiFailure):
    """The VM does not fit. params: bytes needed, bytes available."""

    codes = ("HOST_NOT_ENOUGH_FREE_MEMORY",)


class NoHostsAvailable(XapiFailure):
    """No host of the pool can run the VM."""

    codes = ("NO_HOSTS_AVAILABLE", "HOST_DISABLED", "HOST_NOT_LIVE")


class DeviceAlreadyDetached(XapiFailure):
    """unplug of something unplugged. params: device."""

    codes = ("DEVICE_ALREADY_DETACHED", "DEVICE_NOT_ATTACHED")


class DeviceDetachRejected(XapiFailure):
    """The guest does not let go (yet). params: class, reference, text."""

    codes = ("DEVICE_DETACH_REJECTED", "DEVICE_DETACH_TIMEOUT")


class VdiInUse(XapiFailure):
    """The disk is plugged somewhere. params: VDI, operation."""

    codes = ("VDI_IN_USE",)


class SrFull(XapiFailure):
    """The SR has no room. params: as the SR's driver gave them."""

    codes = ("SR_BACKEND_FAILURE_44", "SR_FULL", "OUT_OF_SPACE")

    def __str__(self) -> str:
        detail = ", ".join(text for text in map(_cut, self.params) if text)
        return f"{self.call} failed: the SR has no room left ({detail or self.code})."


class SrBackendFailure(XapiFailure):
    """The SR's driver failed otherwise. params: status, text, text."""

    codes = ("SR_BACKEND_FAILURE",)


class MissingPlugin(XapiFailure):
    """dom0 has no such plugin. params: plugin."""

    codes = ("XENAPI_MISSING_PLUGIN",)


class PluginFailure(XapiFailure):
    """A plugin crashed or printed rubbish. params: status, stdout, stderr."""

    codes = ("XENAPI_PLUGIN_FAILURE", "XENAPI_PLUGIN_EXCEPTION")

    def __str__(self) -> str:
        # The last line of a traceback says what happened; the rest may hold
        # the request, and with it a token.
        lines = self.params[-1].strip().splitlines() if self.params else []
        status = self.params[0] if self.params else "no detail"
        said = _cut(lines[-1]) if lines else "it said nothing"
        return f"A dom0 plugin broke during {self.call} ({status}): {said}."


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    if len(flat) <= _SHOWN_CHARACTERS:
        return flat
    return flat[:_SHOWN_CHARACTERS] + "..."


def _listed(code: str, params: Iterable[str]) -> str:
    shown = ", ".join(text for text in map(_cut, params) if text)
    return f"{code} ({shown})" if shown else code


# Door 1: XAPI's code to our class. Nobody else looks at ErrorDescription[0].
_BY_CODE: dict[str, type[XapiFailure]] = {
    code: failure for failure in XapiFailure.__subclasses__() for code in failure.codes
}


def from_failure(
    description: Sequence[object], call: str, secrets: Iterable[str] = ()
) -> XapiFailure:
    """Make the exception for one ErrorDescription.

    :param description: code first, then its parameters; empty is tolerated
    :param call: the refused method's name
    :param secrets: texts that must not appear in the exception
    """
    words = [str(word) for word in description] or ["INTERNAL_ERROR"]
    code, params = words[0], words[1:]
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            params = [word.replace(secret, MASK) for word in params]
    failure = _BY_CODE.get(code)
    if failure is None and code.startswith("SR_BACKEND_FAILURE_"):
        failure = SrBackendFailure
    return (failure or XapiFailure)(code, params, call)


def reason(exc: BaseException) -> str:
    """Return in words why a connection failed, without address or numbers."""
    if isinstance(exc, ssl.SSLError) and exc.reason:
        return exc.reason.replace("_", " ").lower()
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__
