# SPDX-License-Identifier: Apache-2.0
"""The configuration of nova-compute, as the commands for operators read it."""

from __future__ import annotations

import argparse

from nova.conf import compute, netconf
from oslo_config import cfg

from xenapi_driver import conf as options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which files count."""
    for name, metavar in (("--config-file", "FILE"), ("--config-dir", "DIR")):
        parser.add_argument(
            name,
            action="append",
            metavar=metavar,
            help="as for nova-compute, may be repeated (default: Nova's places)",
        )


def read(
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
    conf(arguments(files, folders), project="nova", prog="nova-compute")
    return conf


def arguments(files: list[str] | None, folders: list[str] | None) -> list[str]:
    """Return nova-compute's arguments that name these files and folders."""
    given = [f"--config-file={file}" for file in files or ()]
    return given + [f"--config-dir={folder}" for folder in folders or ()]


def told(exc: Exception, files: list[str] | None) -> str:
    """Say in one line why the configuration cannot be read."""
    told = " ".join(str(exc).split())
    if isinstance(exc, cfg.Error):
        return told  # it names the file
    return f"{', '.join(files or ['one of the files'])} cannot be read ({told})"
