# SPDX-License-Identifier: Apache-2.0
"""Imports every module of ``classes``, which makes them register what they do."""

import importlib
import pkgutil

from xenapi_driver.sim import classes

MODULES = tuple(
    importlib.import_module(f"{classes.__name__}.{found.name}")
    for found in pkgutil.iter_modules(classes.__path__)
)
