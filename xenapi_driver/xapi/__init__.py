# SPDX-License-Identifier: Apache-2.0
"""The client of a XAPI host; knows nothing of Nova or of configuration files."""
