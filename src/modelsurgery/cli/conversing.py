"""Verbs that let a person look at answers: pairs of a run side by side, and talking to both."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from modelsurgery.cli.options import (
    Device,
    DType,
    Json,
    LayoutFile,
    ModelArgument,
    Now,
    Seed,
    TemplateName,
    chosen_layout,
    model_directory,
)
from modelsurgery.cli.output import print_json, showing_progress
from modelsurgery.errors import RecipeError

TERMINAL_LIMIT = 20
PAGE_LIMIT = 1000


def compare(
    directory: Annotated[Path, typer.Argument(help="Run directory, also of an evaluation.")],
    only: Annotated[
        list[str] | None, typer.Option(help="worse, changed, better or same; several.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Prompt set, or sampled or greedy; else all.")
    ] = None,
    search: Annotated[str | None, typer.Option(help="Text in the prompt or an answer.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="Pairs at most; 0 is all. [default: 20, in a page 1000]"),
    ] = None,
    mask: Annotated[
        bool | None,
        typer.Option(
            "--mask/--show-offensive",
            help="Dots for answers that show the behavior or were not judged, or no dots. "
            "[default: dots in the terminal only; a page blurs them]",
        ),
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="away or toward [default: the recipe's]")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page.")] = None,
    as_json: Json = False,
) -> None:
    """Show what base and edited model said to the same prompts, worst regressions first."""
    from rich.console import Console

    from modelsurgery.files.atomic import refuse_existing
    from modelsurgery.report.comparing import print_pairs, read_pairs

    if html is not None:
        refuse_existing(html)
    shown = read_pairs(directory, direction)
    shown = shown.chosen(only=only or (), sets=sets or (), search=search)
    if mask or (mask is None and html is None and not as_json):
        shown = shown.masked()
    if html is not None:
        from modelsurgery.report.html.comparing import write_page

        write_page(shown.first(PAGE_LIMIT if limit is None else limit), html)
    if as_json:
        print_json(shown.first(limit).to_json())
    elif html is None:
        few = TERMINAL_LIMIT if limit is None else limit
        print_pairs(shown, Console(highlight=False, soft_wrap=True), limit=few)
    else:
        print(f"the pairs are in {html}")


def chat(
    model: ModelArgument,
    edit: Annotated[list[Path], typer.Option(help="Edit file; several together.")],
    system: Annotated[str | None, typer.Option(help="What a chat model is told first.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer.")] = 256,
    temperature: Annotated[
        float | None, typer.Option(help="Sample at this temperature. [default: greedy]")
    ] = None,
    seed: Seed = 0,
    thinking: Annotated[
        bool, typer.Option("--thinking", help="Let a model think that can.")
    ] = False,
    chat_template: TemplateName = None,
    now: Now = None,
    layout: LayoutFile = None,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Talk to a model and its edited self side by side; in a pipe, each line is a prompt.

    Lines that begin with a command, as /strength 0.5, are followed; /help lists commands.
    """
    if temperature is not None and not 0 < temperature < float("inf"):
        raise RecipeError(
            f"--temperature {temperature}; expected a number above 0, or nothing for greedy"
        )
    with showing_progress() as progress:
        from modelsurgery.cli.chatting import chat_in_pipe, chat_on_terminal
        from modelsurgery.edit.edit_file import load_edit
        from modelsurgery.evaluation.generation import Decoding
        from modelsurgery.model.loading import load_model
        from modelsurgery.pipeline.conversation import Conversation

        edits = [load_edit(path) for path in edit]
        with progress("load model", 0):
            loaded = load_model(
                model_directory(model),
                device=device,
                dtype=dtype,
                layout=chosen_layout(layout),
                chat_template=chat_template,
                now=now,
            )
        decoding = Decoding(
            max_new_tokens,
            None if temperature is None else seed,
            temperature or 1.0,
            chat=True,
            thinking=thinking,
        )
        conversation = Conversation(loaded, edits, decoding=decoding, system=system)
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        chat_in_pipe(conversation, as_json=as_json)
    else:
        from rich.console import Console

        chat_on_terminal(conversation, Console(highlight=False))
