"""What the documentation at `/docs` shows as answers: one document's story, the same ids throughout."""

from typing import Any

JOB_ID, DOCUMENT_ID = "5f2c6f0e-7a39-4e53-9f0b-6a2a7c1f6c55", "9c56cc51b374c3ba189210d5b6d4bf57"
CHUNK_ID = "0b8a2f5e-3c1d-4f6a-9b7e-2d4c6e8f0a1b"
CURSOR = "MjAyNi0wNS0wNFQwNzoxMjowMCswMDowMCA1ZjJjNmYwZQ=="
BEGAN_AT, ENDED_AT = "2026-05-04T07:12:00Z", "2026-05-04T07:12:41Z"
FILENAME = "letters.pdf"
PIPELINE = "6b1f0c2d4e8a9377.1"
TEXT = "We are now at four thousand six hundred metres, and everybody has a headache."
Example = dict[str, Any]


def of(example: Example) -> Any:
    """The `json_schema_extra` of a model whose example it is."""
    return {"examples": [example]}


def _done() -> Example:
    return {"status": "done", "started_at": BEGAN_AT, "finished_at": ENDED_AT, "checkpoint": None}


SUBMITTED: Example = {"job_id": JOB_ID, "document_id": DOCUMENT_ID, "state": "queued", "created": True}
PROBLEM: Example = {
    "type": "urn:fanfold:not-a-pdf",
    "title": "Not a PDF",
    "status": 400,
    "detail": "The file is not a PDF: it does not begin with %PDF-. Convert it to PDF, then send it again.",
    "retryable": False,
}
FILE_ANSWERS: Example = {
    "files": [
        {"filename": FILENAME, "status": 202, "submission": SUBMITTED, "problem": None},
        {"filename": "notes.pdf", "status": 400, "submission": None, "problem": PROBLEM},
    ]
}
JOB: Example = {
    "job_id": JOB_ID,
    "document_id": DOCUMENT_ID,
    "tenant": "acme",
    "filename": FILENAME,
    "priority": "normal",
    "revision": 1,
    "state": "partially_succeeded",
    "stages": {stage: _done() for stage in ("extract", "embed", "store", "publish")},
    "progress": {
        "pages_total": 7,
        "pages_done": 7,
        "chunks_total": 14,
        "chunks_embedded": 14,
        "chunks_stored": 14,
        "percent": 100.0,
        "pages_per_minute": None,
        "seconds_left": None,
    },
    "attempts": [
        {
            "number": 1,
            "epoch": 1,
            "holder": "c1d7c2a0-6a55-4a6e-8e0b-6a1c9b7d2f10",
            "started_at": BEGAN_AT,
            "ended_at": ENDED_AT,
            "outcome": "partially_succeeded",
            "error": None,
            "units_at_start": 0,
            "worked_s": 38.2,
        }
    ],
    "error": None,
    "failed_pages": [{"page_number": 5, "reason": "unreadable", "message": "This page is damaged and cannot be read."}],
    "pipeline": PIPELINE,
    "created_at": BEGAN_AT,
    "updated_at": ENDED_AT,
}
JOBS: Example = {"jobs": [JOB], "deleted_documents": [], "next_cursor": CURSOR}
CANCELLED: Example = {
    "jobs": [
        {
            "job_id": "00000000-0000-4000-8000-000000000000",
            "status": 404,
            "job": None,
            "problem": {
                "type": "urn:fanfold:not-found",
                "title": "Not found",
                "status": 404,
                "detail": "There is no job 00000000-0000-4000-8000-000000000000.",
                "retryable": False,
            },
        }
    ]
}
PAGES: Example = {
    "pages": [
        {
            "page_number": 4,
            "state": "read",
            "route": "ocr",
            "reason": "no text layer",
            "failure": None,
            "message": None,
        },
        {
            "page_number": 5,
            "state": "failed",
            "route": "unreadable",
            "reason": "This page is damaged and cannot be read.",
            "failure": "unreadable",
            "message": "This page is damaged and cannot be read.",
        },
    ],
    "next_cursor": "5",
}
MARKS: Example = {"marks": [{"x": 0.14, "y": 0.29, "width": 0.58, "height": 0.02}]}
SERVICE: Example = {
    "version": "0.1.0",
    "tenant": "acme",
    "max_upload_bytes": 209715200,
    "max_pages": 10000,
    "pipeline": PIPELINE,
    "keep_source": True,
}
DOCUMENT: Example = {
    "document_id": DOCUMENT_ID,
    "filename": FILENAME,
    "sha256": "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "size_bytes": 1263601,
    "page_count": 7,
    "latest_revision": 1,
    "published_revision": 1,
    "chunk_count": 14,
    "metadata": {"author": "Ann", "year": 1911},
    "created_at": BEGAN_AT,
}
DOCUMENTS: Example = {"documents": [DOCUMENT], "next_cursor": None}
DELETED: Example = {"document_id": DOCUMENT_ID, "deleted_at": ENDED_AT}
CHUNKS: Example = {
    "chunks": [
        {
            "chunk_id": CHUNK_ID,
            "document_id": DOCUMENT_ID,
            "revision": 1,
            "chunk_index": 3,
            "text": TEXT,
            "first_page": 3,
            "last_page": 3,
            "token_count": 17,
        }
    ],
    "next_cursor": "1-4",
}
NOT_READY: Example = {"ready": False, "down": {"qdrant": "No answer within 5 seconds."}}
HIT: Example = {
    "chunk_id": CHUNK_ID,
    "document_id": DOCUMENT_ID,
    "filename": FILENAME,
    "chunk_index": 3,
    "first_page": 3,
    "last_page": 3,
    "score": 0.93,
    "scores": {"dense": 0.61, "lexical": 4.2},
    "snippet": {"text": TEXT, "marks": [{"start": 68, "end": 76}]},
    "text": TEXT,
}
FOUND: Example = {"hits": [HIT], "groups": None}
