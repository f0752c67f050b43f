# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver dom0 prepare``: put a host's dom0 in order."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from cliff.lister import Lister

from xenapi_driver import exceptions
from xenapi_driver.cmd import nova_configuration, over_xapi
from xenapi_driver.cmd.doctor import sentence
from xenapi_driver.cmd.examination import LOG_ADVICE
from xenapi_driver.ops import startup
from xenapi_driver.xapi import errors, plugins

COLUMNS = ("Part", "State", "Remark")
# As the plugin names them; firewall needs an address as well.
PARTS = ("images", "kernels", "ovsdb", "firewall", "bridges")
DONE = ("done", "unchanged")


class Prepare(Lister):
    """Make what the driver needs in dom0 of its host, beside the plugins.

    /images and the folder of guests' kernels, on the SR; Open vSwitch listening to
    Neutron's agent, and the firewall open for it; Linux bridges that may be loaded.
    What is in order is left alone, and nothing of somebody else's is removed, so that
    running it again is harmless. The plugins have to be installed. What it cannot do,
    such as keys for ssh, ``dom0 check`` names.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--only",
            choices=PARTS,
            action="append",
            help="this part only; may be repeated (default: all, the firewall with "
            "--from)",
        )
        parser.add_argument(
            "--from",
            dest="source",
            type=ipaddress.ip_address,
            metavar="ADDRESS",
            help="from where Neutron's agent reaches Open vSwitch",
        )
        nova_configuration.add_options(parser)
        parser.set_defaults(fit_width=True)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[tuple[str, ...]]]:
        rows = self._rows(parsed_args)
        self.failed = any(state not in DONE for _part, state, _remark in rows)
        return COLUMNS, [
            (part, state, sentence(remark)) for part, state, remark in rows
        ]

    def _rows(self, parsed_args: argparse.Namespace) -> list[tuple[str, str, str]]:
        parts = parsed_args.only or [
            part for part in PARTS if part != "firewall" or parsed_args.source
        ]
        request: dict[str, Any] = {"parts": list(dict.fromkeys(parts))}
        if parsed_args.source:
            request["source"] = str(parsed_args.source)
        try:
            with over_xapi.session(parsed_args) as (conf, login):
                plugins.check_version(login)
                request["host_uuid"] = login.call("host.get_uuid", login.host_ref)
                _sr, request["sr_path"] = startup.find_storage(conf, login)
                rows = plugins.call(login, "preparation", "prepare", request)
        except over_xapi.NoHostNamed as exc:
            return [("all", "failed", str(exc))]
        except (exceptions.DriverError, errors.XapiError) as exc:
            return [("all", "failed", f"{exc.seen}: {exc.remedy or LOG_ADVICE}")]
        return [(part, state, remark) for part, state, remark in rows]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print what was done; return 1 when a part is not in order now."""
        return super().run(parsed_args) or int(self.failed)
