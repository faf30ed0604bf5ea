"""The object store: the same promises on a directory and on S3 (moto's server, over HTTP on loopback)."""

import asyncio
import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from cluster.ports import LOOPBACK
from ingest.errors import ConfigurationError, ObjectMissing, StoreRefused, StoreUnavailable
from ingest.stores import objects
from ingest.stores.objects import (
    ABANDONED_S,
    READ_AHEAD_BYTES,
    S3_TRIES,
    DirectoryStore,
    ObjectStore,
    open_object_store,
)
from tests.builders import at_once
from tests.s3_server import CREDENTIALS, S3Server

BUCKET = "fanfold-test"
KEY = "checkpoints/d/f/pages/000001.parquet"
LARGE = bytes(range(256)) * (12 * 1024**2 // 256)
THREADS = 8
SILENCE_S = 1.0  # after which a store is given up here


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """An S3 server on loopback, with one empty bucket, and credentials that no other server knows."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        s3fs.S3FileSystem(endpoint_url=url, skip_instance_cache=True).mkdir(BUCKET)
        yield url
        server.stop()


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Each kind of store, empty."""
    if request.param == "directory":
        return open_object_store(f"file://{tmp_path}/objects")
    endpoint = request.getfixturevalue("s3_endpoint")
    return open_object_store(f"s3://{BUCKET}/{tmp_path.name}", s3_endpoint_url=endpoint)


@pytest.fixture
def directory(tmp_path: Path) -> DirectoryStore:
    """A directory as store, under `objects`."""
    return DirectoryStore(tmp_path / "objects")


def files_under(root: Path) -> list[str]:
    """What really lies in the directory, staging included."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_the_first_writer_wins(store: ObjectStore) -> None:
    """`put` is create-if-absent: the second writer is told so, and everybody reads what the first one wrote."""
    assert store.put(KEY, b"first") is True
    assert store.put(KEY, b"second, and longer") is False
    assert store.get(KEY) == b"first"


def test_the_first_file_wins(store: ObjectStore, tmp_path: Path) -> None:
    """`put_file` is create-if-absent too, also against `put`; the local file stays as it is."""
    file = tmp_path / "upload"
    file.write_bytes(b"from a file")
    assert store.put_file(KEY, file) is True
    assert store.put(KEY, b"other") is False
    file.write_bytes(b"changed")
    assert store.put_file(KEY, file) is False
    assert store.get(KEY) == b"from a file"


def test_of_writers_at_the_same_moment_exactly_one_wins(store: ObjectStore) -> None:
    """Eight attempts at the same checkpoint: one is told that it won, and all eight read its bytes."""
    contents = [bytes([number]) * 100_000 for number in range(THREADS)]

    def write_and_read(number: int) -> tuple[bool, bytes]:
        return store.put(KEY, contents[number]), store.get(KEY)

    outcomes = at_once(THREADS, write_and_read)
    winners = [number for number, (won, _) in enumerate(outcomes) if won]
    assert len(winners) == 1
    assert {read for _, read in outcomes} == {contents[winners[0]]}


@pytest.mark.parametrize("data", [b"", LARGE], ids=["empty", "12 MB"])
def test_any_size_comes_back_as_it_was(store: ObjectStore, tmp_path: Path, data: bytes) -> None:
    """Empty and large objects are stored whole, from memory and from a file, and read whole or in ranges."""
    (tmp_path / "upload").write_bytes(data)
    assert store.put(KEY, data)
    assert store.put_file("sources/d.pdf", tmp_path / "upload")
    assert store.get(KEY) == store.get("sources/d.pdf") == data
    with store.open(KEY) as file:
        file.seek(len(data) // 2)
        assert file.read(10) == data[len(data) // 2 :][:10]
        file.seek(0)
        assert file.read() == data


@pytest.mark.parametrize("key", [KEY, "sources/nothing.pdf"])
def test_what_is_not_there_is_missing(store: ObjectStore, key: str) -> None:
    """`get` and `open` of an absent object say so: a recoverable error, not a crash."""
    store.put("sources/other.pdf", b"x")
    with pytest.raises(ObjectMissing):
        store.get(key)
    with pytest.raises(ObjectMissing):
        store.open(key)


def test_exists_is_asked_of_the_store(store: ObjectStore) -> None:
    """`exists` sees at once what was put and deleted: no listing is remembered."""
    before = store.exists(KEY)
    store.put(KEY, b"x")
    there = store.exists(KEY)
    store.delete(KEY)
    assert (before, there, store.exists(KEY)) == (False, True, False)


def test_keys_are_sorted_and_only_those_under_the_prefix(store: ObjectStore) -> None:
    """A listing is complete, sorted, and never another document's whose id begins alike."""
    under = [
        f"checkpoints/ab/{name}" for name in ("f/chunks.parquet", "f/pages/000002.parquet", "g/inspection.parquet")
    ]
    for key in [*reversed(under), "checkpoints/abc/f/chunks.parquet", "checkpoints/a/f/x", "sources/ab.pdf"]:
        store.put(key, b"x")
    assert store.keys("checkpoints/ab/") == under
    assert store.keys("checkpoints/ab/f/pages/") == ["checkpoints/ab/f/pages/000002.parquet"]
    assert store.keys("checkpoints/none/") == []
    store.delete(under[0])
    assert store.keys("checkpoints/ab/") == under[1:]


def test_a_directory_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage, as for every other call: whoever collects a document would take its checkpoints for gone."""
    store = DirectoryStore(tmp_path)
    store.put(KEY, b"x")
    prefix = KEY.rsplit("/", 1)[0] + "/"
    assert store.keys(prefix) == [KEY]
    monkeypatch.setattr("os.scandir", Mock(side_effect=OSError(errno.ESTALE, "Stale file handle")))
    with pytest.raises(StoreUnavailable):
        store.keys(prefix)


def test_a_listing_sees_what_others_wrote(store: ObjectStore) -> None:
    """Another process's objects appear in the next listing: nothing is cached."""
    assert store.keys("checkpoints/d/") == []
    assert at_once(2, lambda number: store.put(f"checkpoints/d/f/{number}", b"x")) == [True, True]
    assert store.keys("checkpoints/d/") == ["checkpoints/d/f/0", "checkpoints/d/f/1"]


def test_many_objects_are_all_listed(store: ObjectStore) -> None:
    """A book has more pages than S3 lists in one answer (1,000): none is overlooked."""
    keys = [f"checkpoints/d/f/pages/{number:06d}.parquet" for number in range(1_010)]
    at_once(4, lambda part: [store.put(key, b"x") for key in keys[part::4]])
    assert store.keys("checkpoints/d/") == keys


def test_deleting_is_idempotent_and_by_exact_key(store: ObjectStore) -> None:
    """Removing twice, or what never was, is no error; a neighbour stays; the name can be used again."""
    neighbour = KEY.replace("000001", "0000011")
    store.put(KEY, b"x")
    store.put(neighbour, b"y")
    store.delete(KEY)
    store.delete(KEY)
    store.delete("checkpoints/never/was")
    assert store.keys("checkpoints/") == [neighbour]
    assert store.put(KEY, b"again")
    assert store.get(KEY) == b"again"


def test_ping_is_quiet_when_the_store_answers(store: ObjectStore) -> None:
    """Readiness asks the store itself, and leaves nothing behind."""
    store.ping()
    assert store.keys("checkpoints/") == []


def test_a_missing_directory_makes_ping_fail(directory: DirectoryStore, tmp_path: Path) -> None:
    """A directory that was unmounted or removed is a store that does not answer."""
    (tmp_path / "objects").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailable):
        directory.ping()


