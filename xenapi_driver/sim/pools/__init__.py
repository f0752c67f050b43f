# SPDX-License-Identifier: Apache-2.0
"""Several hosts and pools: who leads, who joins, who goes where."""
