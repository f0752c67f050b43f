# SPDX-License-Identifier: Apache-2.0
"""What VMs do: their states, their guests, their copies."""
