# SPDX-License-Identifier: Apache-2.0
"""``xenapi-driver doctor``: is the host, and what nova.conf says of it, in order?"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence

from cliff.lister import Lister
from nova.conf import compute, netconf
from oslo_config import cfg

from xenapi_driver import conf as options
from xenapi_driver.cmd import examination

COLUMNS = ("Check", "State", "Seen", "Remedy")


def configuration(
    files: list[str] | None = None, folders: list[str] | None = None
) -> cfg.ConfigOpts:
    """Return the options as nova-compute reads them.

    :param files: instead of Nova's own places, as with nova-compute's
        ``--config-file``; likewise ``folders``
    :raises cfg.Error: a file is missing or cannot be understood
    """
    conf = cfg.ConfigOpts()
    # Nova's own options that the driver looks at: host, compute_driver ...
    netconf.register_opts(conf)
    compute.register_opts(conf)
    options.register_opts(conf)
    given = [f"--config-file={file}" for file in files or ()]
    given += [f"--config-dir={folder}" for folder in folders or ()]
    conf(given, project="nova", prog="nova-compute")
    return conf


class Doctor(Lister):
    """Check the configuration of nova-compute and the host that it names.

    Nothing is changed. The exit status is 1 when a check failed, which means that
    nova-compute would not start.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        for name, metavar in (("--config-file", "FILE"), ("--config-dir", "DIR")):
            parser.add_argument(
                name,
                action="append",
                metavar=metavar,
                help="as for nova-compute, may be repeated (default: Nova's places)",
            )
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
            conf = configuration(parsed_args.config_file, parsed_args.config_dir)
        except (cfg.Error, OSError, UnicodeError) as exc:
            return examination.unreadable(told(exc, parsed_args.config_file))
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


def told(exc: Exception, files: list[str] | None) -> str:
    """Say in one line why the configuration cannot be read."""
    told = " ".join(str(exc).split())
    if isinstance(exc, cfg.Error):
        return told  # it names the file
    return f"{', '.join(files or ['one of the files'])} cannot be read ({told})"


def sentence(words: str) -> str:
    """Return words of an examination as a sentence; "" for none."""
    if not words:
        return ""
    # Names of options and URLs keep their case.
    plain = words.split()[0].isalpha()
    return f"{words[0].upper() if plain else words[0]}{words[1:].rstrip('.')}."
