# SPDX-License-Identifier: Apache-2.0
"""The name under which Nova imports the driver.

``compute_driver = xenapi.XenAPIDriver`` makes Nova import exactly this module;
everything else is in the package ``xenapi_driver``.
"""

from xenapi_driver.driver import XenAPIDriver

__all__ = ["XenAPIDriver"]
