"""What Ray's dashboard and Prometheus can count: attempts and jobs, by how they ended."""

from ray.util.metrics import Counter, Histogram

from ingest.model import Job

SECONDS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0]


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._attempts = Counter(
            "fanfold_attempts_total", description="Attempts that ended, by outcome.", tag_keys=("outcome", "category")
        )
        self._jobs = Counter("fanfold_jobs_total", description="Jobs that ended, by state.", tag_keys=("state",))
        self._seconds = Histogram("fanfold_attempt_seconds", description="How long attempts took.", boundaries=SECONDS)

    def attempt_ended(self, job: Job, *, outcome: str, seconds: float) -> None:
        """Count an attempt, and its job if that has ended with it."""
        error = job.attempts[-1].error
        self._attempts.inc(tags={"outcome": outcome, "category": "" if error is None else error.category})
        self._seconds.observe(seconds)
        if job.state.terminal:
            self._jobs.inc(tags={"state": job.state})
