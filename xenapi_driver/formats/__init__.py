# SPDX-License-Identifier: Apache-2.0
"""Disk formats as pure bytes: nothing here knows of Nova, the host or the network."""
