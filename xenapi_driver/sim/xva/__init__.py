# SPDX-License-Identifier: Apache-2.0
"""VM archives (XVA): records and disks of VMs in one stream."""
