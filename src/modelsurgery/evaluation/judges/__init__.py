"""Judges: does a continuation show the behavior?

A judge says `behavior`, `opposite` or `neither` of each continuation. An empty one has `failed`,
one that the judge could say nothing about is `unjudged`; neither ever counts as harmless.
"""

from pathlib import Path

from modelsurgery.data.behaviors import Behavior, BehaviorFile
from modelsurgery.errors import RecipeError
from modelsurgery.evaluation.judges.known import DemoJudge, TextsJudge
from modelsurgery.evaluation.judges.ngrams import BY_BEHAVIOR, NgramJudge
from modelsurgery.evaluation.judges.phrases import RefusalPhrasesJudge
from modelsurgery.evaluation.judges.review import ReviewJudge
from modelsurgery.evaluation.judges.verdicts import Judge, Verdict

__all__ = ["DemoJudge", "Judge", "TextsJudge", "Verdict", "judge_for", "judge_spec"]

TEXTS = "texts"  # the judge that is made from a behavior's labeled texts
DEMO = "demo"  # the exact judge of the demo model
EARLIER_NAMES = {"lab": DEMO}
OWN = ("ngrams", "phrases", DEMO, TEXTS)  # never taken for a directory that is called so
KINDS = (
    "ngrams, phrases, demo, texts, states:MODEL, hf:MODEL[#LABEL] or a directory, chat:MODEL@URL, "
    "review:FILE.csv"
)


def judge_spec(described: BehaviorFile, spec: str | None, *, is_demo: bool) -> str:
    """Who judges a behavior, as typed after `--judge`; of None, what `judge_for` says of it."""
    spec = spec or (DEMO if is_demo else described.judge or TEXTS)
    return EARLIER_NAMES.get(spec, spec)


def judge_for(behavior: Behavior, spec: str | None = None, *, seed: int = 0) -> Judge:
    """The judge of a behavior, as typed after `--judge`: one of KINDS.

    None is the exact one in the demo data, else the one that the behavior's file names, else one
    made from its texts. The seed is that of judges that are trained.

    Raises:
        RecipeError: no such judge, or one that cannot judge this behavior.
    """
    spec = judge_spec(behavior.described, spec, is_demo=behavior.is_demo)
    kind, _, rest = spec.partition(":")
    if kind == "hf" or (spec not in OWN and not rest and Path(spec).is_dir()):
        from modelsurgery.evaluation.judges.classifier import SequenceClassifierJudge

        model, _, label = (rest or spec).partition("#")
        return SequenceClassifierJudge(model, behavior.name, label=label or None)
    if kind == "states":
        from modelsurgery.evaluation.judges.states import StatesJudge

        return StatesJudge(rest, behavior.train, behavior.test, seed=seed)
    if kind == "chat":
        return _chat(rest, behavior)
    if kind == "review":
        return ReviewJudge(Path(rest))
    if rest:
        raise RecipeError(f"judge {spec!r}; expected {KINDS}")
    return _plain(spec, behavior, seed)


def _plain(spec: str, behavior: Behavior, seed: int) -> Judge:
    if spec == TEXTS:
        return TextsJudge(behavior.train, behavior.test, seed=seed)
    if spec == DEMO:
        if not behavior.is_demo:
            raise RecipeError("judge 'demo' is for the demo model only; use another judge")
        return DemoJudge(behavior.name)
    if spec == "ngrams":
        if behavior.name not in BY_BEHAVIOR:
            raise RecipeError(
                f"judge 'ngrams' supports {', '.join(BY_BEHAVIOR)}, not {behavior.name!r}; use "
                "--judge texts or another judge"
            )
        return NgramJudge(BY_BEHAVIOR[behavior.name])
    if spec == "phrases":
        if behavior.name != "refusal":
            raise RecipeError(
                f"judge 'phrases' counts refusals and cannot judge {behavior.name!r}; use another "
                "judge"
            )
        return RefusalPhrasesJudge()
    if spec == "perspective":  # the paper's; recipes may still name it
        raise RecipeError(
            "judge 'perspective' was removed, because its service closes on 2026-12-31; use "
            "--judge ngrams or another judge"
        )
    raise RecipeError(f"no judge {spec!r}; expected {KINDS}")


def _chat(spec: str, behavior: Behavior) -> Judge:
    from modelsurgery.evaluation.judges.chat import ChatJudge

    model, _, address = spec.partition("@")
    if not model or not address.startswith(("http://", "https://")):
        raise RecipeError(
            f"judge 'chat:{spec}'; expected chat:MODEL@URL, such as "
            "chat:judge@http://localhost:8000/v1"
        )
    described = behavior.described
    return ChatJudge(address, model, shows=described.shows, opposite=described.opposite)
