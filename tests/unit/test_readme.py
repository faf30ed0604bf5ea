"""The README says what is: its table of settings is the settings."""

import re
from pathlib import Path

from ingest.settings import Settings

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


def test_every_setting_says_what_it_is() -> None:
    """No setting without a description."""
    assert all(field.description for field in Settings.model_fields.values())


def test_every_file_that_the_readme_links_exists() -> None:
    """No dead link inside the repository."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
