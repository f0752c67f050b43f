# SPDX-License-Identifier: Apache-2.0
"""Where the scripts for dom0 lie on this machine."""

from __future__ import annotations

import pathlib
import site
import sys
import sysconfig

PLUGIN_FOLDER = pathlib.PurePath("etc", "xapi.d", "plugins")

_INSTALLED = pathlib.PurePath("share", "xenapi-driver", "dom0_plugins")
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class TreeMissing(Exception):
    """Neither the installation nor a source tree has the scripts."""


def candidates() -> list[pathlib.Path]:
    """Return the folders that are looked at, the likeliest first.

    A source tree comes first, so that an editable installation never takes
    scripts that an earlier wheel left below ``sys.prefix``. A distribution's own
    Python has pip install below ``/usr/local`` and its packages below ``/usr``.
    """
    return [
        _ROOT / "dom0_plugins",
        pathlib.Path(sysconfig.get_path("data")) / _INSTALLED,
        pathlib.Path(sys.prefix) / _INSTALLED,
        _ROOT / _INSTALLED,  # pip install --target
        pathlib.Path(site.getuserbase()) / _INSTALLED,
    ]


def find() -> pathlib.Path:
    """Return the folder whose content is laid over a host's root directory.

    :raises TreeMissing: it is nowhere, which a whole installation never shows
    """
    looked_at = candidates()
    for folder in looked_at:
        if (folder / PLUGIN_FOLDER).is_dir():
            return folder
    places = ", ".join(str(folder) for folder in looked_at)
    raise TreeMissing(f"The scripts for dom0 are in none of: {places}")


def plugins() -> pathlib.Path:
    """Return the folder with the plugins themselves; raises as ``find`` does."""
    return find() / PLUGIN_FOLDER
