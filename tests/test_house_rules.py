"""The rules of `make lint` refuse what they are for: each fault is planted in a copy of a tiny package."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("house_rules", ROOT / "lint" / "house_rules.py")
house_rules = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(house_rules)

LONG_FUNCTION = "def long():\n" + "    x = 1\n" * 40
FAULTS = {
    "opening": ('"""Module."""\n\n\ndef f():\n    """Of both arguments the first."""\n', 5, "'Of'"),
    "attribute": ('"""Module."""\n\nX = 1\n"""Whether it is."""\n', 4, "'Whether'"),
    "function": ('"""Module."""\n\n\n' + LONG_FUNCTION, 4, "long has 41 lines"),
    "file": ('"""Module."""\n' + "x = 1\n" * 300, 1, "301 lines"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_at_its_line(tmp_path, fault):
    text, line, message = FAULTS[fault]
    (tmp_path / "biggan").mkdir()
    (tmp_path / "biggan" / "sound.py").write_text('"""Module."""\n\n\ndef f():\n    """Return 1."""\n    return 1\n')
    assert list(house_rules.findings(tmp_path)) == []
    (tmp_path / "biggan" / "planted.py").write_text(text)
    [(file, found_line, found)] = house_rules.findings(tmp_path)
    assert (file.name, found_line) == ("planted.py", line)
    assert message in found


def test_vague_and_repeated_names_are_found(tmp_path):
    for folder, name in (("a", "utils"), ("a", "same"), ("b", "same")):
        (tmp_path / "biggan" / folder).mkdir(parents=True, exist_ok=True)
        file = tmp_path / "biggan" / folder / f"{name}.py"
        file.write_text('"""Module."""\n\n\nclass Twice:\n    """A class."""\n')
    messages = [message for _, _, message in house_rules.findings(tmp_path)]
    assert sum("utils" in message for message in messages) == 1
    assert sum(message.startswith("module same") for message in messages) == 1
    assert sum(message.startswith("class Twice") for message in messages) == 2


def test_a_planted_cycle_of_packages_is_refused(tmp_path):
    """The contracts of pyproject.toml, on copies of the package's imports with one more: models -> training."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for file in sorted((ROOT / "biggan").rglob("*.py")):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    sound = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert sound.returncode == 0, sound.stdout
    networks = tmp_path / "biggan" / "models" / "networks.py"
    networks.write_text(networks.read_text() + "\nimport biggan.training.loop\n")
    planted = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert planted.returncode == 1
    assert "biggan.models is not allowed to import biggan.training" in planted.stdout
