"""Names of the rules; apart from them, so that `--help` imports no numpy."""

from typing import Literal, get_args

Rule = Literal["natural-gradient", "least-squares", "paper"]
RULES: tuple[Rule, ...] = get_args(Rule)
DEFAULT_RULE: Rule = "natural-gradient"
SEVERAL_STEPS = 3  # of the natural gradient, where one step is tried against several
