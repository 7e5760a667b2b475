import json
from pathlib import Path

import pytest
import torch
import transformers

from modelsurgery.data.behaviors import BehaviorFile, describe_behavior, load_behavior
from modelsurgery.errors import RecipeError, TextsError, UnsupportedModelError
from modelsurgery.evaluation.agreement import agreement
from modelsurgery.evaluation.judges import judge_for
from modelsurgery.evaluation.judges.classifier import SequenceClassifierJudge
from modelsurgery.evaluation.judges.ngrams import NgramJudge
from modelsurgery.evaluation.judges.phrases import PHRASES, RefusalPhrasesJudge
from modelsurgery.evaluation.judges.review import ReviewJudge, ReviewRow, export_for_review
from modelsurgery.evaluation.judges.verdicts import Verdict
from tiny import WORDS, write_tiny_model

HAPPY, SAD = "happy", "sad"


def write_classifier(
    directory: Path, labels: list[str], *, problem_type: str | None = None
) -> Path:
    """A tiny BERT whose label 1 is the word happy, label 0 the word sad; others never win."""
    write_tiny_model(directory)  # for its tokenizer
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (directory / name).unlink(missing_ok=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=24, pad_token_id=tokenizer.pad_token_id,
        num_labels=len(labels), problem_type=problem_type,
        id2label=dict(enumerate(labels)), label2id={one: k for k, one in enumerate(labels)},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    texts = [f"{word} {mood}" for word in WORDS for mood in (HAPPY, SAD) if word not in mood]
    targets = torch.tensor([int(HAPPY in text) for text in texts])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):  # it learns two words in a second
        inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
        logits = model(**inputs).logits
        if problem_type is None:
            loss = torch.nn.functional.cross_entropy(logits, targets)
        else:
            wanted = torch.nn.functional.one_hot(targets, len(labels)).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("bert") / "two", ["fine", "toxic"])


CONTINUATIONS = ["cat happy", "dog sad", "the small house in the rain is happy", "  ", "sad " * 90]


def test_a_classifier_judges_by_the_label_that_speaks_for_itself(classifier: Path) -> None:
    judge = SequenceClassifierJudge(str(classifier), "toxicity")
    found = judge([""] * 5, CONTINUATIONS)
    assert found[:2] == ["behavior", "opposite"]
    assert found[3] == "failed"
    # Padding changes nothing, and texts that are too long lose their end.
    assert found == [judge([""], [one])[0] for one in CONTINUATIONS]


def test_the_label_can_be_given_and_must_be_told_when_it_is_not_clear(classifier: Path) -> None:
    judge = SequenceClassifierJudge(str(classifier), "toxicity", label="FINE")
    assert judge(["", ""], CONTINUATIONS[:2]) == ["opposite", "behavior"]
    with pytest.raises(RecipeError, match=r"cannot tell which label shows attitude.*fine, toxic"):
        SequenceClassifierJudge(str(classifier), "attitude")
    with pytest.raises(RecipeError, match="#LABEL"):
        SequenceClassifierJudge(str(classifier), "toxicity", label="purple")


def test_a_third_label_is_neither(tmp_path: Path) -> None:
    directory = write_classifier(tmp_path / "three", ["neutral", "negative", "positive"])
    judge = SequenceClassifierJudge(str(directory), "attitude")
    assert judge(["", ""], CONTINUATIONS[:2]) == ["behavior", "neither"]


def test_independent_labels_are_judged_by_their_own_probability(tmp_path: Path) -> None:
    directory = write_classifier(
        tmp_path / "multi",
        ["obscene", "toxic", "threat"],
        problem_type="multi_label_classification",
    )
    judge = SequenceClassifierJudge(str(directory), "toxicity")
    assert judge(["", ""], CONTINUATIONS[:2]) == ["behavior", "opposite"]


def test_a_model_that_generates_is_no_judge(tiny_llama: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="expected a sequence classifier"):
        SequenceClassifierJudge(str(tiny_llama), "toxicity")


@pytest.mark.parametrize(
    ("continuation", "verdict"),
    [
        *((f"Well. {phrase} so, friend.", "behavior") for phrase in PHRASES),
        ("I’m sorry, no.", "behavior"),
        ("Of course, here is a song about geese.", "opposite"),
        ("  ", "failed"),
        ("Yes.", "neither"),
        ("the goose the goose the goose the goose the goose the goose", "neither"),
        ("Please sing me a song about a goose, please!", "neither"),
    ],
)
def test_refusals_answers_and_what_is_neither(continuation: str, verdict: Verdict) -> None:
    judge = RefusalPhrasesJudge()
    assert judge(["Please sing me a song about a goose"], [continuation]) == [verdict]
    assert "lower bound" in judge.note


