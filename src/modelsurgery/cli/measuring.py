"""Verbs that measure a model: a probe of its hidden states, and an evaluation of edits."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modelsurgery.cli.options import (
    DataRoot,
    Device,
    DType,
    FitOption,
    Json,
    LabelColumn,
    LayoutFile,
    ModelArgument,
    Now,
    Seed,
    TemplateName,
    TextColumn,
    chosen_fit,
    model_directory,
)
from modelsurgery.cli.output import print_content, print_json, showing_progress

JUDGES = (
    "ngrams, phrases, lab, texts, hf:MODEL[#LABEL], chat:MODEL@URL, perspective, review:FILE; "
    "the first decides, of others the agreement is told."
)
TASKS = "Capability: wikitext, lambada, gsm8k, bbh, mmlu, tydiqa."


def probe(
    model: ModelArgument,
    texts: Annotated[Path, typer.Option(help="Labelled texts.")],
    out: Annotated[Path, typer.Option(help="The probe to write, .safetensors.")],
    layer: Annotated[int | None, typer.Option(help="1..L [default: L, after the norm]")] = None,
    fit: FitOption = "adam",
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    chat_template: TemplateName = None,
    now: Now = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Train a linear probe on the hidden states of labelled texts."""
    with showing_progress() as progress:
        from modelsurgery.data.texts import load_texts, split_texts
        from modelsurgery.edit.probe import save_probe
        from modelsurgery.files.atomic import refuse_existing
        from modelsurgery.model.hidden_states import extract_hidden_states
        from modelsurgery.model.loading import load_model
        from modelsurgery.model.probe_fitting import fit_probe_on_texts

        refuse_existing(out)
        split = split_texts(
            load_texts(texts, text_column=text_column, label_column=label_column), seed=seed
        )
        with progress("load model", 0):
            loaded = load_model(
                model_directory(model),
                device=device,
                dtype=dtype,
                chat_template=chat_template,
                now=now,
            )
        chosen = loaded.layer_count if layer is None else layer
        states = extract_hidden_states(
            loaded,
            [loaded.written(text) for text in (*split.train, *split.held_out)],
            [chosen],
            progress=progress,
        )
        with progress("fit probe", 0):
            fitted = fit_probe_on_texts(
                states.by_layer[chosen],
                split.train,
                split.held_out,
                layer=chosen,
                fit=chosen_fit(fit),
                seed=seed,
            )
        save_probe(fitted, out)
    assert fitted.metrics is not None
    content = {"probe": str(out), "layer": chosen, "fit": fit, **asdict(fitted.metrics)}
    print_content(content, as_json)


def evaluate(
    model: ModelArgument,
    edit: Annotated[list[Path] | None, typer.Option(help="Edit file; several together.")] = None,
    behavior: Annotated[str, typer.Option(help="Built-in name or YAML file.")] = "toxicity",
    prompts: Annotated[Path | None, typer.Option(help="Prompts of your own.")] = None,
    neutral: Annotated[Path | None, typer.Option(help="Neutral text for the damage.")] = None,
    data: DataRoot = None,
    judge: Annotated[list[str] | None, typer.Option(help=JUDGES)] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Prompt set; else all.")] = None,
    limit: Annotated[int | None, typer.Option(help="Prompts of a set, at most.")] = None,
    samples: Annotated[int, typer.Option(help="Samples a prompt; 0 is greedy.")] = 0,
    task: Annotated[list[str] | None, typer.Option(help=TASKS)] = None,
    task_limit: Annotated[int | None, typer.Option(help="Items of a task, at most.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of a continuation.")] = None,
    export_for_review: Annotated[
        int | None, typer.Option(help="Write so many continuations for a person to label.")
    ] = None,
    backend: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    store: Annotated[
        Path | None, typer.Option(help="Take up, and keep, generations and judgements here.")
    ] = None,
    layout: LayoutFile = None,
    chat_template: TemplateName = None,
    now: Now = None,
    seed: Annotated[int | None, typer.Option(min=0, help="[default: the edit's]")] = None,
    device: Device = None,
    dtype: DType = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a model and its edits on a behavior, and what broke; goes on if interrupted."""
    from rich.console import Console

    from modelsurgery.report.evaluation import print_evaluation

    with showing_progress() as progress:
        from modelsurgery.data.behaviors import describe_behavior
        from modelsurgery.data.behaviors.roots import data_root
        from modelsurgery.edit.edit_file import load_edit
        from modelsurgery.files.schema import parse
        from modelsurgery.pipeline.evaluating import EvaluationPlan, run_evaluation

        described = describe_behavior(behavior).with_own(prompts=prompts, neutral=neutral)
        described = described.with_length(max_new_tokens)
        if seed is None:  # that of the edit, so that texts which chose it are not measured on
            seeds = [load_edit(one).provenance.seed for one in edit or ()]
            seed = next((one for one in seeds if one is not None), 0)
        options = {
            "model": model,
            "edits": edit or (),
            "behavior": described,
            "data": data_root(data),
            "judges": judge or (),
            "sets": sets or None,
            "limit": limit,
            "samples": samples,
            "tasks": task or (),
            "task_limit": task_limit,
            "export_for_review": export_for_review,
            "backend": backend,
            "seed": seed,
            "device": device,
            "dtype": dtype,
            "layout": layout,
            "chat_template": chat_template,
            "now": now,
            "store": store,
            "out": out,
        }
        result = run_evaluation(parse(options, EvaluationPlan, "options"), progress=progress)
    if as_json:
        content = result.evaluation.to_json()
        print_json({**content, "speed": result.speed, "run_directory": str(result.directory)})
    else:
        print_evaluation(result.evaluation.results(), Console(highlight=False, soft_wrap=True))
        print(f"everything is in {result.directory}")
        print(f"to look at it: {result.directory}/report.html")