@pytest.mark.parametrize("url", ["/plain/path", "gs://bucket/prefix", "http://host/", ""])
def test_an_address_of_another_kind_is_refused(url: str) -> None:
    """Only file:// and s3:// are object stores; the message names the setting."""
    with pytest.raises(ConfigurationError, match="FANFOLD_OBJECT_STORE_URL"):
        open_object_store(url)


@pytest.mark.parametrize(
    "key",
    ["../x", "a/../../x", "a/..", "/etc/x", ".staging/x", "./.staging/x", "", ".", "//x"],
)
def test_a_key_cannot_leave_the_directory(directory: DirectoryStore, tmp_path: Path, key: str) -> None:
    """Whatever the key, nothing is read, written or removed outside the store or in its staging area."""
    (tmp_path / "x").write_bytes(b"outside")
    calls: list[Callable[[], Any]] = [
        lambda: directory.put(key, b"x"),
        lambda: directory.put_file(key, tmp_path / "x"),
        lambda: directory.get(key),
        lambda: directory.open(key),
        lambda: directory.exists(key),
        lambda: directory.keys(key),
        lambda: directory.delete(key),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not an object key"):
            call()
    assert files_under(tmp_path) == ["x"]


def test_a_writer_killed_in_the_middle_leaves_no_torn_object(directory: DirectoryStore, tmp_path: Path) -> None:
    """Killed (-9) half way through a put: the key does not exist, and a later put of it works."""
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)
    program = """
        import sys
        from pathlib import Path
        from ingest.stores.objects import DirectoryStore
        DirectoryStore(Path(sys.argv[1])).put_file(sys.argv[2], Path(sys.argv[3]))
    """
    arguments = [str(tmp_path / "objects"), KEY, str(fifo)]
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), *arguments])
    with fifo.open("wb", buffering=0) as source:
        source.write(b"h" * 3 * 1024**2)  # more than the pipe and the copy's buffer hold: some of it is on disk
        assert any(path.stat().st_size for path in (tmp_path / "objects" / ".staging").iterdir())
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.wait(10) == -signal.SIGKILL
    assert not directory.exists(KEY)
    assert directory.keys("checkpoints/") == []
    assert directory.put(KEY, b"whole")
    assert directory.get(KEY) == b"whole"


