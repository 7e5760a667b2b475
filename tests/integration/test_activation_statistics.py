"""Statistics of activations, for every family: against differences of losses and sums by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from families import LOADED, loaded
from modelsurgery import Edit, LanguageModel
from modelsurgery.apply.in_memory import edited
from modelsurgery.edit.edit import RowUpdate
from modelsurgery.files.provenance import Provenance
from modelsurgery.model.activations.ledger import Ledger, Sums
from modelsurgery.model.activations.moments import DenseMoment, SampledMoment
from modelsurgery.model.activations.passes import FORWARD_TOKENS, Passes
from modelsurgery.model.activations.sites import GateSite, find_sites, watching_inputs
from modelsurgery.model.activations.statistics import (
    measure_gains,
    measure_inputs,
    measure_moments,
    measure_prices,
)
from modelsurgery.model.activations.texts import TokenizedText, text_batches
from tiny import tiny_sentences, write_tiny_model

TEXTS = [TokenizedText((1, 7, 9, 14, 11, 23)), TokenizedText((1, 12, 31, 8), 2)]


def mean_loss(model: LanguageModel, texts: list[TokenizedText]) -> float:
    """Mean loss per predicted token, in f64, one text at a time and without padding."""
    total, tokens = 0.0, 0
    for text in texts:
        with torch.inference_mode():
            ids = torch.tensor([text.ids])
            logits = model.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
        aims = torch.tensor(text.ids[text.start :])
        total += float(cross_entropy(logits[text.start - 1 : -1].double(), aims, reduction="sum"))
        tokens += len(aims)
    return total / tokens


def random_directions(sites: tuple[GateSite, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {site.name: torch.randn(1, site.hidden_size, generator=generator) for site in sites}


def edit_along(
    model: LanguageModel,
    sites: tuple[GateSite, ...],
    directions: dict[str, torch.Tensor],
    coefficients: dict[str, np.ndarray],
    size: float,
) -> Edit:
    """The edit that gives each row its coefficient times the direction of its site."""
    by_address = {
        gate.address: (directions[site.name][0].numpy(), coefficients[site.name][number])
        for site in sites
        for number, gate in enumerate(site.gates)
    }
    updates = tuple(
        RowUpdate(
            gate.tensor, gate.address, (gate.rows, gate.hidden_size), gate.dtype,
            np.arange(gate.rows, dtype=np.int32),
            (size * by_address[gate.address][1]).astype(np.float32),
            by_address[gate.address][0],
        )
        for gate in model.gates
    )  # fmt: skip
    return Edit(updates, 1.0, 1.0, sum(gate.rows for gate in model.gates), Provenance())


@pytest.mark.parametrize("family", LOADED)
def test_gains_are_the_slopes_of_the_loss(family: str, tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m", family))
    sites = find_sites(model.model)
    assert sum(len(site.gates) * site.rows for site in sites) == sum(
        one.rows for one in model.gates
    )
    # transformers 5.23 reads a text of PaliGemma otherwise when others are in its batch.
    texts = TEXTS[:1] if family == "paligemma" else TEXTS
    tokens = sum(len(text.ids) - text.start for text in texts)
    directions = random_directions(sites)
    gains = measure_gains(Passes(model), sites, directions, [[texts]])
    assert float(gains.tokens.sum()) == tokens
    slopes = {name: one[0, 0, 0].numpy() / tokens for name, one in gains.by_site.items()}
    random = np.random.default_rng(1)
    noise = {name: random.standard_normal(one.shape) for name, one in slopes.items()}
    long, wide = (
        np.sqrt(sum(np.square(one).sum() for one in some.values())) for some in (slopes, noise)
    )
    # Where the slopes point, so that there is something to measure, and elsewhere as well.
    coefficients = {name: slopes[name] / long + noise[name] / wide for name in slopes}
    predicted = sum(float((slopes[name] * some).sum()) for name, some in coefficients.items())
    size = 2e-3
    losses = []
    for sign in (1, -1):
        change = edit_along(model, sites, directions, coefficients, sign * size)
        with edited(model.model, change):
            losses.append(mean_loss(model, texts))
    measured = (losses[0] - losses[1]) / (2 * size)
    assert predicted == pytest.approx(measured, rel=0.02)
    assert predicted > 0.01


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "qwen3_moe", "gpt_oss", "llama4_text"])
def test_what_sites_read_is_summed_over_tokens_and_not_padding(family: str, tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m", family))
    sites = find_sites(model.model)
    seen: dict[str, list[torch.Tensor]] = {site.name: [] for site in sites}
    for text in TEXTS:
        with watching_inputs(sites, lambda site, inputs: seen[site.name].append(inputs)):
            model.decoder(input_ids=torch.tensor([text.ids]))
    means = measure_inputs(Passes(model), sites, [TEXTS, TEXTS[:1]])
    moments = measure_moments(Passes(model), sites, TEXTS)
    for site in sites:
        whole = [one.reshape(-1, len(text.ids), one.shape[-1]).sum(0)
                 for one, text in zip(seen[site.name], TEXTS, strict=True)]  # fmt: skip
        of_texts = [
            one[text.start - 1 : -1].mean(0) for one, text in zip(whole, TEXTS, strict=True)
        ]
        expected = torch.stack([torch.stack(of_texts).mean(0), of_texts[0]])
        torch.testing.assert_close(means[site.name], expected, rtol=1e-4, atol=1e-5)
        tokens = torch.cat(whole)
        moment = tokens.T @ tokens / 10
        found = moments[site.name]
        assert isinstance(found, DenseMoment)
        torch.testing.assert_close(found.matrix, moment, rtol=1e-4, atol=1e-5)
        # The same inputs, kept as they are: of ten all, or every other one.
        batches = sorted(zip(TEXTS, whole, strict=True), key=lambda one: -len(one[0].ids))
        in_order = torch.cat([one for _, one in batches])
        for samples, kept in ((16, in_order), (5, in_order[::2])):
            sampled = measure_moments(Passes(model, samples=samples), sites, TEXTS)[site.name]
            assert isinstance(sampled, SampledMoment)
            torch.testing.assert_close(sampled.inputs, kept, rtol=1e-4, atol=1e-5)


def test_prices_are_mean_squares_of_gradients_of_labels_that_the_model_draws(
    tmp_path: Path,
) -> None:
    model = loaded(write_tiny_model(tmp_path / "m"))
    sites = find_sites(model.model)
    text = TokenizedText((1, 7))  # one prediction, so the expectation can be written out
    site = sites[-1]
    captured: list[torch.Tensor] = []

    def keep(_: object, __: object, output: torch.Tensor) -> None:
        output.requires_grad_()
        captured.append(output)

    handle = site.module.register_forward_hook(keep)
    logits = model.model(input_ids=torch.tensor([text.ids])).logits[0, 0]
    handle.remove()
    shares, told = logits.softmax(-1), logits.log_softmax(-1)
    expected = torch.zeros(site.rows)
    for token, share in enumerate(shares):
        (gradient,) = torch.autograd.grad(told[token], captured[0], retain_graph=True)
        expected += share.detach() * gradient[0].square().sum(0)
    found = torch.stack(
        [measure_prices(Passes(model), sites, [text], seed=seed)[site.name][0]
         for seed in range(400)]
    ).mean(0)  # fmt: skip
    ratio = float(found.sum() / expected.sum())
    assert 0.9 < ratio < 1.1
    assert float(torch.corrcoef(torch.stack([found.float(), expected]))[0, 1]) > 0.98


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "qwen3_moe"])
def test_blocks_computed_again_give_the_same(family: str, tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m", family))
    sites = find_sites(model.model)
    directions = random_directions(sites)
    plain, again = (
        measure_gains(Passes(model, checkpointing=flag), sites, directions, [[TEXTS]])
        for flag in (False, True)
    )
    for name, one in plain.by_site.items():
        torch.testing.assert_close(again.by_site[name], one, rtol=1e-5, atol=1e-7)
        assert float(one.abs().sum()) > 0
    assert not any(module.training for module in model.model.modules())


Measure = Callable[[Passes, Sequence[GateSite], Sequence[TokenizedText]], dict[str, Any]]


@pytest.mark.parametrize(
    ("measure", "samples", "batch_tokens", "repeated"),
    [(measure_prices, None, 64, 1), (measure_moments, None, FORWARD_TOKENS, 40),
     (measure_moments, 5000, FORWARD_TOKENS, 40)],
)  # fmt: skip
def test_a_pass_that_was_killed_loses_one_batch(
    measure: Measure, samples: int | None, batch_tokens: int, repeated: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = loaded(write_tiny_model(tmp_path / "m"))
    sites = find_sites(model.model)
    texts = [
        TokenizedText(tuple(model.tokenizer(text)["input_ids"])) for text in tiny_sentences(40)
    ] * repeated
    passes = Passes(model, batch_tokens=batch_tokens, samples=samples)
    whole = measure(passes, sites, texts)
    batches = len(list(text_batches(model, texts, batch_tokens)))
    assert batches > 4
    kept = Ledger.keep
    count = 0

    def killed(self: Ledger, key: str, sums: Sums, done: int, *, is_last: bool) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt  # the fourth batch was read and is not kept
        kept(self, key, sums, done, is_last=is_last)

    monkeypatch.setattr(Ledger, "keep", killed)
    monkeypatch.setattr("modelsurgery.model.activations.ledger.MOST_WRITING", 1e9)
    with pytest.raises(KeyboardInterrupt):
        measure(replace(passes, ledger=Ledger(tmp_path / "l")), sites, texts)
    count = 100
    again = measure(replace(passes, ledger=Ledger(tmp_path / "l")), sites, texts)
    assert count - 100 == batches - 3  # all batches but the three that were kept
    for name, one in whole.items():
        if isinstance(one, torch.Tensor):
            assert torch.equal(again[name], one)
        else:
            known, found = vars(one), vars(again[name])
            assert all(torch.equal(found[key], some) for key, some in known.items())


def test_another_model_or_text_is_not_taken_for_the_one_in_the_ledger(tmp_path: Path) -> None:
    model = loaded(write_tiny_model(tmp_path / "m"))
    other = loaded(write_tiny_model(tmp_path / "n", seed=1))
    ledger = Ledger(tmp_path / "l")
    found = [
        measure_inputs(Passes(one, ledger), find_sites(one.model), [texts])
        for one in (model, other)
        for texts in (TEXTS, [replace(TEXTS[0], start=3)])
    ]
    values = [next(iter(one.values())) for one in found]
    assert len({tuple(value.flatten().tolist()) for value in values}) == 4


def test_texts_beyond_the_context_are_cut_and_those_with_nothing_left_to_predict_left_out(
    tmp_path: Path,
) -> None:
    model = loaded(write_tiny_model(tmp_path / "m"))  # 128 positions
    long = (1, *(7, 9) * 80)
    texts = [TokenizedText(long), TokenizedText(long, 130), TEXTS[0]]
    first, second = text_batches(model, texts, 128)
    assert (first.rows, first.inputs["input_ids"].shape) == ((0,), (1, 128))
    assert (second.rows, int(second.predicted.sum())) == ((2,), 5)
