# SPDX-License-Identifier: Apache-2.0
"""Measurements: what the operations cost, from runs on the embedded host."""
