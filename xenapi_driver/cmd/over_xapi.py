# SPDX-License-Identifier: Apache-2.0
"""What the commands for dom0 ask a host's XAPI, as the configuration names it."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator

from oslo_config import cfg

from xenapi_driver.cmd import nova_configuration
from xenapi_driver.ops import startup
from xenapi_driver.xapi import errors, host, plugins
from xenapi_driver.xapi.session import Session

NOT_CHECKED = "not checked"


class NoHostNamed(Exception):
    """The configuration cannot be read, or names no host; the message says which."""


@contextlib.contextmanager
def session(
    parsed_args: argparse.Namespace,
) -> Iterator[tuple[cfg.ConfigOpts, Session]]:
    """Log in to the host of the configuration for the length of a ``with``.

    :raises NoHostNamed: there is none
    :raises errors.XapiError: it was not reached, or refused
    """
    try:
        conf = nova_configuration.read(parsed_args.config_file, parsed_args.config_dir)
    except (cfg.Error, OSError, UnicodeError) as exc:
        raise NoHostNamed(
            nova_configuration.told(exc, parsed_args.config_file)
        ) from exc
    if not conf.xenserver.connection_url:
        raise NoHostNamed("no configuration that was read has a connection_url")
    opened = startup.open_session(conf, conf.host)
    try:
        yield conf, opened
    finally:
        opened.logout()


def version_of(
    parsed_args: argparse.Namespace, uuid: str, package: str
) -> tuple[str, str]:
    """Say what the plugins of a host answer over XAPI: state, remark.

    :param uuid: of the host, which need not be the one that the configuration names
    :param package: the version that they ought to be of
    """
    try:
        with session(parsed_args) as (_conf, login):
            ref = login.call("host.get_by_uuid", uuid)
            said = host.call_plugin(
                login, ref, plugins.VERSION_PLUGIN, "get_version", {"request": "{}"}
            )
            answer = json.loads(said)
            found = f"version {answer['version']}, package {answer['package']}"
            return ("ok" if answer["package"] == package else "failed"), found
    except NoHostNamed as exc:
        return NOT_CHECKED, str(exc)
    except errors.UuidInvalid:
        return NOT_CHECKED, "the pool of the configuration has no such host"
    except errors.XapiError as exc:
        return "failed", f"{exc.seen}; {exc.remedy}".rstrip("; ")
    except (ValueError, KeyError, TypeError):
        return "failed", "the plugins answer in a way that this release does not know"
