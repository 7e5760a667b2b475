"""Names from files of strangers in the tables of the terminal: text, never markup."""

import copy
import io

import pytest
from rich.console import Console

from modelsurgery.report.explained import print_explanation
from modelsurgery.report.inside import print_probes
from surgery_results import FIT


@pytest.mark.parametrize("name", ["[red]experts", "[/experts]"])
def test_brackets_in_names_are_shown(name: str) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=120)
    explained = copy.deepcopy(FIT)
    explained["rows"][0]["branch"] = name
    print_explanation(explained, console)
    print_probes(
        [{"probe": name, "cosine": 0.1}],
        [{"probe": name, "texts": "neutral text", "cosine": 0.1}],
        console,
    )
    assert stream.getvalue().count(name) == 3
