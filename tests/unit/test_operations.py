"""`docs/operations.md` speaks of what exists: its files, settings, commands and alerts."""

import re
from pathlib import Path

from typer.main import get_command

from cluster.cli import app
from cluster.monitoring import ALERTS
from tests.unit.test_deploy import SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_every_file_that_it_links_exists() -> None:
    """No dead link inside the repository."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", TEXT)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_every_setting_that_it_names_exists() -> None:
    """And it names the three stores'."""
    named = set(re.findall(r"\bFANFOLD_[A-Z0-9_]*[A-Z0-9]\b", TEXT))
    assert named - SETTINGS == set()
    assert named >= {"FANFOLD_MONGODB_URI", "FANFOLD_QDRANT_URL", "FANFOLD_OBJECT_STORE_URL"}


def test_every_command_that_it_gives_exists() -> None:
    """What is not built yet is not described."""
    commands = set(re.findall(r"^fanfold (\w+)", TEXT, re.MULTILINE)) | set(re.findall(r"`fanfold (\w+)", TEXT))
    known = get_command(app)
    assert {"up", "down", "fsck"} <= commands
    assert commands - set(known.commands) == set()  # type: ignore[attr-defined]  # a group, since there are several


def test_its_alerts_are_those_that_are_written() -> None:
    """The table lists each, with its severity, and no other."""
    assert re.findall(r"^\| `(Fanfold\w+)` \| (\w+) \|", TEXT, re.MULTILINE) == [
        (alert.name, alert.severity) for alert in ALERTS
    ]