def test_a_put_that_fails_leaves_nothing_behind(directory: DirectoryStore, tmp_path: Path) -> None:
    """A source that cannot be read gives an error, no object and no file in staging."""
    with pytest.raises(FileNotFoundError):
        directory.put_file(KEY, tmp_path / "nothing")
    directory.put(KEY, b"x")
    directory.put(KEY, b"refused")
    assert files_under(tmp_path / "objects") == [KEY]


def test_empty_directories_go_with_their_last_object(directory: DirectoryStore, tmp_path: Path) -> None:
    """After collection nothing of a document is left, not even directories; the store itself stays."""
    other = "checkpoints/other/f/chunks.parquet"
    for key in (KEY, other):
        directory.put(key, b"x")
    directory.delete(KEY)
    assert not (tmp_path / "objects/checkpoints/d").exists()
    assert directory.exists(other)
    directory.delete(other)
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [".staging"]


def test_writers_listers_and_collectors_do_not_trip_each_other(directory: DirectoryStore) -> None:
    """While one object's deletion takes empty directories away, puts and listings beside it still work."""

    def work(number: int) -> list[str]:
        key = f"checkpoints/d/f{number % 2}/pages/{number}.parquet"
        errors = []
        for _ in range(300):
            for call in (lambda: directory.put(key, b"x"), lambda: directory.keys("checkpoints/d/")):
                try:
                    call()
                except OSError as error:
                    errors.append(repr(error))
            directory.delete(key)
        return errors

    assert [error for errors in at_once(4, work) for error in errors] == []


