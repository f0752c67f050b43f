# SPDX-License-Identifier: Apache-2.0
"""XenAPI clients that nobody here wrote, unmodified, on the embedded host."""
