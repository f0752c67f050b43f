# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver dom0 install``: lay the scripts over hosts, from here."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from importlib import metadata

from cliff.lister import Lister

from xenapi_driver.cmd import nova_configuration, over_xapi, plugin_tree
from xenapi_driver.dom0 import install, ssh, tree

COLUMNS = ("Host", "What", "State", "Remark")

FAILED = "failed"


class Install(Lister):
    """Install or update the scripts in dom0 of hosts, over ssh.

    The plugins change in one step: a host has the old ones or the new ones, whenever
    this is killed. Plugins of others, and what was changed in configuration files,
    stay. Running it again is harmless. Nothing has to be restarted. The exit status
    is 1 when one host was not served.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "hosts",
            nargs="+",
            metavar="[USER@]HOST",
            help="dom0 of a host, as for ssh (default user: root)",
        )
        add_ssh_options(parser)
        nova_configuration.add_options(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be done, only"
        )
        parser.set_defaults(fit_width=True)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[tuple[str, ...]]]:
        rows: list[tuple[str, str, str, str]] = []
        for given in parsed_args.hosts:
            try:
                where = ssh.target(given, ssh_options(parsed_args))
                found = self._serve(where, parsed_args)
            except ssh.SshFailed as exc:
                found = [("plugins", FAILED, f"{exc.seen}; {exc.remedy}")]
            except (ssh.BadTarget, plugin_tree.TreeMissing, tree.TreeUnfit) as exc:
                found = [("plugins", FAILED, str(exc))]
            rows += [(given, *row) for row in found]
        self.failed = any(row[2] == FAILED for row in rows)
        return COLUMNS, rows

    def _serve(
        self, where: ssh.Target, parsed_args: argparse.Namespace
    ) -> list[tuple[str, str, str]]:
        version = metadata.version("xenapi-driver")
        laid = tree.entries(plugin_tree.find(), version)
        report = install.install(where, laid, dry_run=parsed_args.dry_run)
        rows = install.summary(report)
        if report.package and report.package != version:
            rows.append((
                "RPM",
                "warning",
                f"the host has the plugins as RPM {report.package}, which would bring "
                "these back: update it, or remove it with rpm -e --justdb",
            ))  # fmt: skip
        if parsed_args.dry_run:
            return [(what, _would(state), remark) for what, state, remark in rows]
        rows.append(("answer over ssh", *_judged(report.answer, version)))
        state, remark = over_xapi.version_of(parsed_args, report.uuid, version)
        return [*rows, ("answer over XAPI", state, remark)]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print what was done; return 1 when something failed."""
        return super().run(parsed_args) or int(self.failed)


def add_ssh_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how ssh reaches a host."""
    parser.add_argument(
        *("-i", "--identity"), metavar="FILE", help="private key, as for ssh"
    )
    parser.add_argument(
        *("-p", "--port"), type=_port, metavar="N", help="port, as for ssh"
    )
    parser.add_argument(
        *("-o", "--ssh-option"),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of ssh; may be repeated",
    )


def ssh_options(parsed_args: argparse.Namespace) -> list[str]:
    """Return what the operator gave as words for ssh."""
    words = []
    for option in parsed_args.ssh_option:
        words += ["-o", option]
    if parsed_args.port:
        words += ["-p", str(parsed_args.port)]
    if parsed_args.identity:
        words += ["-i", parsed_args.identity]
    return words


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _would(state: str) -> str:
    return state if state in (install.UNCHANGED, install.KEPT) else f"would be {state}"


def _judged(answer: object, version: str) -> tuple[str, str]:
    """Return state and remark for what the plugins said of themselves."""
    if not isinstance(answer, dict):
        return FAILED, "the plugins do not answer; see /var/log/messages there"
    package = answer.get("package")
    told = (
        f"version {answer.get('version')}, package {package}, under Python "
        f"{answer.get('python')}"
    )
    return ("ok" if package == version else FAILED), told
