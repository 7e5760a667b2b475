"""`python -m modelsurgery.checkpoint.layouts` prints the table of docs/families.md."""

from modelsurgery.checkpoint.layouts.format import GateLayout, built_in_layouts


def families_table() -> str:
    """All known families as a Markdown table, in the order of the data file."""
    layouts = {id(layout): layout for layout in built_in_layouts().values()}.values()
    lines = ["| family | `model_type` | gate rows are in |", "|---|---|---|"]
    for layout in layouts:
        types = ", ".join(f"`{name}`" for name in layout.model_types)
        lines.append(f"| {layout.title} | {types} | {_matrices(layout)} |")
    return "\n".join(lines) + "\n"


def _matrices(layout: GateLayout) -> str:
    """Names as the first spelling has them, with what part of the tensor they are."""
    names: dict[str, None] = {}
    for form in layout.blocks.values():
        for entry in form:
            spelling = entry.spellings[0]
            name = spelling.name.removesuffix(".weight").replace("{expert}", "*")
            notes: list[str] = [] if spelling.part == "all" else [spelling.part]
            notes += ["transposed"] if spelling.axes.endswith("column row") else []
            names[f"`{name}`" + (f" ({', '.join(notes)})" if notes else "")] = None
    return ", ".join(names)


if __name__ == "__main__":
    print(families_table(), end="")
