"""Every family: an edit in memory, in a copy and in place give the same outputs, and undo works."""

from pathlib import Path

import pytest
import torch

from families import LOADED, load, logits, random_edit
from modelsurgery import apply_in_place, apply_to_copy, edited, open_checkpoint, undo
from modelsurgery.apply.in_memory import edited_per_part
from modelsurgery.errors import UnsupportedModelError
from modelsurgery.files.atomic import sha256_file
from tiny import write_tiny_model


def hashes(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): sha256_file(path) for path in files}


# Llama 4 keeps complex buffers, which are not stored; .to(bfloat16) warns about them.
@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("family", LOADED)
def test_memory_copy_and_in_place_agree_and_undo_gives_every_hash_back(
    family: str, tmp_path: Path
) -> None:
    base, copy = tmp_path / "base", tmp_path / "copy"
    write_tiny_model(base, family, dtype=torch.bfloat16)
    original = hashes(base)
    edit = random_edit(base)
    model = load(base, family)
    before = logits(model)
    with edited(model, edit):
        in_memory = logits(model)
    assert logits(model).equal(before)
    del model  # it may map the file that is patched next

    apply_to_copy(base, [edit], copy)
    assert logits(load(copy, family)).equal(in_memory)
    assert not in_memory.equal(before)

    apply_in_place(base, [edit])
    written = open_checkpoint(base).files
    assert [sha256_file(base / name) for name in written] == [
        sha256_file(copy / name) for name in written
    ]
    for directory in (base, copy):
        undo(directory)
        assert hashes(directory) == original


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("family", LOADED)
def test_several_edits_in_one_pass_give_what_each_gives_alone(family: str, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "base", family, dtype=torch.bfloat16)
    first = random_edit(tmp_path / "base", seed=0)
    second = random_edit(tmp_path / "base", seed=1).scaled(-1.5)
    model = load(tmp_path / "base", family)
    ids = torch.tensor([[1, 7, 9, 14, 11, 23, 8, 30], [1, 9, 30, 12, 4, 7, 21, 5]])
    parts = [(), (first,), (second,), (first, second)]
    if any(update.address.expert >= 0 for update in first.updates):
        with (
            pytest.raises(UnsupportedModelError, match="one edit at a time"),
            edited_per_part(model, parts),
        ):
            pass
        return
    alone = []
    with torch.inference_mode():
        for edits in parts:
            with edited(model, *edits):
                alone.append(model(input_ids=ids).logits)
        whole = ids.repeat(len(parts), 1)
        with edited_per_part(model, parts):
            together = model(input_ids=whole).logits.unflatten(0, (len(parts), -1))
        after = model(input_ids=ids).logits
    assert after.equal(alone[0])  # nothing is left behind
    spread = (alone[1] - alone[0]).abs().max()
    for one, other in zip(alone, together, strict=True):
        assert (one - other).abs().max() <= 2e-3 * spread
    assert spread > 3e-3
