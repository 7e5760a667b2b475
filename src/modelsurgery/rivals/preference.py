"""Direct preference optimization on pairs of texts (TRL), with a LoRA adapter."""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from huggingface_hub import constants
from transformers import PrinterCallback, TrainerCallback

from modelsurgery.errors import EvaluationError
from modelsurgery.files.progress import Progress, silent
from modelsurgery.model.activations.texts import TokenizedText
from modelsurgery.model.language_model import LanguageModel
from modelsurgery.model.token_ids import padded
from modelsurgery.rivals.adapters import CLIP, WARMUP, Factors, LoraSettings, adapted, factors_of
from modelsurgery.rivals.intervention import Intervention
from modelsurgery.rivals.method import Materials, Method

BETA = 0.1
SETTINGS = LoraSettings(rate=1e-4, epochs=3)
LATER = "ref"  # name of the adapter that TRL adds, a copy of the fresh one


class PreferenceOptimization(Method):
    """An adapter that prefers texts of what should come to those of what should go.

    -log σ(β (Δ(chosen) - Δ(rejected))), where Δ is how much more probable a text is than to the
    base model. Of an exchange the reply counts, given the request.
    """

    name = "dpo"
    title = "direct preference optimization"
    source = "Rafailov et al., Direct Preference Optimization, NeurIPS 2023, arXiv 2305.18290"
    delivery = "weights or adapter"
    settings = f"β {BETA:g}, {SETTINGS}"
    note = (
        "Texts without a request have no prompt but the tokenizer's first token; the reference "
        "trains all weights."
    )

    def fit(self, given: Materials) -> Intervention:
        """Train on pairs."""
        chosen = given.read([opposite for _, opposite in given.pairs])
        rejected = given.read([shows for shows, _ in given.pairs])
        found = train_on_pairs(
            given.model, chosen, rejected, SETTINGS, seed=given.seed, progress=given.progress
        )
        return found.intervention()


def train_on_pairs(
    model: LanguageModel,
    chosen: Sequence[TokenizedText],
    rejected: Sequence[TokenizedText],
    settings: LoraSettings,
    *,
    seed: int,
    progress: Progress = silent,
) -> Factors:
    """What adapters add that were trained to prefer one text of each of n pairs.

    Raises:
        EvaluationError: trl or peft is not installed.
    """
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        trl, datasets = _libraries()
        stack.enter_context(_as_it_was(model.model))
        wrapped = stack.enter_context(adapted(model, settings, seed))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        advance = stack.enter_context(progress("prefer", settings.epochs * len(chosen)))

        # TRL (1.16) would tokenize texts in its own way and end each with EOS; these are ids.
        as_it_is = {"_prepare_dataset": lambda _, dataset, *__: dataset}
        trainer_class = type("Trainer", (trl.DPOTrainer,), as_it_is)
        pairs = [
            {"chosen": asdict(one), "rejected": asdict(other)}
            for one, other in zip(chosen, rejected, strict=True)
        ]
        config = trl.DPOConfig(**_arguments(model, settings, len(pairs), directory, seed))
        config._n_gpu = min(config.n_gpu, 1)  # else Trainer copies the model to all that it sees
        trainer = trainer_class(
            model=wrapped,
            args=config,
            train_dataset=datasets.Dataset.from_list(pairs),
            processing_class=model.tokenizer,
            data_collator=partial(_batch_of, model),
            callbacks=[_Told(lambda: advance(settings.batch))],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        wrapped.delete_adapter(LATER)
        return factors_of(wrapped)


def _batch_of(model: LanguageModel, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What TRL reads of some pairs: all chosen texts, then all rejected ones, padded on the right.

    TRL's own collator knows one prompt for both; here each text may have its own.
    """
    texts = [row[side] for side in ("chosen", "rejected") for row in rows]
    batch = padded([one["ids"] for one in texts], model.tokenizer.pad_token_id, "right")
    starts = torch.tensor([one["start"] for one in texts]).unsqueeze(1)
    place = torch.arange(batch["input_ids"].shape[1])
    counted = batch["attention_mask"].bool() & (place >= starts)
    return {**batch, "completion_mask": counted.long()}


def _arguments(
    model: LanguageModel, settings: LoraSettings, pairs: int, directory: str, seed: int
) -> dict[str, Any]:
    """Settings of the trainer: those of `LoraSettings`, and nothing written or told to anybody."""
    steps = settings.epochs * -(-pairs // settings.batch)
    return {
        "output_dir": directory,
        "beta": BETA,
        "learning_rate": settings.rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch,
        "warmup_steps": max(1, round(WARMUP * steps)),
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "max_grad_norm": CLIP,
        "max_length": None,
        "bf16": model.model.dtype == torch.bfloat16,
        "gradient_checkpointing": False,
        "use_cpu": model.device.type == "cpu",
        "dataloader_pin_memory": False,
        "seed": seed,
        "remove_unused_columns": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


class _Told(TrainerCallback):
    """Tells of each step."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._tell()


def _libraries() -> tuple[Any, Any]:
    try:
        import datasets
        import trl
    except ImportError as error:
        raise EvaluationError(
            "preference optimization needs trl; pip install 'modelsurgery[rivals]', or leave it "
            "out with --method"
        ) from error
    return trl, datasets


@contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """Take back what TRL (1.16) sets on a model: forward, tags, padding in its configurations."""
    parts = (model, model.config, model.config.get_text_config(), model.generation_config)
    kept = [(part, dict(vars(part))) for part in parts]
    try:
        yield
    finally:
        for part, before in kept:
            vars(part).clear()
            vars(part).update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning, no log line and no telemetry of the libraries under this."""
    loggers = [logging.getLogger(name) for name in ("trl", "transformers", "accelerate", "peft")]
    levels = [one.level for one in loggers]
    telemetry = constants.HF_HUB_DISABLE_TELEMETRY
    try:
        constants.HF_HUB_DISABLE_TELEMETRY = True
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
