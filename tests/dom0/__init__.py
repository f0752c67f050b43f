# SPDX-License-Identifier: Apache-2.0
"""The dom0 plugins, started as xapi starts them, under every Python of a dom0."""
