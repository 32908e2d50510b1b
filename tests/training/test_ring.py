"""Invariants of the ring over long random histories; checkpoints are a dict of sizes, without a disk."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from biggan.errors import CheckpointError
from biggan.runs.ring import MAX_PINNED, PINNED, PinnedCheckpoints, Ring, pin_before, read_pins, write_pins

HISTORIES = 150
SAVES = 250


@dataclass
class History:
    """Simulated run: saves of varying interval and size, alarms, rollbacks."""

    ring: Ring
    chance: random.Random
    cadence: int
    sizes: dict[int, int] = field(default_factory=dict)
    pinned: list[int] = field(default_factory=list)
    good: int | None = None
    written: list[int] = field(default_factory=list)
    """Steps of the current trajectory, removed or not."""
    reach: int = -1
    """The oldest step at the start of the current trajectory: the horizon can be covered from there on."""

    since: int = 0
    """Number of `written` steps before the last rollback."""

    def save(self, size=1):
        """Free space, write and thin as `Writer` does; return the sizes before and after freeing space."""
        incoming = size if self.ring.max_bytes else 0
        before = dict(self.sizes)
        self.remove(self.ring.steps_to_remove(self.sizes, self.pinned, incoming, self.good))
        remaining = dict(self.sizes)
        offset = self.chance.choice([0, 0, self.chance.randrange(self.cadence)])  # a stop between two saves
        step = max(self.sizes, default=0) + self.cadence - offset
        self.sizes[step] = size
        self.written.append(step)
        self.reach = step if self.reach < 0 else self.reach
        self.remove(self.ring.steps_to_remove(self.sizes, self.pinned, 0, self.good))
        return before, remaining

    def remove(self, steps):
        for step in steps:
            del self.sizes[step]
        self.pinned = [s for s in self.pinned if s in self.sizes]

    def alarm(self, roll_back):
        steps = sorted(self.sizes)
        self.good = self.chance.choice(steps[-6:])
        before = [s for s in steps if s <= self.good]
        self.pinned = sorted({*self.pinned, before[0], *before[1 - MAX_PINNED :]})
        if roll_back:
            self.remove([s for s in steps if s > self.good])
            self.written = [s for s in self.written if s <= self.good]
            self.reach, self.since = steps[0], len(self.written)

    @property
    def now(self):
        return max(self.sizes)


def histories(limited, disturbed=True):
    for seed in range(HISTORIES):
        chance = random.Random(seed)
        cadence = chance.choice([1, 10, 1000])
        horizon = cadence * chance.choice([0, 1, 7, 20, 100])
        every = cadence * chance.choice([0, 0, 10, 25]) if disturbed else 0
        ring = Ring(chance.choice([1, 2, 3, 8]), horizon, every, 1000 * chance.randrange(3, 25) if limited else 0)
        yield History(ring, chance, cadence)


def disturb(history):
    """Sometimes raise an alarm, roll back, or restart with another interval."""
    event = history.chance.random()
    if event < 0.04:
        history.alarm(roll_back=event < 0.02)
    elif event < 0.06:
        history.cadence = history.chance.choice([1, 10, 700, 1000])


def test_the_horizon_is_covered_and_pins_are_kept():
    """This holds after every save: a checkpoint that is kept now must have been kept before."""
    covered = 0
    for history in histories(limited=False):
        for _ in range(SAVES):
            history.save()
            half = history.ring.horizon_steps / 2
            if history.now - history.reach >= half:
                covered += 1
                assert history.now - min(history.sizes) >= half
            assert {*history.pinned} <= {*history.sizes}
            newest = history.written[history.since :][-history.ring.keep_last :]
            assert {*newest} <= {*history.sizes}
            permanent = history.ring.keep_every_steps
            assert not permanent or all(s in history.sizes for s in history.written if s % permanent == 0)
            assert history.ring.steps_to_remove(history.sizes, history.pinned, 0, history.good) == []
            disturb(history)
    assert covered > HISTORIES * SAVES / 3


def test_gaps_are_at_most_as_long_as_their_age():
    """For each step of the last half horizon there is a checkpoint at most twice as old, or none was removed there."""
    thinned = 0
    for history in histories(limited=False):
        for _ in range(SAVES):
            history.save()
            kept = sorted(history.sizes)
            for older, newer in pairwise(kept):
                age = history.now - newer
                removed = [s for s in history.written if older < s < newer]
                if removed and 2 * age < history.ring.horizon_steps:
                    thinned += 1
                    assert newer - older <= age
    assert thinned > HISTORIES * SAVES


@pytest.mark.parametrize("keep_last", [1, 2, 3, 8, 30])
@pytest.mark.parametrize("horizon", [0, 0.5, 1, 2, 7, 20, 64, 500])
def test_the_number_of_checkpoints_is_bounded_by_max_kept(keep_last, horizon):
    ring = Ring(keep_last, int(horizon * 10), 0, 0)
    sizes, highest = {}, 0
    for step in range(10, 16_000, 10):
        sizes[step] = 1
        for removed in ring.steps_to_remove(sizes, ()):
            del sizes[removed]
        highest = max(highest, len(sizes))
        assert step - min(sizes) <= max(1.5 * ring.horizon_steps, 10 * keep_last)
    assert keep_last <= highest <= ring.max_kept(10) <= highest + 4


def test_the_limit_holds_and_pins_are_removed_last():
    """Sizes vary. Pins are removed only if nothing else is left, and the good checkpoint never."""
    tight = unpinned = exceeded = 0
    for history in histories(limited=True):
        for _ in range(SAVES):
            pinned, size = set(history.pinned), history.chance.randrange(500, 1500)
            before, remaining = history.save(size)
            limit = history.ring.max_bytes
            newest = {max(before, default=None)}
            protected = newest | {history.good}
            assert {s for s in protected if s in before} <= {*remaining}
            tight += remaining != before
            if sum(remaining.values()) + size > limit:
                exceeded += 1
                assert {*remaining} <= protected
            for removed in pinned - {*remaining}:
                unpinned += 1
                assert {*remaining} <= newest | pinned
                needed = {s for s in (pinned | protected) & {*before} if s >= removed or s in protected}
                assert sum(before[s] for s in needed) + size > limit
            disturb(history)
    assert min(tight, unpinned, exceeded) > 100


def test_with_a_limit_the_horizon_is_covered_if_one_more_checkpoint_fits():
    spread = 0
    for history in histories(limited=True):
        half = history.ring.horizon_steps / 2
        for _ in range(SAVES):
            pinned, size = set(history.pinned), history.chance.randrange(500, 1500)
            before, remaining = history.save(size)
            far = [s for s in before if max(before) - s >= half and s not in pinned]
            if far and max(remaining) - min(remaining) < half:
                held = sum(b for s, b in before.items() if s in pinned or s == max(before))
                assert held + size + before[max(far)] > history.ring.max_bytes
            spread += len(far) > 0
            disturb(history)
    assert spread > HISTORIES * SAVES / 3


@pytest.mark.parametrize("room", [4, 5, 8, 30])
@pytest.mark.parametrize("horizon", [7, 20, 64, 200])
def test_with_room_for_four_the_oldest_checkpoint_stays_near_the_horizon(room, horizon):
    """The first checkpoint of the run is eventually replaced."""
    ring, sizes = Ring(3, horizon, 0, room), {}
    for step in range(1, 6 * horizon):
        for incoming in (1, 0):
            for removed in ring.steps_to_remove(sizes, (), incoming):
                del sizes[removed]
            if incoming:
                assert len(sizes) < room
                sizes[step] = 1
        if step > 3 * horizon:
            assert 0.5 * horizon <= step - min(sizes) <= 1.5 * horizon + 2


def test_permanent_checkpoints_are_removed_before_the_ring_and_pins_last():
    """Checkpoints 10 and 20 are permanent and 5 is pinned: a limit of n bytes leaves n of them, always the newest."""

    def remaining(limit, good=5):
        sizes = dict.fromkeys([5, 10, 20, 37, 39, 40], 1)
        removed = Ring(1, 4, 10, limit).steps_to_remove(sizes, [5], 0, good)
        return [s for s in sizes if s not in removed]

    assert remaining(6) == [5, 10, 20, 37, 39, 40]
    assert remaining(5) == [5, 20, 37, 39, 40]
    assert remaining(4) == [5, 37, 39, 40]
    assert remaining(2) == [5, 40]
    assert remaining(1) == [5, 40]
    assert remaining(2, good=10) == [10, 40]


def folders(root, *steps):
    for step in steps:
        (root / f"step_{step:08d}").mkdir()


def test_pin_before_pins_the_newest_three_and_the_oldest_checkpoint(tmp_path):
    folders(tmp_path, 10, 20, 30, 40, 50, 60)
    pins = pin_before(tmp_path, 58, 55, "spread fell")
    assert pins == read_pins(tmp_path)
    assert pins.good == 50
    assert pins.reasons == dict.fromkeys([10, 30, 40, 50], "before the collapse suspected from step 58 on: spread fell")


def test_earlier_pins_are_kept_unless_their_checkpoint_is_gone(tmp_path):
    folders(tmp_path, 10, 20, 30, 40, 50)
    write_pins(tmp_path, PinnedCheckpoints(15, {15: "gone", 40: "earlier"}))
    assert read_pins(tmp_path) == PinnedCheckpoints(None, {40: "earlier"})
    assert pin_before(tmp_path, 8, 9, "nothing is that old") == PinnedCheckpoints(None, {40: "earlier"})
    assert {*pin_before(tmp_path, 25, 20, "w").reasons} == {10, 20, 40}
    assert read_pins(tmp_path).reasons[40] == "earlier"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"good": [], "pinned": {}}', '{"good": 1, "pinned": {"x": 1}}'])
def test_a_corrupt_pins_file_is_an_error(tmp_path, text):
    """Without the pins, their checkpoints would be removed."""
    (tmp_path / PINNED).write_text(text)
    with pytest.raises(CheckpointError, match=r"pinned\.json"):
        read_pins(tmp_path)


def test_a_pins_file_with_a_checksum_or_without_is_read(tmp_path):
    folders(tmp_path, 10)
    write_pins(tmp_path, PinnedCheckpoints(10, {10: "why"}))
    sealed = (tmp_path / PINNED).read_text()
    (tmp_path / PINNED).write_text(sealed.replace('"good": 10', '"good": 11'))
    with pytest.raises(CheckpointError, match=r"pinned\.json"):
        read_pins(tmp_path)
    (tmp_path / PINNED).write_text('{"good": 10, "pinned": {"10": "why"}}')  # of an earlier version
    assert read_pins(tmp_path) == PinnedCheckpoints(10, {10: "why"})
