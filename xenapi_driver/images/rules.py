# SPDX-License-Identifier: Apache-2.0
"""What an operator says of moving images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TransferRules:
    """How images may be moved: attempts, and how the image service is trusted.

    :ivar attempts: in all, 1 or more
    :ivar ca_file: path **in dom0** of the CA that signed the service, or None
    :ivar work_dir: of nova-compute's machine, for images that have to be put down
        there; None for the system's folder for such files
    :ivar signatures: Nova's options ask for images' signatures to be verified
    :ivar compression_level: of what is stored, 0 to 9, or None for gzip's own
    """

    attempts: int = 3
    insecure: bool = False
    ca_file: str | None = None
    compression_level: int | None = None
    work_dir: str | None = None
    signatures: bool = False
