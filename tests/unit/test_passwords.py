import logging

import pytest

from modelsurgery import cli
from modelsurgery.files.passwords import without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@db/x", "postgresql://me:***@db/x"),
        ("postgresql://:secret@db/x", "postgresql://:***@db/x"),
        ("postgresql://me:sec@r:e/t@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("a mysql+pymysql://me:secret@db/x b", "a mysql+pymysql://me:***@db/x b"),
        ("postgresql:///x?password=secret&user=me", "postgresql:///x?password=***&user=me"),
        ("postgresql://me@db:5432/x", "postgresql://me@db:5432/x"),
        ("grpc://db:13000", "grpc://db:13000"),
        ("chat:model@http://localhost:8000/v1 me@x", "chat:model@http://localhost:8000/v1 me@x"),
    ],
)  # fmt: skip
def test_passwords_in_urls_are_not_shown(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_the_line_after_ctrl_c_has_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["surgery", "tune", "demo", "--storage", "postgresql://me:secret@db/x"]
    )

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert not any(handler.filters for handler in logging.getLogger().handlers)
    said = capsys.readouterr().err
    assert said.endswith("to continue, run: surgery tune demo --storage postgresql://me:***@db/x\n")
