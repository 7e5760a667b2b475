"""Models with blocks on disk: the same sums, edits and texts as in memory, and untouched files."""

import gc
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from families import load, logits, random_edit
from modelsurgery import LanguageModel, edited, fit_edit, load_model, wrap
from modelsurgery.apply.loaded_weights import disk_bytes, is_offloaded, stored_values
from modelsurgery.data.texts import LabeledText
from modelsurgery.errors import RecipeError, StorageError, UnsupportedModelError
from modelsurgery.evaluation.decoding import Decoding
from modelsurgery.evaluation.generation import TransformersGenerator
from modelsurgery.evaluation.screening import Screen
from modelsurgery.files.atomic import sha256_file
from modelsurgery.model.activations.passes import Passes
from modelsurgery.model.activations.sites import find_sites, mean_row_norm
from modelsurgery.model.activations.statistics import (
    measure_gains,
    measure_inputs,
    measure_moments,
    measure_prices,
)
from modelsurgery.model.activations.texts import TokenizedText
from modelsurgery.model.hidden_states import extract_hidden_states
from modelsurgery.model.loading import load_without_weights
from modelsurgery.model.stacking import stacked
from spread import in_memory_and_spread
from tiny import tiny_sentences, tiny_tokenizer, write_tiny_model

pytest.importorskip("accelerate")
from accelerate import cpu_offload, disk_offload  # where it is installed

# One of each layout: plain, fused gate and up, GELU without gate, transposed, experts in one
# tensor that is saved otherwise, the same in GPT-OSS's order, experts beside a shared MLP.
LAYOUTS = ["llama", "phi3", "gpt_neox", "gpt2", "qwen3_moe", "gpt_oss", "deepseek_v2"]
TEXTS = [TokenizedText((1, 7, 9, 14, 11, 23)), TokenizedText((1, 12, 31, 8), 2)]
LABELED = [
    LabeledText(f"{sentence} {ending}", label, group=sentence)
    for sentence in tiny_sentences(60)
    for label, ending in ((1, "rude bad"), (0, "kind good"))
]
pytestmark = pytest.mark.filterwarnings("ignore:The following device_map keys")


def hashes(directory: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(directory.iterdir()) if path.is_file()}


def values_of(model: LanguageModel) -> dict[str, torch.Tensor]:
    """All parameters, wherever they are."""
    return {
        name: stored_values(model.model, name).clone() for name, _ in model.model.named_parameters()
    }


@pytest.fixture(params=LAYOUTS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LanguageModel, LanguageModel]:
    write_tiny_model(tmp_path / "m", request.param, dtype=torch.bfloat16)
    return in_memory_and_spread(tmp_path / "m", tmp_path / "offload")


Pair = tuple[LanguageModel, LanguageModel]


def test_half_of_the_blocks_are_on_disk(pair: Pair) -> None:
    plain, spread = pair
    assert not is_offloaded(plain.model)
    assert is_offloaded(spread.model)
    whole = sum(one.numel() * 4 for one in plain.model.parameters())
    assert 0.2 * whole < disk_bytes(spread.model) < 0.9 * whole
    assert spread.device == plain.device == torch.device("cpu")
    assert spread.block_shares == {torch.device("cpu"): 1.0}


def test_logits_edited_logits_and_what_is_left_are_those_of_the_model_in_memory(
    pair: Pair,
) -> None:
    plain, spread = pair
    directory = plain.checkpoint.directory
    before = hashes(directory)
    edits = [random_edit(directory), random_edit(directory, 1).scaled(0.5)]
    base, weights = logits(plain.model), values_of(spread)
    assert logits(spread.model).equal(base)
    with edited(plain, *edits) as expected:
        changed, changed_weights = logits(plain.model), values_of(plain)
    with edited(spread, *edits) as changes:
        assert logits(spread.model).equal(changed)
        assert not changed.equal(base)
        for name, value in values_of(spread).items():
            assert value.equal(changed_weights[name]), name
    for one, other in zip(expected, changes, strict=True):
        assert np.array_equal(one.before, other.before)
        assert np.array_equal(one.after, other.after)
    assert logits(spread.model).equal(base)
    for name, value in values_of(spread).items():
        assert value.equal(weights[name]), name
    assert hashes(directory) == before


def test_an_edit_of_an_edited_model_is_taken_back_alone(pair: Pair) -> None:
    first, second = (random_edit(pair[0].checkpoint.directory, seed) for seed in (0, 1))
    seen = []
    for model in pair:
        with stacked(model, [first]):
            before = logits(model.model)
            with suppress(KeyboardInterrupt), edited(model, second.unbound()):
                seen.append(logits(model.model))
                raise KeyboardInterrupt
            assert logits(model.model).equal(before)
    assert seen[0].equal(seen[1])
    assert not seen[0].equal(before)


@pytest.mark.parametrize("kept", ["memory", "files"])
def test_a_model_that_accelerate_offloaded_itself_is_edited_and_given_back(
    kept: str, tmp_path: Path
) -> None:
    directory = write_tiny_model(tmp_path / "m", "llama", dtype=torch.bfloat16)
    plain = load(directory, "llama")
    theirs = load(directory, "llama")
    if kept == "memory":
        cpu_offload(theirs, execution_device="cpu")
    else:
        disk_offload(theirs, tmp_path / "theirs", execution_device="cpu")
    spread, edit = wrap(theirs, tiny_tokenizer(), checkpoint=directory), random_edit(directory)
    assert (disk_bytes(theirs) > 0) == (kept == "files")
    files = [hashes(one) for one in tmp_path.iterdir()]
    weights = values_of(spread)
    with edited(plain, edit), edited(spread, edit):
        assert logits(theirs).equal(logits(plain))
        assert not values_of(spread)[edit.updates[0].tensor].equal(weights[edit.updates[0].tensor])
    assert logits(theirs).equal(logits(plain))
    assert all(value.equal(weights[name]) for name, value in values_of(spread).items())
    assert [hashes(one) for one in tmp_path.iterdir()] == files


