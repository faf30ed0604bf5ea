"""The README says what is: its table of settings is the settings."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from ingest.settings import Settings
from serve.asgi import create_app
from serve.service import Service

README = Path(__file__).parents[2] / "README.md"


def settings_table() -> str:
    """The table as it must stand in the README."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `FANFOLD_{name.upper()}` | {default} | {field.description or ''} |")
    return "\n".join(rows)


def test_every_setting_is_documented_with_its_default() -> None:
    """Adding, removing or changing a setting without the README fails here; the message is the table to paste."""
    assert settings_table() in README.read_text(encoding="utf-8"), f"paste this into README.md:\n{settings_table()}"


def test_every_call_of_the_interface_is_in_the_table() -> None:
    """Each method and path that OpenAPI has, and no other, whatever the table calls the ids."""
    table = README.read_text(encoding="utf-8").partition("| call | answer |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    told = {call for cell in cells for call in re.findall(r"`([A-Z]+ /[^`?]*)", cell)}
    app = create_app(cast(Service, SimpleNamespace(settings=Settings())))
    paths = app.openapi()["paths"]
    there = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {_without_names(call) for call in told} == {_without_names(call) for call in there}


def _without_names(call: str) -> str:
    return re.sub(r"\{[a-z_]+\}", "{}", call)


def test_every_setting_says_what_it_is() -> None:
    """No setting without a description."""
    assert all(field.description for field in Settings.model_fields.values())


def test_every_file_that_the_readme_links_exists() -> None:
    """No dead link inside the repository."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
