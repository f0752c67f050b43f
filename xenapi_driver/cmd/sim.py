# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver sim``: start the embedded XAPI host."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cliff.command import Command

from xenapi_driver.cmd import plugin_tree
from xenapi_driver.sim import command

PROGRAM = "xenapi-driver sim"


class _AsGiven(argparse.ArgumentParser):
    """Hands every argument on: the embedded host has a parser of its own."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        return argparse.Namespace(argv=list(args or ()))

    def print_help(self, file: Any = None) -> None:
        command.main(["--help"], PROGRAM)


class Sim(Command):
    """Start the embedded XAPI host; --help names its options.

    Unless --plugins is given, its dom0 runs the scripts that were installed with
    the driver.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        return _AsGiven(prog=prog_name, description=self.get_description())

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        argv = parsed_args.argv
        if not any(word.split("=")[0] == "--plugins" for word in argv):
            argv = [*argv, "--plugins", str(plugin_tree.plugins())]
        return command.main(argv, PROGRAM) or 0
