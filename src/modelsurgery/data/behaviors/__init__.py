"""Behaviors: the texts that show one, the prompts that may draw it out, the yardsticks.

A behavior is data. The built-in ones are YAML files in this directory; a user's own is a YAML
file of the same form with paths in it, or just a file of labeled texts.
"""

from modelsurgery.data.behaviors.format import (
    BehaviorFile,
    CorpusPrompts,
    CorpusTexts,
    Direction,
    Packaged,
    PublishedRate,
    Replies,
    TextFiles,
    built_in_behaviors,
    describe_behavior,
)
from modelsurgery.data.behaviors.gathering import Behavior, load_behavior, load_test_part
from modelsurgery.data.behaviors.in_memory import behavior_of_texts
from modelsurgery.data.behaviors.prompting import PromptSet

__all__ = [
    "Behavior",
    "BehaviorFile",
    "CorpusPrompts",
    "CorpusTexts",
    "Direction",
    "Packaged",
    "PromptSet",
    "PublishedRate",
    "Replies",
    "TextFiles",
    "behavior_of_texts",
    "built_in_behaviors",
    "describe_behavior",
    "load_behavior",
    "load_test_part",
]
