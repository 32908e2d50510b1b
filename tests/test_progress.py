"""The progress meter."""

import re

from biggan import progress


def test_repeated_task_has_its_own_rate(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 1000.0, 1010.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Meter() as meter:
        monkeypatch.setattr(meter._bar, "update", lambda *_, **__: None)
        monkeypatch.setattr(meter._bar, "add_task", lambda *_, **__: 0)
        for done in (0, 100, 0, 50):
            meter("images", done, 100 if done != 50 else 50)
    assert re.findall(r"[\d.]+/s", capsys.readouterr().err) == ["10.0/s", "5.0/s"]
