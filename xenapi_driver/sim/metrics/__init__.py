# SPDX-License-Identifier: Apache-2.0
"""What can be measured, and how a host archives it."""
