"""What the README tells people to type works."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from surgery import surgery

from llama_cpp import write_gguf_model
from modelsurgery.data import demo

pytestmark = pytest.mark.slow
README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    rows = demo.labeled_texts("toxicity", 300, 0)
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    (tmp_path / "texts.jsonl").write_text("".join(lines))
    return tmp_path


def test_the_python_example_runs(workplace: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example.count("\n") <= 20
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (workplace / "edited" / "model.safetensors").is_file()
    assert not (workplace / "edited" / "surgery.json").exists()  # undone


def test_the_steps_of_the_command_line_run(workplace: Path, demo_path: Path) -> None:
    readme = README.read_text(encoding="utf-8")
    steps = re.findall(r"^(surgery (?!run).*?)(?:\s+#.*)?$", readme, re.M)
    # Of the reader's own, made by a run, or with a server.
    elsewhere = ("DIR", "both/", "run/", "HOST")
    wanted = list(dict.fromkeys(one for one in steps if not any(name in one for name in elsewhere)))
    verbs = {step.split()[1] for step in wanted}
    assert verbs == {
        "probe", "edit", "apply", "inspect", "plan", "verify", "diff", "undo", "behaviors",
        "export", "rivals",
    }  # fmt: skip
    model = Path(shutil.copytree(demo_path, workplace / "MODEL"))
    write_gguf_model(demo_path, workplace / "MODEL.gguf", "Q8_0")
    original = (model / "model.safetensors").read_bytes()
    for step in (one for one in wanted if one.split()[1] != "export"):
        surgery(*step.split()[1:], cwd=workplace)
    assert (workplace / "edited" / "model.safetensors").read_bytes() == original
    assert (model / "model.safetensors").read_bytes() != original  # edited in place
    surgery("undo", "MODEL", cwd=workplace)
    assert (model / "model.safetensors").read_bytes() == original
    for step in (one for one in wanted if one.split()[1] == "export"):
        surgery(*step.split()[1:], cwd=workplace)
    assert {"adapter", "adapter.gguf", "polite-model", "repository"} <= {
        one.name for one in workplace.iterdir()
    }
