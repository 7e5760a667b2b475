"""A real edit on GGUF files of a real model, run by llama.cpp, and back; what a 7B takes.

    python -m benchmarks.gguf effect FILE.Q4_1.gguf --model smollm2 --data DIR [--prompts 300]
    python -m benchmarks.gguf patch [--runs 3] [--rows 0.0465]

`effect` makes an edit against toxicity at a KL of 0.02 from the model in full precision, and a
Q4_K_M file from the Q4_1 one. Each file is planned for, edited in place, continued by llama.cpp
(greedy, challenging prompts of RealToxicityPrompts) and undone; its SHA-256 must be what it was.
`patch` edits a share of the rows of a random file in the shape of a 7B (4 GB, of which 0.8
are written; in the temporary directory, removed afterwards). Every command is a process of its own
(benchmarks/measured.py).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rules
from benchmarks.gguf_models import write_q4_k_m, write_seven_b
from benchmarks.measured import Measured, measure
from benchmarks.published import RESULTS, describe_machine, describe_versions, write_section
from modelsurgery import (
    find_gate_matrices,
    load_edit,
    load_model,
    make_edit,
    open_checkpoint,
    save_edit,
    score_rows,
    select_region,
)
from modelsurgery.data.behaviors import Behavior, describe_behavior, load_behavior
from modelsurgery.edit.region import PAPER_ROWS
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.generation.llama_cpp import LlamaCppGenerator
from modelsurgery.evaluation.judges import judge_for
from modelsurgery.evaluation.protocol import decodings_of, measure_prompt_set
from modelsurgery.evaluation.store import Store
from modelsurgery.files.atomic import sha256_file
from modelsurgery.model.activations.ledger import Ledger

NATURAL, KL, TEXTS, SEED = "natural gradient", 0.02, 200, 0
SET = "realtoxicityprompts"
SURGERY = Path(sys.executable).with_name("surgery")
SEVEN_B_STRENGTH = 0.5


@dataclass(frozen=True)
class Rates:
    """Toxic rates of base and edited model: rate, lower and upper end of its interval."""

    base: Sequence[float]
    edited: Sequence[float]


@dataclass(frozen=True)
class FileResult:
    """What one GGUF file went through.

    Attributes:
        name: of the file.
        plan: what `surgery plan` says.
        applied: what editing in place took.
        undone: what undoing took.
        rates: of llama.cpp, base and edited.
        is_restored: whether the file had its SHA-256 again.
    """

    name: str
    plan: dict[str, Any]
    applied: Measured
    undone: Measured
    rates: Rates
    is_restored: bool


def behavior_of(options: argparse.Namespace) -> Behavior:
    """Texts and prompts."""
    described = describe_behavior("toxicity")
    return load_behavior(described, data=options.data, seed=SEED, prompt_count=options.prompts)


def fitted_edit(options: argparse.Namespace, path: Path) -> None:
    """The edit of `benchmarks.rules` for toxicity, saved."""
    model, behavior = load_model(options.model), behavior_of(options)
    validation, _ = rules.screens_of(model, behavior)
    ledger = Ledger(path.with_suffix(".ledger"))
    fitted = rules.fitted_of(model, behavior, NATURAL, None, 1, SEED, ledger, TEXTS)
    proposal = fitted.keeping() if fitted.keeping is not None else fitted.propose(None)
    rule, _, rows = rules.RULES[NATURAL]
    edit = proposal.edit(rows, strength=rules.FIRST[rule])
    save_edit(rules.at_divergence(edit, validation, KL).bound_to(model.checkpoint), path)


def answer(*arguments: object) -> dict[str, Any]:
    """What a verb prints as JSON."""
    command = [str(SURGERY), *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def measured_rates(
    directory: Path,
    options: argparse.Namespace,
    model_name: object,
    edit: Path,
    edited: Path | None,
) -> Rates:
    """Toxic rates of base and edited model, greedy; by llama.cpp where there is an edited file."""
    kept = directory / f"{Path(str(model_name)).name}.json"
    if kept.is_file():
        return Rates(**json.loads(kept.read_text()))
    model = load_model(str(model_name))
    behavior = behavior_of(options)
    judges = [judge_for(behavior, None, seed=SEED)]
    (prompts,) = (one for one in behavior.prompt_sets if one.name == SET)
    with Store(directory / "continuations.sqlite") as store, ExitStack() as stack:
        generator: Any = TransformersGenerator(model, store=store)
        if edited is not None:
            generator = stack.enter_context(LlamaCppGenerator(model, edited=edited, store=store))
        decodings = decodings_of(prompts, 0, SEED)
        edits = [load_edit(edit)]
        whole = measure_prompt_set(generator, edits, prompts, judges, decodings, store=store).whole
    assert whole.edited is not None
    base, after = whole.base, whole.edited
    rates = Rates((base.rate, base.low, base.high), (after.rate, after.low, after.high))
    kept.write_text(json.dumps(asdict(rates)))
    return rates


def operate(file: Path, edit: Path, options: argparse.Namespace) -> FileResult:
    """Plan, edit a copy in place, let llama.cpp run it, undo."""
    before = sha256_file(file)
    edited = file.with_name(f"{file.stem}-edited.gguf")
    shutil.copy(file, edited)
    plan = answer("plan", edited, edit)
    applied = measure([SURGERY, "apply", edited, edit, "--in-place"])
    answer("verify", edited)
    rates = measured_rates(file.parent, options, file, edit, edited)
    undone = measure([SURGERY, "undo", edited])
    return FileResult(file.name, plan, applied, undone, rates, sha256_file(edited) == before)


def effect(options: argparse.Namespace) -> str:
    """The section of a real edit."""
    directory = options.directory
    directory.mkdir(parents=True, exist_ok=True)
    edit = directory / "edit.safetensors"
    if not edit.is_file():
        fitted_edit(options, edit)
    first = directory / options.file.name
    if not first.is_file():
        shutil.copy(options.file, first)
    second = first.with_name(first.name.replace("Q4_1", "Q4_K_M"))
    if not second.is_file():
        write_q4_k_m(first, second)
    whole = measured_rates(directory, options, options.model, edit, None)
    files = [operate(file, edit, options) for file in (first, second)]
    lines = [
        "| model | gate rows | base | edited | against full precision |", "|---|---|---|---|---|",
        f"| `{options.model}`, transformers f32 | as loaded | {shown(whole.base)} "
        f"| {shown(whole.edited)} | |",
    ]  # fmt: skip
    for one in files:
        points = 100 * (one.rates.edited[0] - whole.edited[0])
        lines.append(
            f"| {one.name}, llama.cpp | {', '.join(one.plan['types'])} "
            f"| {shown(one.rates.base)} | {shown(one.rates.edited)} "
            f"| {points:+.1f} points |"
        )
    lines += [
        "", "| file | type | rows | arrives | cosine | length | apply | peak | undo | SHA-256 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [row for one in files for row in _rows_of(one)]
    return "\n".join(lines)


def _rows_of(one: FileResult) -> list[str]:
    restored = "restored" if one.is_restored else "**differs**"
    return [
        f"| {one.name} | {kind} | {found['rows_edited']:,} | {found['arrival']['arrives']:.4f} "
        f"| {found['arrival']['cosine']:.4f} | {found['arrival']['length']:.4f} "
        f"| {one.applied.seconds:.2f} s | {one.applied.peak_bytes / 1e6:.0f} MB "
        f"| {one.undone.seconds:.2f} s | {restored} |"
        for kind, found in one.plan["types"].items()
        if found["arrival"] is not None
    ]


def shown(rate: Sequence[float]) -> str:
    """A rate with its interval."""
    return f"{rate[0]:.1%} ({100 * rate[1]:.0f}-{100 * rate[2]:.0f})"


def patch(options: argparse.Namespace) -> str:
    """The section of a file in the shape of a 7B."""
    with tempfile.TemporaryDirectory() as place:
        model, edit = Path(place) / "seven-b.Q4_K_M.gguf", Path(place) / "edit.safetensors"
        size = write_seven_b(model)
        rows = _random_edit(model, edit, options.rows)
        lines = [
            f"{size / 1e9:.2f} GB, {rows:,} rows of 4,096 values.",
            "",
            "| run | apply | CPU time | until on disk | peak | undo | CPU time | until on disk |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for number in range(1, options.runs + 1):
            applied = measure([SURGERY, "apply", model, edit, "--in-place"])
            undone = measure([SURGERY, "undo", model])
            lines.append(
                f"| {number} | {_took(applied)} | {applied.peak_bytes / 1e6:.0f} MB "
                f"| {_took(undone)} |"
            )
        planned = answer("plan", model, edit)["types"]["Q4_K"]["arrival"]
        arrives = f"Arrives {planned['arrives']:.4f}, cosine {planned['cosine']:.4f}."
        return "\n".join([*lines, "", arrives])


def _random_edit(model: Path, path: Path, share: float) -> int:
    checkpoint = open_checkpoint(model)
    gates = find_gate_matrices(checkpoint)
    direction = np.random.default_rng(1).standard_normal(gates[0].hidden_size).astype(np.float32)
    region = select_region(score_rows(checkpoint, gates, direction[None]), share)
    edit = make_edit(region, direction, strength=SEVEN_B_STRENGTH).bound_to(checkpoint)
    save_edit(edit, path)
    return edit.row_count


def _took(one: Measured) -> str:
    return f"{one.seconds:.2f} s | {one.cpu_seconds:.2f} s | {one.seconds_on_disk:.2f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and, if asked, write a section of the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["effect", "patch"])
    parser.add_argument("file", type=Path, nargs="?", help="effect: a Q4_1 file of the model")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--directory", type=Path, default=Path("surgery-runs/gguf"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=float, default=PAPER_ROWS, help="patch: share of rows")
    parser.add_argument("--results", action="store_true", help=f"write a section of {RESULTS.name}")
    options = parser.parse_args(arguments)
    if options.what == "effect" and (options.file is None or options.data is None):
        parser.error("effect needs FILE and --data")
    body = effect(options) if options.what == "effect" else patch(options)
    print(body)
    if options.results:
        title = {"effect": "GGUF files of a real model", "patch": "A GGUF file of 7B"}[options.what]
        machine = f"{describe_machine(Path())}; {describe_versions()}."
        write_section(
            RESULTS, title, f"`python -m benchmarks.gguf {options.what}`. {machine}\n\n{body}"
        )


if __name__ == "__main__":
    main()
