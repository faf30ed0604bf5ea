"""What MongoDB's errors mean to whoever asked."""

import dns.resolver
import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, CursorNotFound, DuplicateKeyError, OperationFailure

from ingest.errors import ConfigurationError, StoreRefused, StoreUnavailable
from ingest.stores.mongo import connect, mongo_errors


@pytest.mark.parametrize(
    ("raised", "meant"),
    [
        (AutoReconnect("gone"), StoreUnavailable),
        (CursorNotFound("cursor id 1 not found", 43), StoreUnavailable),
        (
            OperationFailure("no majority yet", 134, {"codeName": "ReadConcernMajorityNotAvailableYet"}),
            StoreUnavailable,
        ),
        (OperationFailure("no", 18, {"codeName": "AuthenticationFailed"}), StoreRefused),
        (OperationFailure("no", 13, None), StoreRefused),
        (DuplicateKeyError("it is there"), DuplicateKeyError),
        (BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64}]}), StoreUnavailable),
        (BulkWriteError({"writeErrors": [{"code": 13}]}), StoreRefused),
    ],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_what_passes_is_waited_for_and_what_does_not_is_said(raised: Exception, meant: type[Exception]) -> None:
    """An outage and a refusal are told apart; a duplicate key is for whoever wrote it."""
    with pytest.raises(meant), mongo_errors():
        raise raised


def test_a_refusal_says_what_is_refused_and_no_more() -> None:
    """Its name, not the server's message, which may hold addresses and names."""
    refused = OperationFailure("user admin@10.0.0.1 is not", 18, {"codeName": "AuthenticationFailed"})
    with (
        pytest.raises(StoreRefused, match=r"^MongoDB refuses what it is asked: AuthenticationFailed\.$"),
        mongo_errors(),
    ):
        raise refused


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://fanfold:hun/ter2@db1/",
        "mongodb://fanfold:hun@ter2@db1/",
        "mongodb://fanfold:hun:ter2@db1/",
        "mongodb://fanfold:hun%ter2@db1/",
        "mongodb://fanfold:hun/ter2",
        "hun/ter2",
    ],
)
def test_an_address_that_is_none_is_said_without_its_password(uri: str) -> None:
    """An unescaped password is taken for a database, a port, a host: none of these is repeated, nor kept as a cause."""
    with pytest.raises(ConfigurationError, match=r"FANFOLD_MONGODB_URI .* Percent-encode") as raised:
        connect(uri, "fanfold")
    assert "ter2" not in raised.value.message
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "uri", ["mongodb+srv://fanfold:secret@nobody.db.example/", "mongodb+srv://u:x@nobody/d@db.example/"]
)
def test_a_name_that_dns_does_not_know_is_not_repeated_either(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the password is not escaped, a part of it is the name that was asked for. What DNS says is told."""

    def unknown(name: str, *_arguments: object, **_options: object) -> None:
        raise dns.resolver.NXDOMAIN(qnames=[name], responses={})  # type: ignore[no-untyped-call]  # dnspython ships it so

    monkeypatch.setattr(dns.resolver, "resolve", unknown)
    with pytest.raises(ConfigurationError, match="DNS answers NXDOMAIN") as raised:
        connect(uri, "fanfold")
    assert not any(word in raised.value.message for word in ("nobody", "secret"))


def test_a_dns_that_does_not_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new worker asks it for MongoDB's servers: no job fails because it was slow for a moment."""

    def silent(*_arguments: object, **_options: object) -> None:
        raise dns.resolver.LifetimeTimeout(timeout=5, errors=[])  # type: ignore[no-untyped-call]  # as above

    monkeypatch.setattr(dns.resolver, "resolve", silent)
    with pytest.raises(StoreUnavailable, match="DNS answers LifetimeTimeout") as raised:
        connect("mongodb+srv://fanfold:secret@db.example/", "fanfold")
    assert raised.value.retryable
    assert "secret" not in str(raised.value)
