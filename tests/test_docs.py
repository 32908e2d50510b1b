import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_configuration_page_is_what_the_config_says():
    script = runpy.run_path(str(DOCS / "configuration.py"))
    assert script["page"]() == (DOCS / "configuration.md").read_text(), "run `make docs`"
