# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver dom0 check``: what a host lacks, and how it gets it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

from cliff.lister import Lister

from xenapi_driver import exceptions
from xenapi_driver.cmd import (
    dom0_findings,
    dom0_install,
    nova_configuration,
    over_xapi,
    plugin_tree,
)
from xenapi_driver.cmd.doctor import COLUMNS, sentence
from xenapi_driver.cmd.examination import (
    FAILED,
    INSTALL,
    LOG_ADVICE,
    OK,
    Row,
    judged_plugins,
)
from xenapi_driver.dom0 import ssh, tree
from xenapi_driver.ops import startup
from xenapi_driver.xapi import errors, plugins

MODULE = "xenapi_dom0.inspection"


class Check(Lister):
    """Say what is in order in a host's dom0, what is missing, and what to do.

    Without a host's name it looks through XAPI, at the host of nova-compute's
    configuration, by a plugin; with one over ssh, also where there are no plugins yet.
    Nothing is changed. The exit status is 1 when a check failed: the plugins do not
    work there. What only some feature needs is a warning.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "host",
            nargs="?",
            metavar="[USER@]HOST",
            help="look over ssh (default user: root)",
        )
        dom0_install.add_ssh_options(parser)
        nova_configuration.add_options(parser)
        parser.set_defaults(fit_width=True)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[tuple[str, ...]]]:
        rows = self._rows(parsed_args)
        order = dom0_findings.CHECKS.index
        rows.sort(key=lambda row: order(row.check))
        self.failed = any(row.state == FAILED for row in rows)
        return COLUMNS, [
            (row.check, row.state, sentence(row.seen), sentence(row.remedy))
            for row in rows
        ]

    def _rows(self, parsed_args: argparse.Namespace) -> list[Row]:
        version = metadata.version("xenapi-driver")
        try:
            laid = tree.entries(plugin_tree.find(), version)
            if parsed_args.host:
                return over_ssh(parsed_args, laid, version)
            return through_xapi(parsed_args, laid, version)
        except ssh.NoPython as exc:
            waiting = dom0_findings.unseen("waits for: python")
            rest = [row for row in waiting if row.check != "python"]
            plugin = Row("plugins", "not checked", "waits for: python", "")
            return [Row("python", FAILED, exc.seen, exc.remedy), plugin, *rest]
        except (ssh.SshFailed, exceptions.DriverError, errors.XapiError) as exc:
            return _failed(exc.seen, exc.remedy or LOG_ADVICE)
        except (plugin_tree.TreeMissing, tree.TreeUnfit, ssh.BadTarget) as exc:
            return _failed(str(exc), "call the command in another way")
        except over_xapi.NoHostNamed as exc:
            advice = "name a host to look at over ssh, or a configuration"
            return _failed(str(exc), advice)

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print the rows; return 1 when one of them says failed."""
        return super().run(parsed_args) or int(self.failed)


def _failed(seen: str, remedy: str) -> list[Row]:
    failed = Row("plugins", FAILED, seen, remedy)
    return [failed, *dom0_findings.unseen("waits for: plugins")]


def through_xapi(
    parsed_args: argparse.Namespace, laid: Sequence[tree.Entry], version: str
) -> list[Row]:
    """Ask the plugin ``preparation`` of the configuration's host."""
    with over_xapi.session(parsed_args) as (conf, login):
        judged = judged_plugins(plugins.check_version(login))
        request: dict[str, Any] = {
            "paths": [entry.path for entry in laid],
            "host_uuid": login.call("host.get_uuid", login.host_ref),
        }
        try:
            _sr, request["sr_path"] = startup.find_storage(conf, login)
        except (exceptions.DriverError, errors.XapiError):
            request["sr_path"] = None  # the doctor's affair: the pool's default then
        facts = plugins.call(login, "preparation", "check", request)
    return [Row("plugins", *judged), *dom0_findings.rows(facts, laid, version)]


def over_ssh(
    parsed_args: argparse.Namespace, laid: Sequence[tree.Entry], version: str
) -> list[Row]:
    """Send what looks at the host along, as it may have no plugins."""
    where = ssh.target(parsed_args.host, dom0_install.ssh_options(parsed_args))
    request = json.dumps({"paths": [entry.path for entry in laid]})
    said = ssh.run(where, laid, MODULE, request.encode() + b"\n")
    try:
        facts = json.loads(said)
    except ValueError as exc:
        raise ssh.SshFailed(
            f"{where.host} answered {said[:200]!r} instead of facts",
            "see that no login script of root there prints anything",
        ) from exc
    return [_seen(facts, laid), *dom0_findings.rows(facts, laid, version)]


def _seen(facts: dom0_findings.Facts, laid: Sequence[tree.Entry]) -> Row:
    """Say of the plugins what can be seen without starting them."""
    names = set(facts["plugins"] or ())
    ours = tree.plugin_names(list(laid))
    there = [name for name in ours if name in names]
    if not there:
        return Row(
            "plugins",
            FAILED,
            "none of the plugins is on this host",
            f"install them with {INSTALL}",
        )
    return Row("plugins", OK, f"{len(there)} of {len(ours)} are on this host", "")
