# SPDX-License-Identifier: Apache-2.0
"""A Nova compute driver for XCP-ng and XenServer hosts, and what goes with it."""
