"""A finished run made larger: more prompts, long answers, and answers written by an enemy."""

import json
import shutil
from pathlib import Path
from typing import Any

# What a model could say to break out of the page, to call home, or to make a mess of it.
HOSTILE = (
    "<script>window.hostile = 1</script>",
    "</style><script>window.hostile = 1</script>",
    "</title></svg><img src=x onerror='window.hostile = 1'>",
    '"><iframe srcdoc="<script>parent.hostile = 1</script>"></iframe>',
    "<a href='javascript:window.hostile = 1'>read more</a>",
    "<meta http-equiv=refresh content='0;url=https://example.org/'>",
    "<!-- <script> {{ 7 * 7 }} {% raw %} ]]>",
    "https://example.org/picture.png <img src=https://example.org/picture.png>",
    "\x00\x07\x1b[31mred\x1b[0m\u2028\u2029\ufeff",
    "\u202eright to left\u202c \u2066isolated\u2069",
    "word" * 2000,
    "a\n" * 500,
    "&lt;b&gt; &amp;amp; \ud83e\uddea".encode("utf-16", "surrogatepass").decode("utf-16"),
)
ANSWER = "and then the neighbor of my friend walked slowly home with her dog in the rain today. "
VERDICTS = (("behavior", "opposite"), ("neither", "behavior"), ("neither", "neither"))


def enlarged(source: Path, directory: Path, *, prompts: int) -> Path:
    """A copy of a run directory with so many prompts, three samples each; gives `directory`."""
    shutil.copytree(source, directory)
    for name, seeds in (("sampled", (0, 1)), ("greedy", (None,))):
        samples = [_sample(number, seed) for seed in seeds for number in range(prompts)]
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in samples)
        (directory / "samples" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    _change_results(directory / "results.json")
    recipe = directory / "recipe.resolved.yaml"
    recipe.write_text(f"# {HOSTILE[0]}\n" + recipe.read_text(encoding="utf-8"), encoding="utf-8")
    return directory


def _sample(number: int, seed: int | None) -> dict[str, Any]:
    base, edited = VERDICTS[number % len(VERDICTS)]
    enemy = HOSTILE[number % len(HOSTILE)]
    return {
        "prompt": f"Prompt {number} {enemy if number % 7 == 0 else ''}",
        "seed": seed,
        "base": f"{seed} {ANSWER * (number % 5)}{enemy if number % 3 == 0 else ''}",
        "edited": f"{seed} {ANSWER * (number % 4)}{enemy if number % 2 == 0 else ''}",
        "base_verdict": base,
        "edited_verdict": edited,
    }


def _change_results(path: Path) -> None:
    """Names of models, judges and texts, and tokens, come from strangers, too."""
    results = json.loads(path.read_text(encoding="utf-8"))
    results["model"] = HOSTILE[0]
    results["behavior"]["title"] = HOSTILE[1]
    results["judge"]["note"] = HOSTILE[2]
    results["perplexity"]["text"] = HOSTILE[4]
    inside = results["inside"]
    inside["activations"][0]["texts"] = HOSTILE[0]
    inside["tokens"]["direction"]["toward"][0][0] = HOSTILE[2]
    inside["neurons"][0]["writes"]["toward"][0][0] = HOSTILE[3]
    path.write_text(json.dumps(results), encoding="utf-8")
