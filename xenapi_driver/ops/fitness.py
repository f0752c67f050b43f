# SPDX-License-Identifier: Apache-2.0
"""Options that cannot work, or not together: told before any host is asked.

Each rule looks at the options alone and yields a :class:`Problem` for what it finds.
nova-compute does not start with a fatal one; ``xenapi-driver doctor`` shows all.
:func:`small_reserve` needs a number of the host's, and is asked later.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Iterator

from oslo_config import cfg
from oslo_log import log as logging

from xenapi_driver import conf as options
from xenapi_driver import exceptions
from xenapi_driver.steps import file_system

LOG = logging.getLogger(__name__)

# Nova's own, of [DEFAULT], that we look at.
NOVAS_OPTIONS = (
    *("host", "flat_injected", "default_ephemeral_format"),
    "reserved_host_memory_mb",
)

# What the expression that a value has to match does not tell at a glance.
EXAMPLES = {
    "connection_fingerprints": ": 64 hexadecimal digits each, as openssl x509 prints "
    "them with -fingerprint -sha256",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with the options.

    :ivar seen: what, without a full stop
    :ivar remedy: what to do, likewise
    :ivar fatal: the driver does not start with it
    :ivar blocks: with it, no connection can even be tried
    """

    seen: str
    remedy: str
    fatal: bool = True
    blocks: bool = False

    def __str__(self) -> str:
        return f"{self.seen}: {self.remedy}."


def check_options(conf: cfg.ConfigOpts) -> None:
    """Warn of what is unwise, refuse what cannot work.

    :raises exceptions.UnfitConfiguration: the first that cannot
    """
    for problem in problems(conf):
        if problem.fatal:
            raise exceptions.UnfitConfiguration(problem.seen, problem.remedy)
        LOG.warning("%s", problem)


def problems(conf: cfg.ConfigOpts) -> list[Problem]:
    """Return all that is wrong with the options, what forbids a connection first.

    :param conf: with Nova's own :data:`NOVAS_OPTIONS`
    """
    found = list(_bad_values(conf))
    if not found:
        for rule in (_url, _password, _verification, _file_systems, _independence):
            found += rule(conf)
    return sorted(found, key=lambda problem: not problem.blocks)


