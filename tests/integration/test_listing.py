"""Lists over HTTP: newest first, page by page, each thing once; a job's pages with what became of each."""

from dataclasses import replace
from typing import Any, cast

import pytest

from ingest.checkpoints import Checkpoints
from ingest.errors import PageUnreadable
from ingest.failures import failed_page
from ingest.model import Document, Job, Page, Route, Stage, StoredChunk
from ingest.pages import PageState, page_statuses
from ingest.settings import Settings
from ingest.stores import Stores
from ingest.stores.held import HeldJob
from serve.client import Client, ServiceError
from tests.builders import a_document, a_revision, make_visible, some_chunks
from tests.integration.queue import claim
from tests.integration.web import Web
from tests.pdfs import pdf_of

BAD_CURSORS = [
    "nonsense",
    "bm9uc2Vuc2U=",
    "MjAyNi0wMS0wMVQwMDowMDowMCBh",
    "OTk5OS0xMi0zMVQyMzo1OTo1OS0yMzo1OSBh",
    "é",
    "",
]


@pytest.fixture
def web(stores: Stores, settings: Settings) -> Web:
    """A service without keys."""
    return Web(stores, settings)


def listed(web: Web, path: str, name: str, **params: str | int | bool) -> list[str]:
    """Everything in a list, read two at a time."""
    found: list[str] = []
    cursor: dict[str, str | int | bool] = {}
    while True:
        page = web.client().get(path, params={"limit": 2} | params | cursor).json()
        found += [str(item[name]) for items in page.values() if isinstance(items, list) for item in items]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def test_documents_are_listed_newest_first_without_the_deleted(web: Web) -> None:
    """Following `next_cursor` shows each once; `published` narrows; a deleted one is not there from then on."""
    published = [web.ingest(f"letter {number}").document_id for number in range(5)]
    waiting = web.client().post("/v1/documents", files={"file": ("w.pdf", pdf_of(["w"]))}).json()["document_id"]
    assert listed(web, "/v1/documents", "document_id") == [waiting, *reversed(published)]
    assert listed(web, "/v1/documents", "document_id", published=True) == published[::-1]
    assert listed(web, "/v1/documents", "document_id", published=False) == [waiting]
    assert web.client().delete(f"/v1/documents/{published[2]}").status_code == 202
    assert published[2] not in listed(web, "/v1/documents", "document_id")


def test_a_page_that_is_just_full_is_the_last_one(web: Web) -> None:
    """Nothing follows, and so it says: a reader does not have to ask for an empty page to know."""
    jobs = [web.ingest(f"letter {number}") for number in range(2)]
    for path in ("/v1/documents", "/v1/jobs", f"/v1/documents/{jobs[0].document_id}/chunks"):
        for limit, follows in ((1, True), (2, False), (3, False)):
            page = web.client().get(path, params={"limit": limit}).json()
            assert (page["next_cursor"] is not None) is follows, (path, limit)


@pytest.mark.parametrize("path", ["/v1/documents", "/v1/jobs"])
@pytest.mark.parametrize("cursor", BAD_CURSORS)
def test_a_foreign_cursor_is_a_bad_request(web: Web, path: str, cursor: str) -> None:
    """What this service did not give, whatever it decodes to, is refused in words."""
    answer = web.client().get(path, params={"cursor": cursor})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:fanfold:bad-cursor")


def publish_anew(stores: Stores, job: Job) -> None:
    """A second revision of three chunks takes the place of the first, which is removed."""
    stores.catalog.upsert_chunks(a_revision(job.document_id, 2), some_chunks(3, words="anew"))
    assert make_visible(stores, job.document_id, 2, chunk_count=3)
    stores.catalog.delete_revision(job.document_id, 1)


def test_a_list_of_chunks_never_goes_on_in_another_revision(web: Web, stores: Stores) -> None:
    """409 to a cursor of the revision before, with what to do; what is read from the beginning is the new one."""
    job = web.ingest("a letter")
    path = f"/v1/documents/{job.document_id}/chunks"
    cursor = web.client().get(path, params={"limit": 1}).json()["next_cursor"]
    publish_anew(stores, job)
    answer = web.client().get(path, params={"limit": 1, "cursor": cursor})
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:fanfold:stale-cursor")
    assert "published anew" in answer.json()["detail"]
    assert answer.json()["retryable"] is False
    assert listed(web, path, "text") == ["anew 0", "anew 1", "anew 2"]


