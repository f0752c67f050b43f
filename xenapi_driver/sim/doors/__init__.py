# SPDX-License-Identifier: Apache-2.0
"""The ways into a simulated host, and what answers behind each."""
