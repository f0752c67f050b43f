# SPDX-License-Identifier: Apache-2.0
"""Disks of an SR against a model of plain bytes, the collector working beside."""

import hashlib
import random
import threading

import pytest

from tests.sim import vhd_judges
from tests.sim.clients import NULL, Refused, XmlClient, vdi_record

MIB = 1 << 20
LIMIT = 8


class Player:
    """Does what clients and guests do to disks, and knows what they must hold."""

    def __init__(self, sim, seed, may_grow):
        self.client = XmlClient(sim.handle)
        self.sr = self.client.call("SR.get_by_uuid", sim.default_sr_uuid)
        self.store = sim.world.stores[self.sr]
        self.random = random.Random(seed)
        self.content = {}
        self.moves = [
            self.create,
            self.write,
            self.write,
            self.write,
            self.clone,
            self.snapshot,
            self.destroy,
            self.copy,
            self.copy_into,
            self.scan,
            self.check,
        ]
        if may_grow:
            self.moves.append(self.resize)

    def play(self, moves):
        for _ in range(moves):
            if not self.content:
                self.create()
            try:
                self.random.choice(self.moves)()
            except Refused as refused:
                allowed = ("SR_BACKEND_FAILURE_38", "VDI_TOO_SMALL")
                assert refused.code in allowed, refused

    def one(self):
        return self.random.choice(list(self.content))

    def place(self, disk):
        return self.client.call("VDI.get_location", disk)

    def size(self, disk):
        return int(self.client.call("VDI.get_virtual_size", disk))

    # moves

    def create(self):
        if len(self.content) < LIMIT:
            size = self.random.choice([2, 4, 5, 8]) * MIB
            raw = {"sm_config": {"type": "raw"}} if self.random.random() < 0.1 else {}
            record = vdi_record(self.sr, virtual_size=str(size), **raw)
            disk = self.client.call("VDI.create", record)
            self.content[disk] = bytearray(self.size(disk))

    def write(self):
        disk = self.one()
        content = self.content[disk]
        offset = self.random.randrange(len(content))
        length = self.random.choice([1, 7, 512, 5000, 70000, 3 * MIB])
        data = bytes([self.random.randrange(256)]) * min(length, len(content) - offset)
        self.store.write(self.place(disk), offset, data)
        content[offset : offset + len(data)] = data

    def _derive(self, method, *params):
        if len(self.content) < LIMIT:
            source = self.one()
            new = self.client.call(method, source, *params)
            self.content[new] = self.content[source][:]

    def clone(self):
        self._derive("VDI.clone")

    def snapshot(self):
        self._derive("VDI.snapshot")

    def copy(self):
        self._derive("VDI.copy", self.sr)

    def copy_into(self):
        source, target = self.one(), self.one()
        if source != target:
            self.client.call("VDI.copy", source, NULL, NULL, target)
            size = len(self.content[target])
            self.content[target] = self.content[source].ljust(size, b"\0")

    def resize(self):
        disk = self.one()
        wanted = len(self.content[disk]) + self.random.choice([1, MIB, 3 * MIB])
        if wanted < 16 * MIB:
            self.client.call("VDI.resize", disk, str(wanted))
            self.content[disk] = self.content[disk].ljust(self.size(disk), b"\0")

    def destroy(self):
        disk = self.one()
        self.client.call("VDI.destroy", disk)
        del self.content[disk]

    def scan(self):
        self.client.call("SR.scan", self.sr)

    def check(self):
        disk = self.one()
        self.same(disk)

    # looking

    def same(self, disk):
        content = self.content[disk]
        assert self.store.read(self.place(disk), 0, len(content)) == content

    def judge(self, others_agree):
        """Compare all disks, their records and, if that is fair, other readers."""
        for disk, content in self.content.items():
            self.same(disk)
            with self.store.open(self.place(disk)) as chain:
                links = [link.path for link in chain.links]
            parent = self.client.call("VDI.get_sm_config", disk).get("vhd-parent")
            assert parent == (links[1].stem if len(links) > 1 else None)
            if others_agree and all(link.suffix == ".vhd" for link in links):
                expected = hashlib.sha256(content).hexdigest()
                assert vhd_judges.libvhdi_digest(*links) == expected


def settle(sim, player):
    player.scan()
    assert sim.settle_storage()
    known = {player.place(ref) for ref in player.client.call("SR.get_VDIs", player.sr)}
    assert known == {path.stem for path in sim.sr_path.iterdir()}


@pytest.mark.parametrize("seed", range(3))
def test_disks_hold_what_was_written(sim, seed):
    # libvhdi takes the size of a disk that has grown for the one it was made with.
    may_grow = seed == 2
    player = Player(sim, seed, may_grow)
    player.play(200)
    settle(sim, player)
    player.judge(others_agree=not may_grow)


def test_disks_hold_what_was_written_by_several_at_once(sim):
    players = [Player(sim, 10 + number, True) for number in range(3)]
    failures = []

    def play(player):
        try:
            player.play(80)
        except BaseException as error:  # seen by the main thread
            failures.append(error)

    threads = [threading.Thread(target=play, args=(player,)) for player in players]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    settle(sim, players[0])
    for player in players:
        player.judge(others_agree=False)
