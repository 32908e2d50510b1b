"""Thinning of curves keeps extreme and non-finite values, and axes contain all values."""

import json
import math
import random
from itertools import pairwise

import pytest

from biggan.report.axes import Kind, scale_for, step_ticks
from biggan.report.curves import BUCKETS, Span, last_row, rank_layers, read_views


def read(tmp_path, points, span, key="g_loss"):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": step, key: value}) + "\n" for step, value in points))
    return read_views(file, [], [span])[0].now.get(key).points()


@pytest.mark.parametrize("seed", range(5))
def test_a_thinned_curve_keeps_extreme_and_non_finite_points(tmp_path, seed):
    noise = random.Random(seed)
    points = [(step, noise.gauss(0, 1)) for step in range(1, 30_001)]
    spike, dip, lost = noise.sample(range(30_000), 3)
    for at, value in ((spike, 1e6), (dip, -1e6), (lost, math.nan)):
        points[at] = (points[at][0], value)
    span = Span(0, 30_000)
    kept = read(tmp_path, points, span)
    assert len(kept) <= 5 * BUCKETS
    assert {kept[0], kept[-1], points[spike], points[dip]} == {points[0], points[-1], points[spike], points[dip]}
    assert [step for step, value in kept if math.isnan(value)] == [points[lost][0]]
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    for bucket in range(0, BUCKETS, 10):  # the lowest and the highest point of each bucket
        bucket_points = {p for p in points if int(span.fraction(p[0]) * BUCKETS) == bucket and math.isfinite(p[1])}
        assert {min(bucket_points, key=lambda p: p[1]), max(bucket_points, key=lambda p: p[1])} <= set(kept)


def test_a_short_curve_keeps_all_points_within_its_span(tmp_path):
    points = [(step, step * 0.5) for step in range(10, 2001, 10)]
    assert read(tmp_path, points, Span(0, 2000)) == points
    assert read(tmp_path, points, Span(500, 700)) == [p for p in points if 500 <= p[0] <= 700]


def test_last_row_returns_the_last_complete_row_of_a_long_file(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "filler": "x" * 1000}) for step in range(3000)]
    file.write_text("\n".join(rows) + '\n{"step": 3000, "fil')
    assert last_row(file)["step"] == 2999
    assert last_row(tmp_path / "none") == {}


def test_layers_are_ordered_by_recent_growth(tmp_path):
    """Growth of ten points is the last one (the last tenth) over the one before."""
    grown = {"a": 1.5, "b": 1.0, "c": math.nan, "named": 0.9, "d": 7.0}
    file = tmp_path / "metrics.jsonl"
    with file.open("w") as out:
        for step in range(10, 101, 10):
            now = {f"sigma/{layer}/0": 3.0 * (factor if step == 100 else 1) for layer, factor in grown.items()}
            out.write(json.dumps({"step": step, **now, "sigma/b/ratio": 99.0}) + "\n")
    order = rank_layers(read_views(file, [], [Span(0, 100)])[0].now, ["named"])
    assert [layer for layer, _ in order] == ["named", "c", "d", "a", "b"]
    assert dict(order) == {"named": pytest.approx(0.9), "c": math.inf, "d": 7.0, "a": 1.5, "b": 1.0}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_axis_contains_its_values_in_order(kind):
    noise = random.Random(kind.value)
    for _ in range(500):
        size = 10 ** noise.uniform(-8, 12)
        low = 0.0 if kind is Kind.FRACTION else -size * noise.choice([0, 1]) * (kind is not Kind.LOG)
        values = sorted(
            noise.uniform(low, 1 if kind is Kind.FRACTION else size) for _ in range(noise.choice([1, 2, 50]))
        )
        scale = scale_for(kind, values)
        positions = [scale.fraction(value) for value in values]
        assert positions == sorted(positions)
        assert positions[0] >= -1e-9
        assert positions[-1] <= 1 + 1e-9
        assert scale.lowest <= values[0] * (1 + 1e-9) or values[0] < values[-1] / 1e6
        assert scale.highest >= values[-1] * (1 - 1e-9)
        assert 1 <= len(scale.ticks) <= 9
        assert list(scale.ticks) == sorted(set(scale.ticks))
        assert all(-1e-9 <= scale.fraction(tick) <= 1 + 1e-9 for tick in scale.ticks)


def test_equal_ratios_are_equal_distances_on_a_log_axis():
    scale = scale_for(Kind.LOG, [0.03, 0.2, 4.0])
    assert (scale.lowest, scale.highest) == (0.02, 5.0)
    assert scale.fraction(0.2) - scale.fraction(0.02) == pytest.approx(math.log(10) / math.log(250))
    assert scale.fraction(0.0) == 0.0  # sigma_2 of a rank-deficient weight is drawn on the edge


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1), (0, 200_000), (1100, 1187), (5, 6), (0, 3100)])
def test_step_ticks_are_at_most_five_evenly_spaced_integers(first, last):
    ticks = step_ticks(first, last)
    assert 1 <= len(ticks) <= 5
    assert all(isinstance(tick, int) and first <= tick <= last for tick in ticks)
    assert len({b - a for a, b in pairwise(ticks)}) <= 1