@pytest.mark.parametrize(
    "method",
    ["put", "put_file", "get", "open", "exists", "keys", "delete", "ping"],
)
def test_an_s3_server_that_is_down_is_unavailable(
    s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    """No method mistakes silence for absence: each raises `StoreUnavailable`, which is always worth another try."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # waiting longer would not make it answer
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    (tmp_path / "upload").write_bytes(b"x")
    down = open_object_store("s3://bucket/prefix", s3_endpoint_url="http://127.0.0.1:9")
    arguments: dict[str, tuple[Any, ...]] = {"put": (KEY, b"x"), "put_file": (KEY, tmp_path / "upload"), "ping": ()}
    with pytest.raises(StoreUnavailable):
        getattr(down, method)(*arguments.get(method, (KEY,)))


@pytest.mark.parametrize("call", ["put", "get", "exists"])
def test_an_s3_server_that_says_nothing_costs_a_call_only_its_own_patience(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A page's limit of time is not used up by it: who waits for the end of an outage is the job, not its worker."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with S3Server() as server:
        with monkeypatch.context() as opening:
            opening.setattr(objects, "S3_READ_S", SILENCE_S)
            store = open_object_store(f"s3://{server.bucket()}", s3_endpoint_url=server.url)
        assert store.put(KEY, b"page")  # with the patience of everyday: it loads botocore
        monkeypatch.setattr(objects, "S3_READ_S", SILENCE_S)
        server.freeze()
        asked_at = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.put("k", b"") if call == "put" else getattr(store, call)(KEY)
        assert time.monotonic() - asked_at < S3_TRIES * SILENCE_S + 3
        server.thaw()
        assert store.get(KEY) == b"page"


@pytest.mark.parametrize("call", ["put", "put_file"])
@pytest.mark.parametrize("data", [b"", LARGE], ids=["empty", "12 MB"])
def test_a_server_that_reads_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, data: bytes
) -> None:
    """A frozen one: its kernel takes the connection and what fits into it, and no `100 Continue` comes."""
    monkeypatch.setattr(objects, "S3_READ_S", SILENCE_S)
    monkeypatch.setattr(objects, "S3_SLOWEST_BYTES_S", 12 * 1024**2)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "upload").write_bytes(data)
    with socket.create_server((LOOPBACK, 0)) as listener:
        store = open_object_store("s3://bucket", s3_endpoint_url=f"http://{LOOPBACK}:{listener.getsockname()[1]}")
        asked_at = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.put(KEY, data) if call == "put" else store.put_file(KEY, tmp_path / "upload")
        assert time.monotonic() - asked_at < S3_TRIES * SILENCE_S + 1 + 3


def test_prefixes_of_one_bucket_are_stores_of_their_own(s3_endpoint: str) -> None:
    """Two installations share a bucket without seeing each other's objects; without a prefix: the bucket."""
    first, second = (open_object_store(f"s3://{BUCKET}/p{n}/", s3_endpoint_url=s3_endpoint) for n in (1, 2))
    whole = open_object_store(f"s3://{BUCKET}", s3_endpoint_url=s3_endpoint)
    first.put("sources/a.pdf", b"1")
    assert second.keys("sources/") == []
    assert second.put("sources/a.pdf", b"2")
    assert whole.get("p1/sources/a.pdf") == b"1"
    assert whole.keys("p2/") == ["p2/sources/a.pdf"]


def test_a_bucket_that_does_not_exist_is_not_ready(s3_endpoint: str) -> None:
    """Readiness and writes call a missing bucket a store that does not answer, not a missing object."""
    store = open_object_store("s3://fanfold-nowhere/prefix", s3_endpoint_url=s3_endpoint)
    with pytest.raises(StoreUnavailable):
        store.ping()


def test_a_store_that_fails_while_an_object_is_read_is_named(store: ObjectStore) -> None:
    """Not only when it is opened: what is read in ranges meets the network again and again."""
    store.put(KEY, b"x")
    with pytest.raises(StoreUnavailable), store.open(KEY):
        raise OSError(errno.EIO, "Input/output error")


def test_what_the_store_refuses_is_not_taken_for_an_outage(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong or expired credentials are no reason to wait a quarter of an hour."""
    store = open_object_store(f"s3://{BUCKET}/refused", s3_endpoint_url=s3_endpoint)
    fs: Any = store._fs  # type: ignore[attr-defined]  # what is asked for does not matter, what s3fs makes of it does
    monkeypatch.setattr(fs, "cat_file", lambda _path: (_ for _ in ()).throw(PermissionError("Access Denied")))
    with pytest.raises(StoreRefused, match="credentials"):
        store.get(KEY)


def test_a_range_of_an_object_costs_little_more_than_the_range(
    s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twelve megabytes a few bytes are asked for, and no more than a block behind them is fetched."""
    store = open_object_store(f"s3://{BUCKET}/{tmp_path.name}", s3_endpoint_url=s3_endpoint)
    store.put(KEY, LARGE)
    fetched: list[int] = []
    fetch = s3fs.core.S3File._fetch_range

    def counted(file: Any, start: int, end: int) -> Any:
        fetched.append(end - start)
        return fetch(file, start, end)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    with store.open(KEY) as file:
        file.seek(6 * 1024**2)
        assert file.read(100) == LARGE[6 * 1024**2 :][:100]
    assert 100 <= sum(fetched) <= 100 + READ_AHEAD_BYTES


def test_what_a_killed_writer_left_goes_after_a_day(directory: DirectoryStore, tmp_path: Path) -> None:
    """Nobody sees it, and it would stay for ever; what is being written now stays."""
    staging = tmp_path / "objects" / ".staging"
    for name in ("old", "new"):
        (staging / name).write_bytes(b"half of it")
    long_ago = time.time() - ABANDONED_S - 60
    os.utime(staging / "old", (long_ago, long_ago))
    directory.put(KEY, b"x")
    again = DirectoryStore(tmp_path / "objects")
    assert [path.name for path in staging.iterdir()] == ["new"]
    assert again.get(KEY) == b"x"


def test_an_interrupted_put_on_s3_has_ended(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel ends the task only when nothing of it can land any more: what is swept stays swept."""
    store = open_object_store(f"s3://{BUCKET}/interrupted", s3_endpoint_url=s3_endpoint)
    assert isinstance(store, objects.S3Store)
    put, landed = store._fs._pipe_file, list[str]()

    async def slow(path: str, data: bytes, **how: Any) -> None:
        await asyncio.sleep(2)
        await put(path, data, **how)
        landed.append(path)

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    def put_and_be_interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        store.put(KEY, b"x")

    monkeypatch.setattr(store._fs, "_pipe_file", slow)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            put_and_be_interrupted()
        assert len(landed) == 1
    finally:
        signal.signal(signal.SIGALRM, before)
