# SPDX-License-Identifier: Apache-2.0
"""Glance in and out of a storage repository: one module a handler, and the cache."""
