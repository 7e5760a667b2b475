"""Train the demo model: `python -m tools.train_demo --out DIR [--minutes M | --steps N]`.

Owns the tokenizer (byte-level BPE), the model's shape, the data pipeline and the training loop. A
run is seeded; it can be killed at any time and goes on with `--resume` from its last checkpoint
(safetensors and JSON, written beside and renamed; no pickle). `--init DIR` starts from a finished
model, with its tokenizer, a new schedule and other documents: a further leg. With `--minutes` the
number of steps is set by timing the first ones, and recorded, so that a resumed run keeps its
schedule. `training.json` beside the weights lists the legs that made them.
"""

import argparse
import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modelsurgery.data.demo.grammar import training_documents

logger = logging.getLogger(__name__)

TOKENIZER_DOCUMENTS = 40_000
POOL = 96  # documents that wait to be packed into rows
SPECIAL_TOKENS = {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}


@dataclass(frozen=True)
class Settings:
    """The shape of the model and of its training; the defaults made the shipped weights."""

    hidden_size: int = 160
    intermediate_size: int = 640
    layers: int = 4
    heads: int = 5
    vocabulary: int = 2816
    rows: int = 16  # rows of one batch
    row_tokens: int = 128  # tokens of one row, whole documents only
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    seed: int = 1


def train_tokenizer(settings: Settings) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer that starts every text with <s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    documents = islice(training_documents(settings.seed), TOKENIZER_DOCUMENTS)
    tokenizer.train_from_iterator(documents, trainer)
    bos = SPECIAL_TOKENS["bos"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    names = {f"{name}_token": token for name, token in SPECIAL_TOKENS.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **names)


def new_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model in f32."""
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def batches(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, skip: int = 0
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of packed documents, `skip` of them left out.

    Each batch has `input_ids`, `position_ids` (from 0 in every document), `labels` (-100 on padding
    and on <s>), all [rows, row_tokens] int64, and `attention_mask` [rows, 1, row_tokens,
    row_tokens] bool, which keeps every document to itself.
    """
    documents = training_documents(settings.seed + 1)
    size = settings.row_tokens
    pool: list[list[int]] = []
    count = 0
    while True:
        rows: list[list[list[int]]] = []
        while len(rows) < settings.rows:
            texts = list(islice(documents, POOL - len(pool)))
            pool += [[*ids, tokenizer.eos_token_id][:size] for ids in tokenizer(texts)["input_ids"]]
            rows.append(_fill_row(pool, size))
        count += 1
        if count > skip:
            yield _pack(rows, size, tokenizer)


def _fill_row(pool: list[list[int]], room: int) -> list[list[int]]:
    """Take documents out of `pool`: the oldest, then the longest that still fit."""
    row = [pool.pop(0)]
    room -= len(row[0])
    while fitting := [index for index, ids in enumerate(pool) if len(ids) <= room]:
        row.append(pool.pop(max(fitting, key=lambda index: (len(pool[index]), -index))))
        room -= len(row[-1])
    return row


def _pack(
    rows: list[list[list[int]]], size: int, tokenizer: PreTrainedTokenizerFast
) -> dict[str, torch.Tensor]:
    shape = (len(rows), size)
    ids = torch.full(shape, tokenizer.pad_token_id)
    positions = torch.zeros(shape, dtype=torch.int64)
    owner = torch.full(shape, -1)
    for r, row in enumerate(rows):
        at = 0
        for number, document in enumerate(row):
            span = slice(at, at + len(document))
            ids[r, span] = torch.tensor(document)
            positions[r, span] = torch.arange(len(document))
            owner[r, span] = number
            at += len(document)
    hidden = (owner < 0) | (ids == tokenizer.bos_token_id)
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    same = owner[:, None, :, None] == owner[:, None, None, :]
    return {
        "input_ids": ids,
        "position_ids": positions,
        "labels": ids.masked_fill(hidden, -100),
        "attention_mask": same & causal,
    }


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Return the rate of `step`: linear warm-up, then a cosine down to a twentieth."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    share = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return settings.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def new_optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def save_checkpoint(
    directory: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, state: dict[str, Any]
) -> None:
    """Write model, optimizer and `state` beside the last checkpoint, then take its place."""
    staged = directory.with_name(directory.name + ".new")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    moments = {
        f"{index}.{name}": tensor
        for index, values in optimizer.state_dict()["state"].items()
        for name, tensor in values.items()
    }
    parameters = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    save_file(parameters, staged / "model.safetensors")
    save_file(moments, staged / "optimizer.safetensors")
    (staged / "state.json").write_text(json.dumps(state, indent=1))
    shutil.rmtree(directory, ignore_errors=True)
    staged.replace(directory)


