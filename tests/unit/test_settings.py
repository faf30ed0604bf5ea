"""Settings: the environment's prefix, safe defaults, and a refusal of what cannot work."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from ingest.settings import SECRET_SETTINGS, Settings, unknown_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting comes from the machine that runs the tests."""
    for name in [name for name in os.environ if name.startswith("FANFOLD_")]:
        monkeypatch.delenv(name)


def test_a_variable_with_the_prefix_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FANFOLD_HTTP_PORT=9000` sets the port; the same name without the prefix means nothing to Fanfold."""
    monkeypatch.setenv("FANFOLD_HTTP_PORT", "9000")
    monkeypatch.setenv("FANFOLD_KEEP_SOURCE", "true")
    monkeypatch.setenv("OCR_DPI", "300")
    settings = Settings()
    assert (settings.http_port, settings.keep_source, settings.ocr_dpi) == (9000, True, 200)


def test_without_any_setting_everything_is_embedded_and_on_loopback() -> None:
    """A fresh clone runs alone: no store outside `data_dir`, and nobody else on the network can reach it."""
    settings = Settings()
    assert (settings.mongodb_uri, settings.qdrant_url, settings.object_store_url) == (None, None, None)
    assert settings.http_host == "127.0.0.1"
    assert settings.http_url == "http://127.0.0.1:8000"
    assert settings.keep_source is False


def test_the_data_directory_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`~` and relative paths mean the same in every process, whatever its working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings().home == tmp_path / ".fanfold"
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("here")).home == tmp_path / "here"


def test_secrets_do_not_show() -> None:
    """A connection string holds a password: it appears in no representation of the settings."""
    shown = Settings.model_validate({"mongodb_uri": "mongodb://u:hunter2@h/", "qdrant_api_key": "hunter2"})
    assert "hunter2" not in repr(shown) + str(shown) + shown.model_dump_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PORT", "0"),
        ("HTTP_PORT", "65536"),
        ("HTTP_PORT", "eighty"),
        ("MAX_UPLOAD_BYTES", "0"),
        ("MAX_PAGES", "0"),
        ("MAX_ATTEMPTS", "0"),
        ("MAX_RUNNING_JOBS", "0"),
        ("MAX_FAILED_PAGE_RATIO", "1.1"),
        ("MAX_FAILED_PAGE_RATIO", "-0.1"),
        ("PAGE_TIMEOUT_S", "0"),
        ("JOB_TIMEOUT_S", "-1"),
        ("LEASE_TTL_S", "0"),
        ("OCR_DPI", "50"),
        ("OCR_DPI", "1200"),
        ("CHUNK_TOKENS", "0"),
        ("CHUNK_OVERLAP_TOKENS", "-1"),
        ("EMBEDDING_PRECISION", "int8"),
        ("EMBEDDING_BATCH_CHUNKS", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("WEBHOOK_URL", "https://receiver.example:80a/hook"),
        ("WEBHOOK_URL", "receiver.example/hook"),
        ("WEBHOOK_URL", "http://[1:2]/"),
        ("WEBHOOK_URL", "http://receiver.example/\x7f"),
        ("WEBHOOK_URL", "http://receiver.example/\udc80"),
        ("WEBHOOK_URL", "http://xn--zzzzzzzz/"),
        ("WEBHOOK_URL", "http://receiver.example:65536/"),
        ("WEBHOOK_SECRET", "whsec_no base64"),
        ("WEBHOOK_SECRET", ""),
        ("API_KEY", "fanfold_ключ"),
        ("API_KEY", "fanfold_\udc80"),
        ("API_KEY", "fanfold_a\nb"),
        ("API_KEY", "fanfold_a "),
        ("URL", ""),
        ("URL", "fanfold.example"),
        ("URL", "ftp://fanfold.example"),
        ("URL", "https://fanfold.example:65536"),
        ("URL", "https://[1:2]"),
        ("URL", "https://somebody:hunter2@fanfold.example"),
        ("URL", "https://fanfold.example/?tenant=acme"),
        ("URL", "https://fanfold.example/#page"),
    ],
)
def test_a_value_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong setting stops the entry point with a message that names it, before any work begins."""
    monkeypatch.setenv(f"FANFOLD_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_a_secret_that_cannot_be_one_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve keeps the traceback of a start that failed, and its status shows it."""
    monkeypatch.setenv("FANFOLD_WEBHOOK_SECRET", "whsec_!!hunter2")
    with pytest.raises(ValidationError, match="webhook_secret") as refused:
        Settings()
    assert "hunter2" not in str(refused.value)


def test_chunks_that_would_be_all_overlap_are_refused() -> None:
    """An overlap as long as the chunk can never be cut: refused at the start, not at every document."""
    with pytest.raises(ValidationError, match="FANFOLD_CHUNK_OVERLAP_TOKENS"):
        Settings(chunk_tokens=100, chunk_overlap_tokens=100)


def test_a_misspelt_variable_is_told_with_the_one_that_is_meant() -> None:
    """Nothing else would tell that it changes nothing. Its value may be a secret: it is not said."""
    said = unknown_settings({"FANFOLD_KEEP_SOURCES": "hunter2", "FANFOLD_OCR_DPI": "300", "HOME": "/", "FANFOLD_": ""})
    assert [words for words in said if "FANFOLD_KEEP_SOURCE?" in words] == [said[1]]
    assert len(said) == 2
    assert "hunter2" not in "".join(said)


def test_every_secret_is_a_setting() -> None:
    """What the command line must not repeat exists, and everything that is kept as a secret is among it."""
    kept = {name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)}
    assert kept | {"api_keys"} == SECRET_SETTINGS


def test_settings_do_not_change() -> None:
    """They are read once and passed down: nobody can set one behind another's back."""
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.http_port = 1  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize(
    "url", ["http://localhost:9000", "https://user:secret@receiver.example/hook?key=1", "http://[::1]:80/"]
)
def test_a_webhook_is_any_address_that_http_can_call(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """With a port, with credentials, by name or number."""
    monkeypatch.setenv("FANFOLD_WEBHOOK_URL", url)
    webhook = Settings().webhook_url
    assert webhook is not None
    assert webhook.get_secret_value() == url


@pytest.mark.parametrize("url", ["https://fanfold.example", "http://localhost:9000", "https://fanfold.example/papers/"])
def test_where_the_commands_look_is_not_where_the_service_listens(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """`up` waits for itself at its own port, whatever proxy the commands go through."""
    monkeypatch.setenv("FANFOLD_URL", url)
    settings = Settings()
    assert (settings.url, settings.http_url) == (url, "http://127.0.0.1:8000")