def test_weights_that_nothing_loads_are_refused(tiny_llama: Path) -> None:
    model, edit = load_without_weights(tiny_llama), random_edit(tiny_llama)
    with pytest.raises(UnsupportedModelError, match="not in memory"), edited(model, edit):
        pass


def sums_of(model: LanguageModel) -> dict[str, torch.Tensor]:
    """What statistics and extraction give, by name."""
    passes, sites = Passes(model), find_sites(model.model)
    generator = torch.Generator().manual_seed(0)
    along = {site.name: torch.randn(1, site.hidden_size, generator=generator) for site in sites}
    moments = measure_moments(passes, sites, TEXTS)
    found = {
        "inputs": measure_inputs(passes, sites, [TEXTS]),
        "moments": {name: one.overlap(along[name]) for name, one in moments.items()},
        "prices": measure_prices(passes, sites, TEXTS),
        "gains": measure_gains(passes, sites, along, [[TEXTS]]).by_site,
        "states": extract_hidden_states(model, tiny_sentences(5)).by_layer,
        "norms": {"mean": torch.tensor(mean_row_norm(sites))},
    }
    return {f"{kind} {name}": one for kind, by in found.items() for name, one in by.items()}


def test_sums_over_texts_are_the_same(pair: Pair) -> None:
    plain, spread = map(sums_of, pair)
    assert plain.keys() == spread.keys()
    for name, value in plain.items():
        assert value.abs().max() > 0, name
        assert spread[name].equal(value), name


def test_no_weight_of_an_offloaded_block_stays_after_a_way_back(pair: Pair) -> None:
    _, spread = pair
    on_disk = [name for name, one in spread.model.named_parameters() if one.is_meta]
    assert on_disk
    measure_prices(Passes(spread), find_sites(spread.model), TEXTS)
    assert [name for name, one in spread.model.named_parameters() if one.is_meta] == on_disk


def test_generated_texts_are_the_same(pair: Pair) -> None:
    prompts = tiny_sentences(6)
    edit = random_edit(pair[0].checkpoint.directory)
    for decoding in (Decoding(max_new_tokens=8), Decoding(max_new_tokens=8, seed=3)):
        told = [
            [
                TransformersGenerator(model).generate(prompts, decoding, edits)
                for edits in ((), (edit,))
            ]
            for model in pair
        ]
        assert told[0] == told[1]
        assert told[0][0] != told[0][1]


def test_losses_of_several_edits_are_the_same(pair: Pair) -> None:
    plain, _ = pair
    edits = [random_edit(plain.checkpoint.directory, seed).scaled(0.3) for seed in (0, 1)]
    effects = [
        Screen(model, tiny_sentences(4, 1), tiny_sentences(4, 2), tiny_sentences(6, 3)).measure(
            edits
        )
        for model in pair
    ]
    assert effects[0] == effects[1]
    assert all(effect.divergence > 0 for effect in effects[0])


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_a_natural_gradient_edit_is_the_same_to_the_byte(family: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "m", family, dtype=torch.bfloat16)
    pair = in_memory_and_spread(tmp_path / "m", tmp_path / "offload")
    edits = [fit_edit(model, LABELED, strength=0.5) for model in pair]
    assert edits[0].content_sha256 == edits[1].content_sha256


def test_what_does_not_fit_in_memory_goes_to_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = write_tiny_model(tmp_path / "m", "llama")
    plain = load_model(directory)
    whole = int(plain.model.get_memory_footprint())
    before = hashes(directory)
    for limit, least, most in ((10 * whole, 0, 0), (8 * whole // 10, 0.2 * whole, 0.8 * whole)):
        caplog.clear()
        spread = load_model(directory, device="auto", max_memory=f"{limit / 1000:g}KB")
        assert least <= disk_bytes(spread.model) <= most
        assert logits(spread.model).equal(logits(plain.model))
        said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
        share = f"{100 * disk_bytes(spread.model) / whole:.0f} % are on disk"
        assert len(said) == (most > 0)
        assert all(share in line for line in said)
    assert hashes(directory) == before


def test_experts_are_written_to_a_directory_that_ends_with_the_model(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "m", "qwen3_moe")
    with pytest.raises(RecipeError, match="--offload DIR"):
        load_model(directory, device="auto", max_memory="cpu=40KB")
    place = tmp_path / "deep" / "offload"
    spread = load_model(directory, device="auto", max_memory="cpu=40KB", offload=place)
    assert len([*place.rglob("*.safetensors")]) > 0
    assert logits(spread.model).equal(logits(load_model(directory).model))
    del spread
    gc.collect()
    assert [*place.iterdir()] == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    directory = write_tiny_model(tmp_path / "m", "qwen3_moe")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file: cannot be written .*--offload"):
        load_model(directory, device="auto", offload=tmp_path / "file")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few pages."""
    place = tmp_path / "disk"
    place.mkdir()
    size = 4 * os.sysconf("SC_PAGE_SIZE")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    directory = write_tiny_model(tmp_path / "m", "qwen3_moe")
    with pytest.raises(StorageError, match=r"no space left .*--offload"):
        load_model(directory, device="auto", max_memory="cpu=40KB", offload=small_disk)
    assert [*small_disk.iterdir()] == []
