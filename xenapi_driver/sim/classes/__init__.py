# SPDX-License-Identifier: Apache-2.0
"""One module an XAPI class; ``catalogue`` finds them by their being here."""
