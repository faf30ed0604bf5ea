"""The outcomes of crash schedules outlive the run, and a rerun hides nothing."""

from pathlib import Path

from tests.crash.outcomes import Outcomes, sources


def test_a_run_that_ends_in_the_middle_is_gone_on_with(tmp_path: Path) -> None:
    """What had an outcome has it still; what was at work counts as violated; what did not run has none."""
    interrupted = Outcomes(tmp_path / "kept" / "a.json")
    interrupted.begin("first")
    interrupted.end("first", "exact")
    interrupted.begin("second")
    later = Outcomes(tmp_path / "kept" / "a.json")
    assert [later.last(name) for name in ("first", "second", "third")] == ["exact", "VIOLATED", None]


def test_a_rerun_with_another_outcome_is_told(tmp_path: Path) -> None:
    """The last outcome counts, and all of them are named; a rerun that only confirms is not."""
    outcomes = Outcomes(tmp_path / "a.json")
    for outcome in ("VIOLATED", "exact"):
        outcomes.begin("shaky")
        outcomes.end("shaky", outcome)
        outcomes.begin("sound")
        outcomes.end("sound", "exact")
    assert outcomes.last("shaky") == "exact"
    assert outcomes.run_again() == ["`shaky`: VIOLATED, then exact"]


def test_the_sources_have_one_name() -> None:
    """Short, and the same each time."""
    assert sources() == sources()
    assert len(sources()) == 12
