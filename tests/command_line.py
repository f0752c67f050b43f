# SPDX-License-Identifier: Apache-2.0
"""Runs a subcommand of ``xenapi-driver`` as the command line does, in this process."""

from __future__ import annotations

import io
import json

from xenapi_driver.cmd import app


def run(kind: type, *argv: object) -> tuple[int, list[dict[str, str]]]:
    """Run a command that lists; return its exit status and its rows."""
    application = app.XenapiDriver()
    application.stdout = io.StringIO()
    command = kind(application, None)
    words = ["-f", "json", *map(str, argv)]
    parsed = command.get_parser("xenapi-driver").parse_args(words)
    return command.run(parsed), json.loads(application.stdout.getvalue())
