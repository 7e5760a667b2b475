from pathlib import Path

from modelsurgery.checkpoint.layouts import built_in_layouts
from modelsurgery.checkpoint.layouts.__main__ import families_table

ROOT = Path(__file__).parents[2]


def test_the_docs_show_the_table_that_the_layouts_give() -> None:
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    before, _, after = page.partition("<!-- python -m modelsurgery.checkpoint.layouts -->\n")
    assert before
    assert after.partition("<!-- end of families -->")[0] == families_table()


def test_the_table_names_every_model_type() -> None:
    assert all(f"`{name}`" in families_table() for name in built_in_layouts())
