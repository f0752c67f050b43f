# SPDX-License-Identifier: Apache-2.0
"""What a pool holds when it starts."""
