# SPDX-License-Identifier: Apache-2.0
"""The operator's command ``xenapi-driver``, one module a subcommand."""
