# SPDX-License-Identifier: Apache-2.0
"""Undoable steps that the operations share."""
