# SPDX-License-Identifier: Apache-2.0
"""A plugin's functions inside our process, for many requests that it refuses.

What has no effect needs no process of its own; what has one is called through a host.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from types import ModuleType
from typing import Any

from xenapi_dom0 import failures, serve

from tests.dom0.scratch_host import PLUGINS


def load(plugin: str) -> ModuleType:
    """Return a plugin's file as a module."""
    name = f"dom0_plugin_{plugin}"
    loader = importlib.machinery.SourceFileLoader(name, str(PLUGINS / plugin))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def refusal(module: ModuleType, fn: str, request: dict[str, Any]) -> list[str]:
    """Return code and parameters with which a function refuses a request."""
    try:
        getattr(module, fn)(serve.Request(request))
    except failures.Failure as exc:
        return [exc.code, *exc.params]
    raise AssertionError(f"{fn} took it")
