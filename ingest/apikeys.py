"""API keys: made at random, kept as their SHA-256 only, each opening the documents of one tenant."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from ingest.errors import ConfigurationError

KEY_PREFIX = "fanfold_"
KEY_BYTES = 32
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ApiKey(NamedTuple):
    """An API key as the service knows it: whose it is, and its SHA-256, never the key."""

    tenant: str
    sha256: str

    @classmethod
    def parse(cls, entry: str) -> "ApiKey":
        """From an entry of FANFOLD_API_KEYS, `tenant:sha256`. Raises `ConfigurationError`."""
        tenant, colon, sha256 = entry.partition(":")
        if not colon:
            raise ConfigurationError("An entry is tenant:sha256, not a key. Make both with: fanfold key TENANT")
        if not _TENANT.fullmatch(tenant):
            raise ConfigurationError(
                f"{tenant!r} cannot name a tenant: 1 to 63 of a-z, 0-9, dot, dash, underscore; a letter or digit first."
            )
        if not _SHA256.fullmatch(sha256):
            raise ConfigurationError(f"Tenant {tenant}'s entry has no SHA-256. Make one with: fanfold key {tenant}")
        return cls(tenant, sha256)

    def __str__(self) -> str:
        return f"{self.tenant}:{self.sha256}"


def new_key() -> str:
    """A fresh key of 256 random bits: nobody can guess it, so its plain SHA-256 may be kept in a setting."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest(key: str) -> str:
    """What the service keeps of a key: its SHA-256, in hex."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()


def owner_of(key: str, api_keys: Iterable[ApiKey]) -> str | None:
    """The tenant whose key it is. Every entry is compared, each in constant time."""
    given = digest(key)
    tenants = [entry.tenant for entry in api_keys if hmac.compare_digest(entry.sha256, given)]
    return tenants[0] if tenants else None
