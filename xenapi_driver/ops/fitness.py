# SPDX-License-Identifier: Apache-2.0
"""Options that cannot work, or not together: told before any host is asked.

Each rule looks at the options alone and yields a :class:`Problem` for what it finds.
nova-compute does not start with a fatal one; ``xenapi-driver doctor`` shows all.
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

LOG = logging.getLogger(__name__)


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

    :param conf: with Nova's own options ``flat_injected`` and
        ``default_ephemeral_format``
    """
    found = list(_bad_values(conf))
    if not found:
        for rule in (_url, _password, _verification, _independence, _handler):
            found += rule(conf)
    return sorted(found, key=lambda problem: not problem.blocks)


def _bad_values(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    for opt in options.ALL_OPTS:
        try:
            conf.xenserver[opt.dest]
        except ValueError as exc:
            # oslo.config names the option, the file and the value.
            told = " ".join(str(exc).split()).rstrip(".")
            yield Problem(told, f"correct [xenserver] {opt.dest}", blocks=True)


def _url(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    url = conf.xenserver.connection_url
    if not url:
        yield Problem(
            "[xenserver] connection_url is not set",
            "set it to https://ADDRESS of the host, or to unix://local in dom0",
            blocks=True,
        )
    elif "://" not in url:
        yield Problem(
            f"[xenserver] connection_url = {shown(url)} has no scheme",
            f"set it to https://{shown(url)}",
            blocks=True,
        )
    elif url != options.LOCAL_URL and not _of_a_host(url):
        yield Problem(
            f"[xenserver] connection_url = {shown(url)} is not understood",
            "give https://ADDRESS, http://ADDRESS or unix://local",
            blocks=True,
        )
    elif "@" in url:
        yield Problem(
            f"[xenserver] connection_url = {shown(url)} has a user name in it",
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


def shown(url: str) -> str:
    """Return the URL without the credentials that may be in it."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


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
    ways = [
        name for name in ("connection_fingerprints", "connection_ca_file") if opts[name]
    ]
    if url.startswith("http://"):
        yield Problem(
            f"[xenserver] connection_url = {shown(url)} sends the password and all "
            "calls readable for the network",
            f"set it to https://{_without_port(shown(url).removeprefix('http://'))}",
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
    if conf.default_ephemeral_format not in (None, "", "ext3"):
        yield Problem(
            "[xenserver] independent_compute and [DEFAULT] default_ephemeral_format "
            f"= {conf.default_ephemeral_format} contradict each other",
            "remove default_ephemeral_format or set it to ext3, which dom0 can make",
        )
    if opts.image_handler == "vdi_local_dev":
        yield Problem(
            "[xenserver] independent_compute and image_handler = vdi_local_dev "
            "contradict each other",
            "set image_handler = direct_vhd, which plugs no disk into the machine of "
            "nova-compute",
        )


def _handler(conf: cfg.ConfigOpts) -> Iterator[Problem]:
    handler = conf.xenserver.image_handler
    if handler != "direct_vhd":
        yield Problem(
            f"[xenserver] image_handler = {handler} is not there yet",
            "set it to direct_vhd, which this release has",
        )


def old_names(conf: cfg.ConfigOpts) -> list[Problem]:
    """Return what is written in an old way; oslo.config warns of it by itself.

    :param conf: its files are read again
    """
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
