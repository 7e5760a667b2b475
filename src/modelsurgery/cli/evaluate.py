"""`surgery evaluate`: a model and its edits on a behavior, and what broke."""

from typing import Annotated, Any

import typer

from modelsurgery.cli.options import (
    Json,
    ModelArgument,
    Neutral,
    Prompts,
    option,
    typed_values,
    with_options,
)
from modelsurgery.cli.output import console, print_json, using_a_model
from modelsurgery.pipeline.evaluation_options import EvaluationOptions, check_edited
from modelsurgery.pipeline.option import Panel
from modelsurgery.pipeline.recipe import DEFAULT_BEHAVIOR

# In the order of `--help`.
OPTIONS = (
    "edits behavior out "
    "edited backend server server_model adapter_dir concurrency "
    "layout chat_template now device max_memory offload dtype "
    "prompts neutral data "
    "judges sets limit samples tasks include_path task_limit max_new_tokens export_for_review "
    "store seed"
)


@with_options(EvaluationOptions, OPTIONS)
def evaluate(
    model: ModelArgument,
    *,
    behavior: Annotated[str, option("behavior", default=DEFAULT_BEHAVIOR)] = DEFAULT_BEHAVIOR,
    prompts: Prompts = None,
    neutral: Neutral = None,
    samples: Annotated[
        int,
        typer.Option(
            help=EvaluationOptions.model_fields["samples"].description,
            rich_help_panel=Panel.MEASURING,
        ),
    ] = 0,
    max_new_tokens: Annotated[int | None, option("max_new_tokens")] = None,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """Measure a behavior before and after an edit, and the damage. Resumes if interrupted."""
    # Before slow imports.
    check_edited(typed["edited"], typed["edits"], typed["backend"])
    with using_a_model() as progress:
        from modelsurgery.edit.edit_file import load_edits

        # That of an edit, so that texts which chose it are not measured on.
        seeds = [one.provenance.seed for one in load_edits(typed["edits"] or [])]
        from modelsurgery.data.behaviors import describe_behavior
        from modelsurgery.data.behaviors.roots import data_root
        from modelsurgery.files.schema import parse
        from modelsurgery.pipeline.evaluating import EvaluationPlan, run_evaluation

        described = describe_behavior(behavior).with_own(prompts=prompts, neutral=neutral)
        options = {
            "seed": next((one for one in seeds if one is not None), 0),
            **typed_values(typed, EvaluationOptions),
            "model": model,
            "behavior": described.with_length(max_new_tokens),
            "data": data_root(typed["data"]),
            "samples": samples,
            "backend": typed["backend"] or ("server" if typed["server"] else "transformers"),
        }
        result = run_evaluation(parse(options, EvaluationPlan, "options"), progress=progress)
    if as_json:
        content = result.evaluation.to_json()
        print_json({**content, "speed": result.speed, "run_directory": str(result.directory)})
    else:
        from modelsurgery.report.terminal import print_evaluation

        print_evaluation(result.evaluation.results(), console())
        print(f"everything is in {result.directory}")
        print(f"to look at it: {result.directory}/report.html")
