"""`surgery fetch` as it is typed; what it brings is tested in e2e/test_smollm2.py."""

import json

from command_line import Refused, Surgery
from modelsurgery.checkpoint.named_models import NAMED_MODELS


def test_without_a_name_it_lists_what_can_be_fetched(surgery: Surgery) -> None:
    outcome = surgery("fetch")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("smollm2  SmolLM2-135M-Instruct, 135 million weights")
    listed = json.loads(surgery("fetch", "--json").stdout)
    assert set(listed) == set(NAMED_MODELS)
    assert listed["smollm2"]["hub_id"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_wrong_names_sources_and_places_are_refused(refused: Refused) -> None:
    refused("fetch", "gpt", code=2, says="no model called 'gpt'; expected one of smollm2")
    refused("fetch", "smollm2", "--source", "disk", code=2, says="'disk' is not one of")
