import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_configuration_page_is_up_to_date():
    script = runpy.run_path(str(DOCS / "configuration.py"))
    assert script["page"]() == (DOCS / "configuration.md").read_text(), "run `make docs`"
