# SPDX-License-Identifier: Apache-2.0
"""SRs and disks: files, chains, streams, the garbage collector."""
