"""The pipeline that everybody writes first, kept so that the tests of the eight failures are seen to fail on it.

A background function, an in-memory queue, random ids, "free the disk early", and a broad `except` that keeps the worker
alive. Nothing here is wrong line by line; all of it is wrong together.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymupdf
from pymongo.database import Database
from qdrant_client import QdrantClient, models

from ingest.model import JobState

log = logging.getLogger(__name__)
COLLECTION = "naive"
_mupdf: Any = pymupdf  # PyMuPDF's own annotations cover a part of it
Trouble = Callable[[str, int], None]


class NaivePipeline:
    """Submit, then a worker calls `work` until the queue is empty."""

    def __init__(self, database: Database[dict[str, Any]], uploads: Path) -> None:
        self.chunks = database["naive_chunks"]
        self.qdrant = QdrantClient(":memory:")
        self.qdrant.create_collection(
            COLLECTION, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE)
        )
        self.uploads = uploads
        self.queue: list[str] = []
        self.states: dict[str, str] = {}
        self.pages_read: Counter[int] = Counter()

    def submit(self, data: bytes) -> str:
        """Keep the upload, put the job into the queue, say yes."""
        job_id = str(uuid.uuid4())
        (self.uploads / f"{job_id}.pdf").write_bytes(data)
        self.queue.append(job_id)
        self.states[job_id] = JobState.QUEUED
        return job_id

    def cancel(self, job_id: str) -> None:
        """Say that it is cancelled."""
        self.states[job_id] = JobState.CANCELLED

    def retry(self, job_id: str) -> None:
        """Put it into the queue again."""
        self.queue.append(job_id)

    def work(self, trouble: Trouble) -> None:
        """Process what is queued. `trouble` is called before each step, and may raise."""
        while self.queue:
            job_id = self.queue.pop(0)
            try:
                self.process(job_id, trouble)
                self.states[job_id] = JobState.SUCCEEDED
            except Exception:
                log.exception("processing failed")  # the worker must go on
                self.states[job_id] = JobState.SUCCEEDED

    def process(self, job_id: str, trouble: Trouble) -> None:
        """From the file to the two stores."""
        path = self.uploads / f"{job_id}.pdf"
        texts = []
        for number, page in enumerate(_mupdf.open(path), 1):
            trouble("page", number)
            self.pages_read[number] += 1
            texts.append(page.get_text() or f"what OCR reads on page {number}")
        path.unlink()  # free the disk early
        for number, text in enumerate(texts, 1):
            trouble("chunk", number)
            self.chunks.insert_one({"_id": str(uuid.uuid4()), "job_id": job_id, "text": text})
        for number in range(1, len(texts) + 1):
            trouble("point", number)
            point = models.PointStruct(id=str(uuid.uuid4()), vector=[1.0, 0.0, 0.0, number], payload={"job_id": job_id})
            self.qdrant.upsert(COLLECTION, [point])
