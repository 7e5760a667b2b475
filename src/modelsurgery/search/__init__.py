"""The search for an edit: the most change of behavior inside a damage budget, on validation data.

No setting transfers between models. A *setting* (space.py) is a direction, a choice of rows and a
window of layers; with a strength it is an edit, and its *effect* on texts (forward passes only) is
compared with a *budget* (budget.py). A *study* (study.py) proposes settings and remembers all
trials, which say how strong a setting may be (strength_schedule.py); the *search* (search.py)
spends the trials, lets a judge decide between the best, and tells what else could have been had.
Nothing held out is read.
"""

from modelsurgery.search.budget import Budget
from modelsurgery.search.found import DosePoint, SearchResult
from modelsurgery.search.search import Search
from modelsurgery.search.space import (
    SearchSpace,
    Setting,
    default_probe_layers,
    default_space,
    rule_space,
)
from modelsurgery.search.strength import FittedStrength, fit_strength
from modelsurgery.search.study import Study, Trial

__all__ = [
    "Budget",
    "DosePoint",
    "FittedStrength",
    "Search",
    "SearchResult",
    "SearchSpace",
    "Setting",
    "Study",
    "Trial",
    "default_probe_layers",
    "default_space",
    "fit_strength",
    "rule_space",
]
