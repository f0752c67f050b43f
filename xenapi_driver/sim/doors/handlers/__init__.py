# SPDX-License-Identifier: Apache-2.0
"""What a host answers at paths of its own, one subject a module, found by being here.

A module registers functions with :func:`xenapi_driver.sim.doors.exchange.handler`.
"""

import importlib
import pkgutil


def load() -> tuple[str, ...]:
    """Import every module of this folder, which makes it register; return the names."""
    names = tuple(
        f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__)
    )
    for name in names:
        importlib.import_module(name)
    return names
