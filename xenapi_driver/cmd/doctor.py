# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver doctor``: is the host, and what nova.conf says of it, in order?"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence

from cliff.lister import Lister
from oslo_config import cfg

from xenapi_driver.cmd import examination, nova_configuration

COLUMNS = ("Check", "State", "Seen", "Remedy")


class Doctor(Lister):
    """Check the configuration of nova-compute and the host that it names.

    Nothing is changed. The exit status is 1 when a check failed, which means that
    nova-compute would not start.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        nova_configuration.add_options(parser)
        parser.set_defaults(fit_width=True)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[tuple[str, ...]]]:
        rows = self._rows(parsed_args)
        self.failed = any(row.state == examination.FAILED for row in rows)
        return COLUMNS, [
            (row.check, row.state, sentence(row.seen), sentence(row.remedy))
            for row in rows
        ]

    def _rows(self, parsed_args: argparse.Namespace) -> list[examination.Row]:
        try:
            conf = nova_configuration.read(
                parsed_args.config_file, parsed_args.config_dir
            )
        except (cfg.Error, OSError, UnicodeError) as exc:
            return examination.unreadable(
                nova_configuration.told(exc, parsed_args.config_file)
            )
        with _quiet("oslo_config"):  # its warnings of old names are rows, too
            return examination.Examination(conf).rows()

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print the rows; return 1 when one of them says failed."""
        return super().run(parsed_args) or int(self.failed)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger tell errors only."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def sentence(words: str) -> str:
    """Return words of an examination as a sentence; "" for none."""
    if not words:
        return ""
    # Names of options and URLs keep their case.
    plain = words.split()[0].isalpha()
    return f"{words[0].upper() if plain else words[0]}{words[1:].rstrip('.')}."
