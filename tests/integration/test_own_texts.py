"""Texts, prompts and neutral text of one's own, on the command line."""

import json
from pathlib import Path

from command_line import Surgery
from tiny import WORDS


def test_the_probe_reads_replies(surgery: Surgery, tiny_llama: Path, tmp_path: Path) -> None:
    """The same questions stand there with both labels; only what was replied tells them apart."""
    rows = [
        {"prompt": f"{WORDS[n]} {WORDS[n + 1]}", "reply": WORDS[34 + label], "label": label}
        for n in range(30)
        for label in (0, 1)
    ]
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(rows))
    out = tmp_path / "probe.safetensors"
    arguments = ("--texts", texts, "--fit", "logistic", "--layer", 1, "--out", out, "--json")
    done = surgery("probe", tiny_llama, *arguments)
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == 1.0
