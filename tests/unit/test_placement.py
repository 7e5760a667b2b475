"""Where weights go, as it is typed."""

from pathlib import Path

import pytest
import torch

from modelsurgery.errors import RecipeError
from modelsurgery.model import placement
from modelsurgery.model.placement import Placement, memory_limits, single_device


def test_memory_is_given_for_each_device_or_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert memory_limits("20GB") == {0: 20 * 10**9, 1: 20 * 10**9, "cpu": 20 * 10**9}
    assert memory_limits("0=40GiB, cpu=1.5MB") == {0: 40 * 2**30, "cpu": 1_500_000}
    assert memory_limits("cpu=512 MiB") == {"cpu": 2**29}


@pytest.mark.parametrize(
    "text", ["", "much", "20", "GB", "20GB,10GB", "0=1GB,0=2GB", "disk=1GB", "1GB,cpu=1GB", "-1GB"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="expected a size for each device"):
        memory_limits(text)


def test_only_a_model_on_several_devices_has_limits() -> None:
    for given in ({"max_memory": "1GB"}, {"offload": Path("d"), "device": "cpu"}):
        with pytest.raises(RecipeError, match=r"--\S+ is for .*--device auto"):
            Placement(**given)  # type: ignore[arg-type]
    assert Placement().map is None
    pytest.importorskip("accelerate")
    assert Placement("auto", max_memory="1GB").map == "auto"
    assert Placement(device_map={"": "cpu"}).map == {"": "cpu"}


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'modelsurgery\[devices\]'"):
        Placement("auto")
    assert Placement("cpu").main == torch.device("cpu")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(RecipeError, match="expected cpu, cuda, cuda:N or auto"):
        single_device("everywhere")
