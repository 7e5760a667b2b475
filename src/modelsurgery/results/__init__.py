"""Results: what `results.json` holds, how it is read, and the tables that everybody prints.

Typed values (`RunResults`, `EvaluationResults`, `SequenceResults`) with parts in common. Whatever
shows them (terminal, report, model card, `print`) prints the tables that are made here.
"""

from modelsurgery.results.evaluations import EvaluationResults, PromptSetResults
from modelsurgery.results.parts import Change, Compared, Limit, Outcome, Rate, plain
from modelsurgery.results.reading import Results, kind_of, read_results, results_of
from modelsurgery.results.runs import RunResults
from modelsurgery.results.sequences import SequenceResults

__all__ = [
    "Change",
    "Compared",
    "EvaluationResults",
    "Limit",
    "Outcome",
    "PromptSetResults",
    "Rate",
    "Results",
    "RunResults",
    "SequenceResults",
    "kind_of",
    "plain",
    "read_results",
    "results_of",
]
