# SPDX-License-Identifier: Apache-2.0
"""Which release of xenapi-driver the plugins in this folder are of.

``xenapi-driver dom0 build`` and ``dom0 install`` write the file; plugins that were
copied from a source tree by hand have none.
"""
import os

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "RELEASE")


def package():
    """Return the package's version, "" where nobody wrote it down."""
    try:
        with open(FILE, encoding="ascii") as file:
            return file.read(100).strip()
    except (OSError, ValueError):
        return ""
