# SPDX-License-Identifier: Apache-2.0
"""Frames put onto a guest's interface, and heard at another's, as they are.

By packet sockets that stay in the namespace where they were made, so that nothing is
started to send a frame.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import threading
from collections.abc import Sequence

from tests.dom0 import frames

_CLONE_NEWNET = 0x40000000
_EVERY_PROTOCOL = socket.htons(3)  # ETH_P_ALL
PATIENCE = 3.0  # seconds to wait for a frame that passes


def packet_socket(namespace: str, device: str = "eth0") -> socket.socket:
    """Return a socket that sends and hears all frames of a namespace's device."""
    made: list[socket.socket] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/var/run/netns/{namespace}") as there:
            if libc.setns(there.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _EVERY_PROTOCOL)
        sock.bind((device, 0))
        made.append(sock)

    # A thread of its own: only it is in the other namespace, and it ends.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


def send(sender: socket.socket, data: bytes) -> None:
    """Send a frame, of the least length that Ethernet has."""
    sender.send(data.ljust(60, b"\0"))


def heard(
    sender: socket.socket,
    receiver: socket.socket,
    sent: Sequence[frames.Frame],
    last: frames.Frame,
) -> set[str]:
    """Send frames and return the names of those that arrive.

    :param last: a frame that passes, sent until it arrives: those of one port keep
        their order, so all that comes at all is there by then
    """
    _drain(receiver)
    for frame in sent:
        send(sender, frame.data + frame.label)
    arrived: list[bytes] = []
    receiver.settimeout(0.1)
    for _ in range(int(PATIENCE / 0.1)):
        send(sender, last.data + last.label)
        with contextlib.suppress(TimeoutError):
            while not arrived or not last.came_as(arrived[-1]):
                arrived.append(_received(receiver))
            break
    else:
        raise AssertionError("not even the frame that ends the test arrived")
    return {
        frame.name for frame in sent if any(frame.came_as(data) for data in arrived)
    }


def arrives(
    sender: socket.socket, receiver: socket.socket, frame: frames.Frame, within: float
) -> bool:
    """Send a frame again and again; say whether it arrives within some seconds."""
    _drain(receiver)
    receiver.settimeout(0.05)
    for _ in range(max(1, int(within / 0.05))):
        send(sender, frame.data + frame.label)
        with contextlib.suppress(TimeoutError):
            while True:
                if frame.came_as(_received(receiver)):
                    return True
    return False


def _received(receiver: socket.socket) -> bytes:
    while True:
        data, address = receiver.recvfrom(65535)
        if address[2] != socket.PACKET_OUTGOING:
            return data


def _drain(receiver: socket.socket) -> None:
    receiver.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            receiver.recv(65535)