def load_checkpoint(
    directory: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW
) -> dict[str, Any]:
    """Fill model and optimizer from the checkpoint and return its state."""
    staged = directory.with_name(directory.name + ".new")
    if not directory.exists() and (staged / "state.json").exists():
        staged.replace(directory)  # killed between removing the old and renaming the new
    if not directory.exists():
        raise FileNotFoundError(f"no checkpoint in {directory}: start without --resume")
    saved = load_file(directory / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(saved[name])
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(directory / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    state: dict[str, Any] = json.loads((directory / "state.json").read_text())
    return state


def train(
    out: Path,
    settings: Settings,
    *,
    minutes: float | None,
    steps: int | None,
    init: Path | None,
    resume: bool,
) -> float:
    """Train, write the bf16 model and its tokenizer to `out`, and return the mean loss (nats)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if init is None:
        tokenizer = train_tokenizer(settings)
        model = new_model(settings, tokenizer)
        legs: list[dict[str, Any]] = []
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(init, trust_remote_code=False)
        model = LlamaForCausalLM.from_pretrained(init, dtype=torch.float32, trust_remote_code=False)
        model.train()
        legs = json.loads((init / "training.json").read_text())["legs"]
    model.to(device)  # type: ignore[arg-type]  # transformers 5.23 wraps `to` untyped
    optimizer = new_optimizer(model, settings)
    checkpoint = out.with_name(out.name + ".checkpoint")
    state: dict[str, Any] = {"step": 0, "steps": steps, "loss": 0.0}
    if resume:
        state = load_checkpoint(checkpoint, model, optimizer)
    began, first = time.monotonic(), state["step"]
    for batch in batches(settings, tokenizer, skip=first):
        step = state["step"]
        if state["steps"] is None and step - first == 40:
            pace = (time.monotonic() - began) / 40
            state["steps"] = max(60, int((minutes or 45.0) * 60 / pace))
        if state["steps"] is not None and step >= state["steps"]:
            break
        loss = _update(model, optimizer, batch, step, state["steps"] or 100_000, settings)
        state["loss"] = loss if step == 0 else 0.98 * state["loss"] + 0.02 * loss
        state["step"] = step + 1
        if step % 50 == 0:
            seconds = time.monotonic() - began
            logger.info("step %d/%s loss %.4f %.0f s", step, state["steps"], state["loss"], seconds)
        if step and step % 500 == 0:
            save_checkpoint(checkpoint, model, optimizer, state)
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    legs.append({"settings": asdict(settings), **state})
    record = {"legs": legs, "torch": torch.__version__}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.rmtree(checkpoint, ignore_errors=True)
    return float(state["loss"])


def _update(
    model: LlamaForCausalLM,
    optimizer: torch.optim.AdamW,
    batch: dict[str, torch.Tensor],
    step: int,
    steps: int,
    settings: Settings,
) -> float:
    device = next(model.parameters()).device
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, steps, settings)
    moved = {name: tensor.to(device) for name, tensor in batch.items()}
    loss = model(**moved).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, required=True, help="directory of the finished model")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="time to train, 45 by default")
    length.add_argument("--steps", type=int, help="optimizer steps")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--init", type=Path, help="finished model to start from, a further leg")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    given = vars(parser.parse_args())
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    settings = Settings(seed=given.pop("seed"), learning_rate=given.pop("learning_rate"))
    loss = train(settings=settings, **given)
    logger.info("done: loss %.4f, model in %s", loss, given["out"])


if __name__ == "__main__":
    main()