def _bad_values(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    looked_at = [("xenserver", opt.dest) for opt in options.ALL_OPTS]
    looked_at += [("DEFAULT", name) for name in NOVAS_OPTIONS]
    for group, name in looked_at:
        try:
            getattr(conf if group == "DEFAULT" else conf[group], name)
        except ValueError as exc:
            told = " ".join(str(exc).split())
            # oslo.config says which option, from where, and then what is wrong.
            file = re.search(r"LocationInfo\(.*?detail='([^']+)'\)", told)
            where = f" in {file[1]}" if file else ""
            why = told.rpartition(" is not valid: ")[2].rstrip(".")
            yield Problem(
                f"[{group}] {name}{where} is not valid ({why})",
                f"correct it{EXAMPLES.get(name, '')}",
                blocks=True,
            )
        except cfg.Error:
            # Not in its words: what stands there may be part of a password.
            yield Problem(
                f"[{group}] {name} has a dollar sign before what is no option",
                "write $$ for each dollar sign that is meant itself",
                blocks=True,
            )


def _url(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    url = conf.xenserver.connection_url
    shown = options.shown_url(url or "")
    if not url:
        yield Problem(
            "[xenserver] connection_url is not set",
            "set it to https://ADDRESS of the host, or to unix://local in dom0",
            blocks=True,
        )
    elif "://" not in url:
        yield Problem(
            f"[xenserver] connection_url = {shown} has no scheme",
            # Half a scheme may be there: https:/ADDRESS.
            "set it to https://" + re.sub(r"^https?:?/+", "", shown),
            blocks=True,
        )
    elif url != options.LOCAL_URL and not _of_a_host(url):
        yield Problem(
            f"[xenserver] connection_url = {shown} is not understood",
            "give https://ADDRESS (an IPv6 address in brackets), http://ADDRESS or "
            "unix://local",
            blocks=True,
        )
    elif "@" in url:
        yield Problem(
            f"[xenserver] connection_url = {shown} has a user name in it",
            "use connection_username and connection_password, as that one is ignored",
            fatal=False,
        )


def _of_a_host(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0


def _without_port(address: str) -> str:
    return re.sub(r":\d+/?$", "", address)


def _password(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    if conf.xenserver.connection_password is None:
        yield Problem(
            "[xenserver] connection_password is not set",
            "set it to the password of connection_username",
            blocks=True,
        )


def _verification(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    opts = conf.xenserver
    url = opts.connection_url or ""
    shown = options.shown_url(url)
    ways = [
        name for name in ("connection_fingerprints", "connection_ca_file") if opts[name]
    ]
    if url.startswith("http://"):
        yield Problem(
            f"[xenserver] connection_url = {shown} sends the password and all "
            "calls readable for the network",
            f"set it to https://{_without_port(shown.removeprefix('http://'))}",
            fatal=False,
        )
    elif opts.connection_insecure:
        yield Problem(
            "[xenserver] connection_insecure is set, so the host's certificate is not "
            "verified" + (f" and {ways[0]} has no effect" if ways else ""),
            "remove it" + ("" if ways else " and set connection_fingerprints"),
            fatal=False,
        )
    elif len(ways) > 1:
        yield Problem(
            "[xenserver] connection_ca_file has no effect beside "
            "connection_fingerprints",
            "remove one of the two",
            fatal=False,
        )


def _file_systems(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    kind = conf.default_ephemeral_format
    if kind and kind not in file_system.KINDS:
        yield Problem(
            f"[DEFAULT] default_ephemeral_format = {kind} is no file system that the "
            "driver makes",
            f"set it to one of {', '.join(file_system.KINDS)}",
        )


def _independence(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    opts = conf.xenserver
    if not opts.independent_compute:
        return
    if opts.check_host:
        yield Problem(
            "[xenserver] independent_compute and check_host contradict each other",
            "set check_host = false, as nova-compute does not run on its host",
        )
    if conf.flat_injected:
        yield Problem(
            "[xenserver] independent_compute and [DEFAULT] flat_injected contradict "
            "each other",
            "set flat_injected = false, as files are written on the host itself only",
        )
    for name in ("image_handler", "image_upload_handler"):
        if opts[name] != "vdi_local_dev":
            continue
        yield Problem(
            f"[xenserver] independent_compute and {name} = vdi_local_dev contradict "
            "each other",
            f"set {name} = vdi_remote_stream, which plugs no disk into the machine of "
            "nova-compute",
        )


def small_reserve(apart_mb: int, reserved_mb: int) -> Problem | None:
    """Say that the reserve does not cover what is apart; None where it does.

    :param apart_mb: what Xen and VMs that are no servers take of the host's memory
    :param reserved_mb: ``[DEFAULT] reserved_host_memory_mb``
    """
    if reserved_mb >= apart_mb:
        return None
    return Problem(
        f"Xen and VMs that are no servers take {apart_mb} MiB of the host's memory, "
        f"and [DEFAULT] reserved_host_memory_mb = {reserved_mb} does not cover that",
        f"set it to {apart_mb} plus the overhead of servers, or some are scheduled "
        "here that do not fit",
        fatal=False,
    )


def old_names(conf: cfg.ConfigOpts) -> list[Problem]:
    """Return what is written in an old way; oslo.config warns of it by itself.

    :param conf: its files are read again
    """
    if any(_bad_values(conf)):
        return []  # first things first, and those cannot be read
    found = [
        Problem(
            f"[xenserver] {opt.dest} has no effect any more "
            f"({opt.deprecated_reason.rstrip('.')})",
            "remove it",
            fatal=False,
        )
        for opt in options.ignored_opts
        if conf.xenserver[opt.dest] is not None
    ]
    gone = {opt.dest for opt in options.ignored_opts}
    return found + [
        Problem(
            f"[{group}] {name} is an old name",
            f"write it as [xenserver] {dest}",
            fatal=False,
        )
        for group, name, dest in options.old_spellings(conf)
        if dest not in gone
    ]
