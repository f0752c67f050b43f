# SPDX-License-Identifier: Apache-2.0
"""Makes ``nova.virt.xenapi`` importable where Nova lives in another directory.

Nova imports its driver from below ``nova.virt``, which is a regular package: a
``nova/virt/xenapi`` in another directory of ``sys.path`` is not seen. Our wheel
carries that file, which is enough when both are installed in one directory. For
the other layouts (Nova from the distribution, the driver by pip; a ``--target``
directory) nova-compute itself opens the door: before it loads the driver it
calls ``os_vif.initialize()``, which imports every entry point of the group
``os_vif``. Ours names this module, whose import puts a finder for that one name
last on ``sys.meta_path``. It is therefore asked only where nothing else was
found.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import pathlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from os_vif import objects, plugin
from os_vif.objects.instance_info import InstanceInfo
from os_vif.objects.vif import VIFBase

MODULE = "nova.virt.xenapi"

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FILE = pathlib.Path("nova", "virt", "xenapi", "__init__.py")
# Beside the package when installed, below shim/ in a source tree.
_CANDIDATES = (_ROOT / _FILE, _ROOT / "shim" / _FILE)


class DriverFinder(importlib.abc.MetaPathFinder):
    """Finds the one module that Nova imports, and nothing else."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return the spec of our module, None for every other name."""
        if fullname != MODULE:
            return None
        for file in _CANDIDATES:
            if file.is_file():
                return importlib.util.spec_from_file_location(MODULE, file)
        return None


def install() -> None:
    """Put the finder last on ``sys.meta_path``, once."""
    if not any(isinstance(finder, DriverFinder) for finder in sys.meta_path):
        sys.meta_path.append(DriverFinder())


install()


class DoorPlugin(plugin.PluginBase):
    """What os_vif gets for importing this module: a plugin that serves no VIF.

    Our VIFs are plugged through the host's XenAPI, so that no VIF ever names
    this plugin.
    """

    def describe(self) -> objects.host_info.HostPluginInfo:
        """Return that no VIF type is supported."""
        return objects.host_info.HostPluginInfo(
            plugin_name="xenapi_driver", vif_info=[]
        )

    def plug(self, vif: VIFBase, instance_info: InstanceInfo) -> None:
        """Refuse: no VIF is ours."""
        raise NotImplementedError("xenapi_driver plugs no VIF through os-vif.")

    def unplug(self, vif: VIFBase, instance_info: InstanceInfo) -> None:
        """Refuse: no VIF is ours."""
        raise NotImplementedError("xenapi_driver unplugs no VIF through os-vif.")