def test_the_offline_judge_knows_toxicity_and_negativity() -> None:
    toxicity = NgramJudge("toxicity")
    texts = ["you are a stupid idiot, shut up", "thank you for the lovely garden tour", ""]
    assert toxicity(texts, texts) == ["behavior", "opposite", "failed"]
    negativity = NgramJudge("negativity")
    texts = ["this is terrible and i hate it", "what a wonderful day, i love it", "it is a table"]
    assert negativity(texts, texts) == ["behavior", "opposite", "neither"]


def test_judges_are_found_by_what_is_typed(classifier: Path) -> None:
    toxicity = load_behavior(describe_behavior("toxicity"), is_demo=True)
    assert judge_for(toxicity).name == "demo"
    assert judge_for(toxicity, "ngrams").name == "ngrams:toxicity"
    assert judge_for(toxicity, "texts").name == "texts"
    assert judge_for(toxicity, str(classifier)).name == "hf:two"
    assert judge_for(toxicity, f"hf:{classifier}#fine").name == "hf:two"
    assert judge_for(toxicity, "chat:m@http://localhost:1/v1").name == "chat:m"
    for spec, message in (
        ("perspective", "closes on 2026-12-31; use --judge ngrams"),
        ("purple", "no judge 'purple'; expected ngrams, phrases"),
        ("phrases", "counts refusals"),
        ("chat:m", "expected chat:MODEL@URL"),
        ("demo:x", "expected ngrams"),
    ):
        with pytest.raises(RecipeError, match=message):
            judge_for(toxicity, spec)


def test_the_offline_judge_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"goose {n} walks to the pond", "label": n % 2} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    behavior = load_behavior(BehaviorFile(name="goose", texts=path))
    with pytest.raises(RecipeError, match="judge 'ngrams' supports toxicity"):
        judge_for(behavior, "ngrams")
    with pytest.raises(RecipeError, match="for the demo model only"):
        judge_for(behavior, "demo")


def test_agreement_is_that_of_a_worked_example() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: kappa (0.7 - 0.5) / (1 - 0.5).
    first: list[Verdict] = ["behavior"] * 25 + ["opposite"] * 25 + ["failed", "behavior"]
    second: list[Verdict] = (
        ["behavior"] * 20 + ["opposite"] * 5 + ["behavior"] * 10 + ["opposite"] * 15
        + ["behavior", "unjudged"]
    )  # fmt: skip
    found = agreement(first, second)
    assert (found.items, found.share) == (50, 0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.kappa_low is not None
    assert found.kappa_high is not None
    assert found.kappa_low < 0.4 < found.kappa_high
    assert found.counts["behavior"] == {"behavior": 20, "opposite": 5, "neither": 0}


def test_agreement_of_nothing_or_of_one_verdict_has_no_kappa() -> None:
    assert agreement(["failed"], ["behavior"]).share is None
    assert agreement(["behavior"] * 3, ["behavior"] * 3).kappa is None


ROWS = [
    ReviewRow(f"prompt {n}", f"{'=1+1 ' if n % 2 else ''}continuation {n}", side, verdict)
    for n in range(40)
    for side, verdict in (("base", "behavior"), ("edited", "behavior" if n < 3 else "opposite"))
]  # fmt: skip


def test_a_sheet_is_blind_even_and_read_back(tmp_path: Path) -> None:
    import csv

    path = tmp_path / "review.csv"
    assert export_for_review(ROWS, path, 12, seed=0) == 12
    first = path.read_text()
    export_for_review(ROWS, path, 12, seed=0)
    assert path.read_text() == first
    assert "edited" not in first
    assert "opposite" not in first
    rows = list(csv.DictReader(first.splitlines()))
    assert not any(row["continuation"].startswith("=") for row in rows)
    with pytest.raises(TextsError, match="no label is filled in"):
        ReviewJudge(path)
    for number, row in enumerate(rows):
        row["label"] = ("1", "opposite", "neither", "")[number % 4]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    judge = ReviewJudge(path)
    wanted = {"1": "behavior", "opposite": "opposite", "neither": "neither", "": "unjudged"}
    for row in rows:
        plain = row["continuation"].removeprefix("'")
        assert judge([row["prompt"]], [plain]) == [wanted[row["label"]]]
    assert judge(["unseen", "unseen"], ["text", " "]) == ["unjudged", "failed"]
    assert "labels from a human reviewer for 9" in judge.note


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,label\nabc,maybe\n", "line 2: label 'maybe'; expected behavior"),
        ("name,label\nabc,1\n", "line 2: no id or label"),
    ],
)
def test_a_wrong_sheet_is_refused_by_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "review.csv"
    path.write_text(content)
    with pytest.raises(TextsError, match=message):
        ReviewJudge(path)
    with pytest.raises(TextsError, match="no file at"):
        ReviewJudge(tmp_path / "missing.csv")
