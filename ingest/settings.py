"""Every setting, read once in an entry point and passed down from there.

Environment variables carry the prefix `FANFOLD_`: `FANFOLD_HTTP_PORT=9000 fanfold up`.
"""

import base64
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import httpx
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ingest.apikeys import ApiKey
from ingest.errors import ConfigurationError

SECRET_SETTINGS = frozenset({"api_key", "api_keys", "mongodb_uri", "qdrant_api_key", "webhook_url", "webhook_secret"})
KEY_FOLLOWS = "whsec_"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared with, not listened on
INSPECT_START_FACTOR = 4  # opening and repairing a broken PDF may take longer than reading one of its pages
LAST_PORT = 65535
_BUCKET_URL = re.compile(r"s3://[a-z0-9{][a-z0-9.{}-]*(/[^?#]*)?")
_HTTP_URL = re.compile(r"https?://(\S+@)?([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?([/?#]\S*)?")


class Settings(BaseSettings):
    """The service's settings. Unset store addresses mean: embedded, under `data_dir`."""

    model_config = SettingsConfigDict(
        env_prefix="FANFOLD_",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # Serve keeps a failed start's traceback, and shows it to whoever asks
    )

    data_dir: Path = Field(Path("~/.fanfold"), description="Where embedded stores, models and state live.")

    mongodb_uri: SecretStr | None = Field(None, description="MongoDB connection string; embedded when unset.")
    mongodb_database: str = Field("fanfold", description="Name of the database within it.")
    qdrant_url: str | None = Field(None, description="Qdrant address; embedded when unset.")
    qdrant_api_key: SecretStr | None = Field(None, description="API key of that Qdrant.")
    object_store_url: str | None = Field(None, description="file:// or s3://bucket/prefix; embedded when unset.")
    s3_endpoint_url: str | None = Field(None, description="S3 server other than AWS.")

    http_host: str = Field("127.0.0.1", description="Address to listen on.")
    http_port: int = Field(8000, ge=1, le=LAST_PORT, description="Port of the HTTP interface.")
    url: str | None = Field(
        None,
        description="Where the commands find the service, e.g. behind a TLS proxy; by default "
        "http://HTTP_HOST:HTTP_PORT.",
    )
    api_keys: Annotated[tuple[ApiKey, ...], NoDecode] = Field(
        (), description="Who may call: tenant:sha256,… as `fanfold key` prints them. Unset: everybody on this machine."
    )
    api_key: SecretStr | None = Field(None, description="The key that the command line sends.")
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Host names by which the service may be called besides this machine's own, e.g. a proxy's."
    )
    source_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Where documents may be fetched from by reference: s3://bucket/prefix,… "
        "`{tenant}` stands for the caller's tenant.",
    )
    ray_address: str | None = Field(
        None, description="Ray cluster to join; 'local' starts one; unset joins a running one or starts one."
    )
    dashboard_port: int = Field(
        8265, ge=1, le=LAST_PORT, description="Port of Ray's dashboard when Fanfold starts Ray."
    )
    num_cpus: int | None = Field(None, ge=1, description="CPUs to offer when Fanfold starts Ray; default all.")

    max_upload_bytes: int = Field(
        200 * 1024**2, ge=1, description="Largest file that is accepted; several in one request count together."
    )
    max_uploading_bytes: int = Field(
        256 * 1024**2,
        ge=1,
        description="Bytes of uploads under way at a time in one proxy; one more is told to come back (503).",
    )
    max_queued_jobs: int = Field(10_000, ge=1, description="Jobs that may wait; while so many do, a submit gets 503.")
    max_pages: int = Field(10_000, ge=1, description="Most pages that one document may have.")
    max_running_jobs: int = Field(
        32,
        ge=1,
        description="Jobs that one supervisor works on at a time; 16 more for tenants that have none, or only less "
        "urgent ones.",
    )
    supervisors: int = Field(1, ge=1, description="Supervisors to start; they share the queue, and the CPUs.")
    max_attempts: int = Field(3, ge=1, le=50, description="Attempts in a row without progress before a job fails.")
    max_failed_page_ratio: float = Field(0.5, ge=0, le=1, description="Share of failed pages beyond which a job fails.")
    page_timeout_s: float = Field(120.0, gt=0, description="Longest work on one page.")
    page_memory_bytes: int = Field(
        2 * 1024**3, ge=3 * 2**29, description="Memory that the work on one page may take beyond its models."
    )
    job_timeout_s: float = Field(6 * 3600.0, gt=0, description="Longest work on one job, in all its attempts.")
    stage_timeout_s: float = Field(4 * 3600.0, gt=0, description="Longest work on one stage in one attempt.")
    stall_timeout_s: float = Field(
        1800.0, gt=0, description="How long an attempt may get nothing done before it is given up."
    )
    lease_ttl_s: float = Field(30.0, gt=0, description="How long a silent holder keeps a job.")
    outage_timeout_s: float = Field(900.0, ge=0, description="How long a job waits for a store that does not answer.")
    retry_delay_s: float = Field(2.0, ge=0, description="First wait before another attempt; doubles each time.")
    poll_interval_s: float = Field(0.5, gt=0, description="How often an idle supervisor looks for jobs.")

    webhook_url: SecretStr | None = Field(None, description="Called with every job that has ended.")
    webhook_secret: SecretStr | None = Field(
        None, description="Signs these calls as standardwebhooks.com says: `whsec_` and a key in base64, or any text."
    )

    ocr_model: str = Field(
        "PP-OCRv6_small",
        description="PaddleOCR model family by name, or a directory holding det/ and rec/. "
        "PP-OCRv6_tiny is four times faster, a little worse on graphics and narrow columns, and reads no kana.",
    )
    ocr_dpi: int = Field(200, ge=72, le=600, description="Resolution at which pages are rendered for OCR.")
    ocr_precision: Literal["auto", "float32"] = Field(
        "auto",
        description="Number format in which lines are recognised: bfloat16 on CPUs that compute in it, which takes two "
        "thirds of the time and reads as well; or float32 on all.",
    )
    max_page_pixels: int = Field(
        6_000_000, ge=100_000, description="Pages that would render larger are rendered at a lower resolution."
    )
    embedding_model: str = Field("all-MiniLM-L6-v2", description="sentence-transformers model, or its directory.")
    embedding_revision: str = Field("main", description="Revision of a model that comes from a hub.")
    embedding_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Number format of the model. A GPU that does not compute in bfloat16 is refused."
    )
    embedding_batch_chunks: int = Field(128, ge=1, description="Chunks in one vector checkpoint.")
    embedding_batch_tokens: int = Field(
        2_048, ge=256, description="Padded tokens in one forward pass. GPUs want more: 16384 and up."
    )
    embedders: int = Field(1, ge=1, description="Most embedder actors of one supervisor; they follow the work.")
    embedder_gpus: float = Field(
        0.0, ge=0, description="GPUs that each embedder takes: whole ones, or a fraction of one; 0 embeds on the CPU."
    )
    embedder_idle_s: float = Field(
        300.0, ge=0, description="How long an embedder that has nothing to do is kept, with its GPU."
    )
    chunk_tokens: int = Field(200, ge=16, description="Most tokens in one chunk.")
    chunk_overlap_tokens: int = Field(30, ge=0, description="Tokens that neighbouring chunks share at most.")

    faults: Path | None = Field(None, description="For tests only: a plan of faults, see `ingest/faults.py`.")
    retry_window_s: float = Field(
        7 * 86_400.0, ge=0, description="How long a job that did not succeed keeps what a retry of it needs."
    )
    keep_source: bool = Field(False, description="Keep the PDF after its document is published.")
    keep_pages: bool = Field(
        False,
        description="Keep the text of its pages too: sent again under another embedding model, none is read again.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")

    @field_validator("api_keys", mode="before")
    @classmethod
    def _parse_api_keys(cls, value: Any) -> Any:
        try:
            return tuple(map(ApiKey.parse, _listed(value))) if isinstance(value, str) else value
        except ConfigurationError as error:
            raise ValueError(error.message) from error

    @field_validator("api_key", mode="after")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        text = "" if key is None else key.get_secret_value()
        if not (text.isascii() and text.isprintable() and text == text.strip()):
            raise ValueError("FANFOLD_API_KEY holds what HTTP cannot send. Is it the key, whole and without quotes?")
        return key

    @field_validator("url", mode="after")
    @classmethod
    def _is_the_services(cls, url: str | None) -> str | None:
        if url is not None and (not _can_be_called(url) or re.search("[@?#]", url)):
            raise ValueError("FANFOLD_URL is not of the form https://host/path")
        return url

    @field_validator("allowed_hosts", "source_urls", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _listed(value) if isinstance(value, str) else value

    @field_validator("source_urls", mode="after")
    @classmethod
    def _only_buckets(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not _BUCKET_URL.fullmatch(url):
                raise ValueError(f"{url} is not of the form s3://bucket/prefix")
        return urls

    @field_validator("webhook_url", mode="after")
    @classmethod
    def _callable(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _can_be_called(url.get_secret_value()):
            raise ValueError("FANFOLD_WEBHOOK_URL is not of the form https://host/path")
        return url

    @field_validator("webhook_secret", mode="after")
    @classmethod
    def _signs(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            try:
                key = webhook_key(secret)
            except ValueError:
                raise ValueError("FANFOLD_WEBHOOK_SECRET begins with whsec_, and no base64 follows") from None
            if not key:
                raise ValueError("FANFOLD_WEBHOOK_SECRET holds no key")
        return secret

    @field_validator("embedder_gpus", mode="after")
    @classmethod
    def _whole_or_a_fraction(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError("FANFOLD_EMBEDDER_GPUS must be a whole number or a fraction of one GPU")
        return gpus

    @model_validator(mode="after")
    def _overlap_is_a_part_of_a_chunk(self) -> Self:
        if self.chunk_overlap_tokens >= self.chunk_tokens:
            raise ValueError("FANFOLD_CHUNK_OVERLAP_TOKENS must be smaller than FANFOLD_CHUNK_TOKENS")
        return self

    @model_validator(mode="after")
    def _stalling_is_longer_than_waiting(self) -> Self:
        longest = max(self.outage_timeout_s, INSPECT_START_FACTOR * self.page_timeout_s)
        if self.stall_timeout_s <= longest:
            raise ValueError(
                "FANFOLD_STALL_TIMEOUT_S must be longer than FANFOLD_OUTAGE_TIMEOUT_S and "
                f"{INSPECT_START_FACTOR} times FANFOLD_PAGE_TIMEOUT_S"
            )
        return self

    @property
    def home(self) -> Path:
        """`data_dir`, absolute, with `~` expanded."""
        return self.data_dir.expanduser().absolute()

    @property
    def http_url(self) -> str:
        """Where the service listens, for this machine's programs."""
        host = "127.0.0.1" if self.http_host in ANY_ADDRESS else self.http_host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.http_port}"


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """What to say about each `FANFOLD_` variable that is no setting; its value is not said."""
    known = {f"FANFOLD_{name.upper()}" for name in Settings.model_fields}
    said = []
    for name in sorted(name for name in environment if name.startswith("FANFOLD_") and name not in known):
        meant = "".join(f" Do you mean {close}?" for close in get_close_matches(name, known, n=1))
        said.append(f"{name} is no setting and changes nothing.{meant}")
    return said


def webhook_key(secret: SecretStr) -> bytes:
    """What signs: after `whsec_` the key in base64, as Standard Webhooks writes it; any other text is the key itself.

    Raises `ValueError` when no base64 follows.
    """
    text = secret.get_secret_value()
    key = text.removeprefix(KEY_FOLLOWS)
    return text.encode() if key == text else base64.b64decode(key, validate=True)


def _can_be_called(url: str) -> bool:
    """Whether httpx can try to. What it raises where it cannot comes from several libraries."""
    if not _HTTP_URL.fullmatch(url):
        return False
    try:
        called = httpx.URL(url)
        return bool(called.host) and (called.port or 0) <= LAST_PORT
    except (httpx.InvalidURL, ValueError):  # the latter: of its host, which is decoded when it is asked for
        return False


def _listed(value: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[,\s]+", value) if part)
