# SPDX-License-Identifier: Apache-2.0
"""The scripts for dom0 as packages, and on a host: build, install, check."""
