"""What a job says about itself: state, percent, stalled attempts, and whether publishing is decided."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.model import ChunkPlan, Job, JobState, Pace, Progress, Stage, StageRecord, StageStatus
from tests.builders import NOON, a_job, an_attempt

PUBLISHED = {JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED}
STORED_STATES = [state for state in JobState if state is not JobState.CANCELLING]
counts = st.integers(min_value=0, max_value=10_000)


@pytest.mark.parametrize("state", list(JobState))
def test_exactly_four_states_are_terminal(state: JobState) -> None:
    """succeeded, partially_succeeded, failed and cancelled never change; the others do."""
    terminal = PUBLISHED | {JobState.FAILED, JobState.CANCELLED}
    assert state.terminal == (state in terminal)


@given(
    st.sampled_from([state for state in STORED_STATES if state not in PUBLISHED]),
    st.builds(
        Progress,
        pages_total=counts,
        pages_done=counts,
        chunks_total=counts,
        chunks_embedded=counts,
        chunks_stored=counts,
    ),
)
def test_percent_stays_below_100_until_published(state: JobState, progress: Progress) -> None:
    """Progress is real: whatever was counted, 0 <= percent < 100 for a job that is not published."""
    assert 0 <= a_job(state=state, progress=progress).percent < 100


@pytest.mark.parametrize("state", sorted(PUBLISHED))
def test_percent_is_100_when_published(state: JobState) -> None:
    """A published job is done, whatever its counters say (an empty document has nothing to count)."""
    assert a_job(state=state).percent == 100.0


def test_percent_weighs_pages_embedding_and_storing() -> None:
    """70 for pages, 20 for embedding, 10 for storing; nothing counted is 0."""
    half_read = Progress(pages_total=4, pages_done=2)
    embedded = Progress(pages_total=4, pages_done=4, chunks_total=10, chunks_embedded=10, chunks_stored=5)
    assert a_job(state=JobState.RUNNING).percent == 0.0
    assert a_job(state=JobState.RUNNING, progress=half_read).percent == 35.0
    assert a_job(state=JobState.RUNNING, progress=embedded).percent == 95.0


@given(st.lists(st.sampled_from(["pages_done", "chunks_embedded", "chunks_stored"]), max_size=30))
def test_percent_never_falls_while_the_work_counts(steps: list[str]) -> None:
    """Every unit of work that becomes durable raises percent or leaves it."""
    done = {"pages_done": 0, "chunks_embedded": 0, "chunks_stored": 0}
    shown = [0.0]
    for step in steps:
        done[step] += 1
        progress = Progress(pages_total=30, chunks_total=30, **done)
        shown.append(a_job(state=JobState.RUNNING, progress=progress).percent)
    assert shown == sorted(shown)


@pytest.mark.parametrize("state", STORED_STATES)
def test_a_requested_cancel_is_shown_until_the_job_has_ended(state: JobState) -> None:
    """`cancelling` is shown from the request until rollback is verified; a terminal state is shown as it is."""
    asked = a_job(state=state, cancel_requested_at=NOON)
    assert asked.shown_state is (state if state.terminal else JobState.CANCELLING)
    assert a_job(state=state).shown_state is state


@pytest.mark.parametrize(
    ("units_at_starts", "progress", "stalled"),
    [
        ([], Progress(), 0),
        ([0], Progress(), 1),
        ([0, 0, 0], Progress(), 3),
        ([0], Progress(pages_done=1), 0),
        ([0, 0, 1], Progress(pages_done=1), 1),
        ([0, 1, 5, 5], Progress(pages_done=2, chunks_embedded=2, chunks_stored=1), 2),
        ([0, 1, 5, 5], Progress(pages_done=6), 0),
    ],
)
def test_stalled_attempts_counts_those_in_a_row_that_brought_nothing(
    units_at_starts: list[int], progress: Progress, stalled: int
) -> None:
    """Attempts are bounded by those without progress: one durable page sets the count back to nothing."""
    attempts = [an_attempt(number, units_at_start=units) for number, units in enumerate(units_at_starts, start=1)]
    assert a_job(attempts=attempts, progress=progress).stalled_attempts == stalled


@pytest.mark.parametrize(
    ("status", "decided"), [(StageStatus.PENDING, False), (StageStatus.RUNNING, True), (StageStatus.DONE, True)]
)
def test_publishing_is_decided_from_the_moment_the_stage_begins(status: StageStatus, *, decided: bool) -> None:
    """After the compare-and-set that starts `publish`, a cancel comes too late; before it, never."""
    stages = {stage: StageRecord(status=StageStatus.DONE) for stage in Stage}
    stages[Stage.PUBLISH] = StageRecord(status=status)
    assert a_job(state=JobState.RUNNING, stages=stages).publish_decided is decided


def test_a_chunk_plan_counts_its_batches() -> None:
    """The plan's chunk count is the sum of its batches; a document without text has none."""
    assert ChunkPlan((3, 3, 1)).chunk_count == 7
    assert ChunkPlan(()).chunk_count == 0


def test_fields_that_a_newer_version_added_are_ignored() -> None:
    """A record written by a newer Fanfold is readable by this one, during a rolling update."""
    assert a_job(field_of_tomorrow=1) == a_job()


def at_pace(stage: Stage, **progress: int) -> Job:
    """A job one minute after the pace of this stage was set at 10 units."""
    stages = {each: StageRecord(status=StageStatus.RUNNING if each is stage else StageStatus.DONE) for each in Stage}
    pace = Pace(since=NOON, done=10)
    return a_job(
        state=JobState.RUNNING, stages=stages, pace=pace, progress=progress, updated_at=NOON + timedelta(minutes=1)
    )


def test_the_pace_of_reading_gives_throughput_and_an_estimate() -> None:
    """20 pages in a minute beyond those that were there: a minute and a half for the 30 that are left."""
    job = at_pace(Stage.EXTRACT, pages_total=60, pages_done=30)
    assert job.pages_per_second == pytest.approx(20 / 60)
    assert job.seconds_left == pytest.approx(90)


def test_the_pace_of_embedding_gives_an_estimate_without_a_page_rate() -> None:
    """Pages are read; chunks tell how long the stage takes."""
    job = at_pace(Stage.EMBED, pages_total=60, pages_done=60, chunks_total=40, chunks_embedded=30)
    assert job.pages_per_second is None
    assert job.seconds_left == pytest.approx(30)


def test_without_a_pace_there_is_no_estimate() -> None:
    """Nothing done since it was set, no stage at work, or the end: no number is invented."""
    assert at_pace(Stage.EXTRACT, pages_total=60, pages_done=10).seconds_left is None
    assert at_pace(Stage.STORE, pages_total=60, pages_done=60).seconds_left is None
    assert a_job(progress={"pages_total": 3, "pages_done": 2}).seconds_left is None


def test_work_is_counted_without_the_waiting_between_attempts() -> None:
    """Two attempts, a minute of work each, a day apart, and an hour of the second spent waiting: two minutes."""
    first = an_attempt(1, units_at_start=0).model_copy(update={"worked_s": 60.0})
    second = first.model_copy(update={"number": 2, "started_at": NOON + timedelta(days=1)})
    job = a_job(attempts=[first, second], updated_at=NOON + timedelta(days=1, hours=1))
    assert job.worked == timedelta(minutes=2)