def test_a_client_that_reads_chunks_is_told_that_they_were_replaced(
    web: Web, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error, not the chunks of two revisions in one list."""
    monkeypatch.setattr("serve.schemas.MAX_LIMIT", 1)
    job = web.ingest("a letter")
    client: Any = Client("http://testserver")
    client._http = web.client()
    chunks = cast("Client", client).chunks(job.document_id)
    assert next(chunks).text == "a letter 0"
    publish_anew(stores, job)
    with pytest.raises(ServiceError, match="Start again") as told:
        next(chunks)
    assert told.value.problem is not None
    assert told.value.problem.status == 409


def test_chunks_that_are_replaced_while_they_are_read_are_read_again(
    web: Web, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document was looked at, then published anew, then the old chunks were asked for: the new ones are shown."""
    job = web.ingest("a letter")
    read = stores.catalog.chunks

    def overtaken(document: Document, **asked: Any) -> list[StoredChunk]:
        if document.published_revision == 1:
            publish_anew(stores, job)
        return read(document, **asked)

    monkeypatch.setattr(stores.catalog, "chunks", overtaken)
    assert listed(web, f"/v1/documents/{job.document_id}/chunks", "text") == ["anew 0", "anew 1", "anew 2"]


@pytest.mark.parametrize("cursor", ["nonsense", "1", "1-", "-1", "1-x", "x-1", "1-1-1", ""])
def test_a_foreign_cursor_of_chunks_is_a_bad_request(web: Web, cursor: str) -> None:
    """As in every other list."""
    path = f"/v1/documents/{web.ingest('a letter').document_id}/chunks"
    answer = web.client().get(path, params={"cursor": cursor})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:fanfold:bad-cursor")


def inspected(stores: Stores, web: Web) -> HeldJob:
    """A claimed job whose inspection is committed: a text page, two scanned ones, a blank and a broken one."""
    web.client().post("/v1/documents", files={"file": ("five.pdf", pdf_of(["five"]))})
    held = claim(stores.jobs, "supervisor")
    held.start_stage(Stage.EXTRACT)
    checkpoints(stores, held.job).write_inspection(
        [
            Page(1, Route.TEXT, "text"),
            Page(2, Route.OCR, "", "no text layer"),
            Page(3, Route.OCR, "", "no text layer"),
            Page(4, Route.BLANK, "", "nothing visible is drawn"),
            Page(5, Route.UNREADABLE, "", "broken"),
        ]
    )
    held.report({"pages_total": 5})
    return held


def checkpoints(stores: Stores, job: Job) -> Checkpoints:
    """The job's checkpoints."""
    return Checkpoints(stores.objects, job.document_id, job.pipeline)


def states(stores: Stores, job: Job) -> str:
    """One letter a page: waiting, read, failed."""
    return "".join(page.state[0] for page in page_statuses(stores, job))


def test_each_page_of_a_job_has_a_state(web: Web, stores: Stores) -> None:
    """Before the inspection none; then scanned pages wait until their OCR is committed; failed ones say why."""
    web.client().post("/v1/documents", files={"file": ("six.pdf", pdf_of(["six"]))})
    queued = claim(stores.jobs, "supervisor")
    assert page_statuses(stores, queued.job) == []
    held = inspected(stores, web)
    assert states(stores, held.job) == "rwwrf"  # the broken one needs no more work to be given up
    checkpoints(stores, held.job).write_page(Page(3, Route.OCR, "three"))
    held.record_failed_pages([failed_page(5, PageUnreadable("This page is damaged."))])
    assert states(stores, held.job) == "rwrrf"
    pages = web.client().get(f"/v1/jobs/{held.job.job_id}/pages").json()["pages"]
    assert pages[1] == {
        "page_number": 2,
        "state": "waiting",
        "route": "ocr",
        "reason": "no text layer",
        "failure": None,
        "message": None,
    }
    assert (pages[4]["failure"], pages[4]["message"]) == ("unreadable", "This page is damaged.")


def test_pages_are_listed_in_order_page_by_page(web: Web, stores: Stores) -> None:
    """Each page once, whatever the limit; a cursor beyond the end is an empty list, a foreign one a 400."""
    job_id = inspected(stores, web).job.job_id
    assert listed(web, f"/v1/jobs/{job_id}/pages", "page_number") == ["1", "2", "3", "4", "5"]
    assert web.client().get(f"/v1/jobs/{job_id}/pages", params={"cursor": "99"}).json()["pages"] == []
    for cursor in ("-1", "x", "٣", "9" * 30):
        assert web.client().get(f"/v1/jobs/{job_id}/pages", params={"cursor": cursor}).status_code == 400


def test_pages_are_known_when_the_checkpoints_are_gone(web: Web, stores: Stores) -> None:
    """After collection the job's record answers: read or failed; routes are forgotten."""
    held = inspected(stores, web)
    held.record_failed_pages([failed_page(5, PageUnreadable("This page is damaged."))])
    held.finish_stage(Stage.EXTRACT)
    assert states(stores, held.job) == "rrrrf"
    for key in stores.objects.keys(f"checkpoints/{held.job.document_id}/"):
        stores.objects.delete(key)
    assert states(stores, held.job) == "rrrrf"
    assert {page.route for page in page_statuses(stores, held.job)} == {None}


def test_a_cancelled_jobs_pages_are_not_called_read(web: Web, stores: Stores) -> None:
    """What was rolled back in the middle is waiting, not read: nothing of it is kept."""
    held = inspected(stores, web)
    for key in stores.objects.keys(f"checkpoints/{held.job.document_id}/"):
        stores.objects.delete(key)
    assert {page.state for page in page_statuses(stores, held.job)} == {PageState.WAITING}


def test_a_collection_in_the_middle_of_the_question_is_no_error(
    web: Web, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inspection was there when asked for, and gone when read."""
    held = inspected(stores, web)
    monkeypatch.setattr(stores.objects, "exists", lambda _key: True)
    gone = replace(stores)
    for key in stores.objects.keys(f"checkpoints/{held.job.document_id}/"):
        stores.objects.delete(key)
    assert len(page_statuses(gone, held.job)) == 5


def test_the_list_of_jobs_says_whose_documents_are_gone(web: Web, stores: Stores) -> None:
    """A job stays when its document is deleted; who shows it knows that nothing can be done with it any more."""
    kept, gone = web.ingest("kept"), web.ingest("gone")
    assert web.client().get("/v1/jobs").json()["deleted_documents"] == []
    stores.catalog.tombstone("default", gone.document_id, deleted_at=stores.jobs.now())
    listed = web.client().get("/v1/jobs").json()
    assert {job["document_id"] for job in listed["jobs"]} == {kept.document_id, gone.document_id}
    assert listed["deleted_documents"] == [gone.document_id]


def test_a_document_that_comes_back_is_called_what_it_is_called_now(web: Web, stores: Stores) -> None:
    """Deleted, and sent again under another name: the list has the new name, and the day on which it came back."""
    client, body = web.client(), pdf_of(["a draft"])
    sent = client.post("/v1/documents", files={"file": ("draft.pdf", body)}).json()
    before = client.get(f"/v1/documents/{sent['document_id']}").json()
    stores.catalog.tombstone("default", sent["document_id"], deleted_at=stores.jobs.now())
    stores.catalog.register(
        a_document(sent["document_id"], filename="final.pdf").model_copy(update={"created_at": stores.jobs.now()})
    )
    after = client.get(f"/v1/documents/{sent['document_id']}").json()
    assert (before["filename"], after["filename"]) == ("draft.pdf", "final.pdf")
    assert after["created_at"] > before["created_at"]


def test_a_part_that_fails_in_an_unexpected_way_is_named(stores: Stores, settings: Settings) -> None:
    """503, with which part it is; not a 500 that says nothing."""

    def fails() -> None:
        raise RuntimeError("something else")

    answer = Web(stores, settings, probes={"supervisor": fails}).client().get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["down"].keys() == {"supervisor"}
