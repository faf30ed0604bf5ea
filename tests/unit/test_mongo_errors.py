"""What MongoDB's errors mean to whoever asked."""

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, CursorNotFound, DuplicateKeyError, OperationFailure

from ingest.errors import StoreRefused, StoreUnavailable
from ingest.stores.mongo import mongo_errors


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
