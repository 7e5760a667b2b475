"""A run directory: everything one run wrote, whole or resumable.

It holds `recipe.resolved.yaml  manifest.json  probe.safetensors  edit.safetensors
samples/*.jsonl  results.json  features/*.safetensors`. The manifest is written last: a directory
with a recipe and no manifest was interrupted, and the same command goes on with it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load, save

from modelsurgery.errors import OutputExistsError
from modelsurgery.evaluation.measurement import Sample
from modelsurgery.files import sha256_file, sha256_json, write_bytes, write_json, write_text
from modelsurgery.hidden_states import HiddenStates, extract_hidden_states
from modelsurgery.models import LanguageModel
from modelsurgery.progress import Progress, silent
from modelsurgery.provenance import provenance

RECIPE_FILE = "recipe.resolved.yaml"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class RunDirectory:
    """Where a run keeps what it makes.

    Attributes:
        path: the directory.
    """

    path: Path

    def hidden_states(
        self,
        model: LanguageModel,
        texts: Sequence[str],
        layers: Sequence[int],
        *,
        progress: Progress = silent,
    ) -> HiddenStates:
        """`extract_hidden_states`, or what it gave before for the same model and texts."""
        key = sha256_json([model.fingerprint(), str(model.model.dtype), list(texts), list(layers)])
        path = self.path / "features" / f"{key[:32]}.safetensors"
        if path.is_file():
            try:
                cached = load(path.read_bytes())
                return HiddenStates({layer: cached[str(layer)] for layer in layers})
            except (SafetensorError, KeyError):
                path.unlink()  # damaged by something else: made again below
        states = extract_hidden_states(model, texts, layers, progress=progress)
        tensors: dict[str, torch.Tensor] = {str(k): v for k, v in states.by_layer.items()}
        write_bytes(path, save(tensors))
        return states

    def write_samples(self, name: str, samples: Iterable[Sample]) -> None:
        """Write samples as JSON lines."""
        lines = (json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)
        write_text(self.path / "samples" / f"{name}.jsonl", "".join(lines))

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results and, last, the manifest that says that the run is whole."""
        write_json(self.path / "results.json", results)
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        write_json(
            self.path / MANIFEST_FILE,
            {
                "provenance": provenance().to_json(),
                "sha256": {str(path.relative_to(self.path)): sha256_file(path) for path in files},
            },
        )


def open_run(path: Path | None, recipe: dict[str, Any], *, default_name: str) -> RunDirectory:
    """Start a run directory, or go on with one that the same recipe left unfinished.

    Args:
        path: where; None takes the first free `surgery-runs/NAME-N`.
        recipe: the resolved recipe, as plain values.
        default_name: NAME.

    Raises:
        OutputExistsError: a finished run, another recipe's run, or something else is there.
        StorageError: the place cannot be written.
    """
    content = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    if path is None:
        path = next(
            candidate
            for number in range(1, 1_000_000)
            if not (candidate := Path("surgery-runs") / f"{default_name}-{number}").exists()
        )
    resolved = path / RECIPE_FILE
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        unfinished = resolved.is_file() and not (path / MANIFEST_FILE).exists()
        if not unfinished:
            raise OutputExistsError(f"{path} exists already; choose another --out or remove it")
        if resolved.read_text(encoding="utf-8") != content:
            raise OutputExistsError(
                f"{path} holds an unfinished run of another recipe; choose "
                "another --out or remove it"
            )
    write_text(resolved, content)
    return RunDirectory(path)
