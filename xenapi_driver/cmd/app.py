# SPDX-License-Identifier: Apache-2.0
"""The command ``xenapi-driver``; its subcommands are entry points."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import metadata

from cliff.app import App
from cliff.commandmanager import CommandManager


class XenapiDriver(App):
    """The application: options that every subcommand shares, and the list."""

    def __init__(self) -> None:
        super().__init__(
            description="What an operator of XCP-ng and XenServer hosts under "
            "OpenStack Nova needs beside nova-compute.",
            version=metadata.version("xenapi-driver"),
            command_manager=CommandManager("xenapi_driver.commands"),
            deferred_help=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; without one, print the list of them."""
    # Nova's dependencies import it, and an operator can do nothing about that.
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    given = list(sys.argv[1:] if argv is None else argv)
    return XenapiDriver().run(given or ["help"])
