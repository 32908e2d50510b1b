"""The ring's bounds, over long random histories: checkpoints as a dict of sizes, no disk."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from biggan.runs.ring import MAX_PINNED, PINNED, PinnedCheckpoints, Ring, pin_before, read_pins, write_pins

HISTORIES = 150
SAVES = 250


@dataclass
class History:
    """A run as the ring sees it: saves of varying cadence and size, alarms, rollbacks."""

    ring: Ring
    chance: random.Random
    cadence: int
    sizes: dict[int, int] = field(default_factory=dict)
    pinned: list[int] = field(default_factory=list)
    good: int | None = None
    written: list[int] = field(default_factory=list)
    """Steps of this path, removed or not."""
    reach: int = -1
    """The oldest step there was when this path began: from where on the horizon can be covered."""

    since: int = 0
    """How many of these were written before the last rollback."""

    def save(self, size=1):
        """As the writer does: make room, write, thin. What the first of these was given and has left."""
        incoming = size if self.ring.max_bytes else 0
        before = dict(self.sizes)
        self.remove(self.ring.steps_to_remove(self.sizes, self.pinned, incoming, self.good))
        left = dict(self.sizes)
        stray = self.chance.choice([0, 0, self.chance.randrange(self.cadence)])  # a stop between two
        step = max(self.sizes, default=0) + self.cadence - stray
        self.sizes[step] = size
        self.written.append(step)
        self.reach = step if self.reach < 0 else self.reach
        self.remove(self.ring.steps_to_remove(self.sizes, self.pinned, 0, self.good))
        return before, left

    def remove(self, doomed):
        for step in doomed:
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
    """Now and then an alarm, a rollback, a restart with another cadence."""
    event = history.chance.random()
    if event < 0.04:
        history.alarm(roll_back=event < 0.02)
    elif event < 0.06:
        history.cadence = history.chance.choice([1, 10, 700, 1000])


def test_the_horizon_is_covered_and_pins_stay():
    """Whatever happens, and at each moment: what is kept now must have been kept before."""
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
            for_good = history.ring.keep_every_steps
            assert not for_good or all(s in history.sizes for s in history.written if s % for_good == 0)
            assert history.ring.steps_to_remove(history.sizes, history.pinned, 0, history.good) == []
            disturb(history)
    assert covered > HISTORIES * SAVES / 3


def test_gaps_are_no_longer_than_they_are_old():
    """Before any moment of the last half horizon there is one at most twice as long ago, or none was removed there."""
    thinned = 0
    for history in histories(limited=False):
        for _ in range(SAVES):
            history.save()
            kept = sorted(history.sizes)
            for older, newer in pairwise(kept):
                age = history.now - newer
                lost = [s for s in history.written if older < s < newer]
                if lost and 2 * age < history.ring.horizon_steps:
                    thinned += 1
                    assert newer - older <= age
    assert thinned > HISTORIES * SAVES


@pytest.mark.parametrize("keep_last", [1, 2, 3, 8, 30])
@pytest.mark.parametrize("horizon", [0, 0.5, 1, 2, 7, 20, 64, 500])
def test_the_number_kept_is_bounded_and_grows_with_the_logarithm(keep_last, horizon):
    ring = Ring(keep_last, int(horizon * 10), 0, 0)
    sizes, most = {}, 0
    for step in range(10, 16_000, 10):
        sizes[step] = 1
        for doomed in ring.steps_to_remove(sizes, ()):
            del sizes[doomed]
        most = max(most, len(sizes))
        assert step - min(sizes) <= max(1.5 * ring.horizon_steps, 10 * keep_last)
    assert keep_last <= most <= ring.max_kept(10) <= most + 4


def test_the_limit_holds_and_what_it_costs_first():
    """Sizes vary. Room is found for all that can be; pins yield when nothing else is left, the good one never."""
    tight = unpinned = exceeded = 0
    for history in histories(limited=True):
        for _ in range(SAVES):
            pinned, size = set(history.pinned), history.chance.randrange(500, 1500)
            before, left = history.save(size)
            limit = history.ring.max_bytes
            newest = {max(before, default=None)}
            stays = newest | {history.good}
            assert {s for s in stays if s in before} <= {*left}
            tight += left != before
            if sum(left.values()) + size > limit:
                exceeded += 1
                assert {*left} <= stays
            for lost in pinned - {*left}:
                unpinned += 1
                assert {*left} <= newest | pinned
                needed = {s for s in (pinned | stays) & {*before} if s >= lost or s in stays}
                assert sum(before[s] for s in needed) + size > limit
            disturb(history)
    assert min(tight, unpinned, exceeded) > 100


def test_within_the_limit_the_horizon_is_covered_while_one_more_fits():
    spread = 0
    for history in histories(limited=True):
        half = history.ring.horizon_steps / 2
        for _ in range(SAVES):
            pinned, size = set(history.pinned), history.chance.randrange(500, 1500)
            before, left = history.save(size)
            far = [s for s in before if max(before) - s >= half and s not in pinned]
            if far and max(left) - min(left) < half:
                held = sum(b for s, b in before.items() if s in pinned or s == max(before))
                assert held + size + before[max(far)] > history.ring.max_bytes
            spread += len(far) > 0
            disturb(history)
    assert spread > HISTORIES * SAVES / 3


@pytest.mark.parametrize("room", [4, 5, 8, 30])
@pytest.mark.parametrize("horizon", [7, 20, 64, 200])
def test_with_room_for_four_the_far_end_stays_near_the_horizon(room, horizon):
    """Not the first checkpoint of the run for ever."""
    ring, sizes = Ring(3, horizon, 0, room), {}
    for step in range(1, 6 * horizon):
        for making_room in (1, 0):
            for doomed in ring.steps_to_remove(sizes, (), making_room):
                del sizes[doomed]
            if making_room:
                assert len(sizes) < room
                sizes[step] = 1
        if step > 3 * horizon:
            assert 0.5 * horizon <= step - min(sizes) <= 1.5 * horizon + 2


def test_what_is_kept_for_good_yields_before_the_ring_does_and_pins_last():
    """With 10 and 20 kept for good and 5 pinned: a limit of n bytes leaves these n, the newest always."""

    def left(limit, good=5):
        sizes = dict.fromkeys([5, 10, 20, 37, 39, 40], 1)
        doomed = Ring(1, 4, 10, limit).steps_to_remove(sizes, [5], 0, good)
        return [s for s in sizes if s not in doomed]

    assert left(6) == [5, 10, 20, 37, 39, 40]
    assert left(5) == [5, 20, 37, 39, 40]
    assert left(4) == [5, 37, 39, 40]
    assert left(2) == [5, 40]
    assert left(1) == [5, 40]
    assert left(2, good=10) == [10, 40]


def folders(root, *steps):
    for step in steps:
        (root / f"step_{step:08d}").mkdir()


def test_an_alarm_pins_the_last_three_before_it_and_the_oldest(tmp_path):
    folders(tmp_path, 10, 20, 30, 40, 50, 60)
    pins = pin_before(tmp_path, 58, 55, "spread fell")
    assert pins == read_pins(tmp_path)
    assert pins.good == 50
    assert pins.reasons == dict.fromkeys([10, 30, 40, 50], "before the collapse suspected from step 58 on: spread fell")


def test_earlier_pins_stay_and_those_of_checkpoints_that_are_gone_do_not(tmp_path):
    folders(tmp_path, 10, 20, 30, 40, 50)
    write_pins(tmp_path, PinnedCheckpoints(15, {15: "gone", 40: "earlier"}))
    assert read_pins(tmp_path) == PinnedCheckpoints(None, {40: "earlier"})
    assert pin_before(tmp_path, 8, 9, "nothing is that old") == PinnedCheckpoints(None, {40: "earlier"})
    assert {*pin_before(tmp_path, 25, 20, "w").reasons} == {10, 20, 40}
    assert read_pins(tmp_path).reasons[40] == "earlier"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"good": [], "pinned": {}}', '{"good": 1, "pinned": {"x": 1}}'])
def test_damaged_pins_are_no_pins(tmp_path, text):
    (tmp_path / PINNED).write_text(text)
    assert read_pins(tmp_path) == PinnedCheckpoints()
