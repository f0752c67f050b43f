# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver dom0 build``: packages of the scripts for dom0."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterable, Sequence
from importlib import metadata

from cliff.lister import Lister

from xenapi_driver.cmd import plugin_tree
from xenapi_driver.dom0 import build, tree

COLUMNS = ("Package", "State", "File")


class Build(Lister):
    """Make the tarball, the RPM and the supplemental pack of the scripts for dom0.

    Their version is that of xenapi-driver. The RPM needs rpmbuild, the supplemental
    pack xorriso as well; the tarball needs nothing. The exit status is 1 when one of
    those asked for could not be made.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--output",
            type=pathlib.Path,
            default=pathlib.Path("."),
            metavar="DIR",
            help="where to write, made if need be (default: the current directory)",
        )
        parser.add_argument(
            "--only",
            choices=build.KINDS,
            action="append",
            help="this one only; may be repeated (default: all three)",
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[tuple[str, ...]]]:
        kinds = tuple(parsed_args.only or build.KINDS)
        try:
            folder = plugin_tree.find()
            made = build.build(
                folder, metadata.version("xenapi-driver"), parsed_args.output, kinds
            )
        except (plugin_tree.TreeMissing, tree.TreeUnfit) as exc:
            made = [build.Made(kind, None, str(exc)) for kind in kinds]
        except OSError as exc:
            told = f"{exc.filename or parsed_args.output}: {exc.strerror or exc}"
            made = [build.Made(kind, None, told) for kind in kinds]
        self.failed = any(one.path is None for one in made)
        return COLUMNS, [
            (one.kind, "made" if one.path else "failed", str(one.path or one.reason))
            for one in made
        ]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print the packages; return 1 when one could not be made."""
        return super().run(parsed_args) or int(self.failed)
