"""Which pipeline the settings describe: one fingerprint a stage, each covering exactly what its output depends on."""

from ingest import ids
from ingest.model import PipelineSpec
from ingest.points import POINTS_VERSION
from ingest.settings import Settings
from ingest.stages.models import embedding_model_path, model_digest, ocr_model_dirs

PAGES_VERSION = 2  # raise when inspection, rendering, OCR or text normalisation gives other text
CHUNKS_VERSION = 1  # raise when the chunker cuts differently
VECTORS_VERSION = 1  # raise when the same chunk and model give another vector


def pipeline_of(settings: Settings) -> PipelineSpec:
    """The pipeline that these settings run. Reads the model files once, to know them by content."""
    model = embedding_model_path(settings.embedding_model)
    model_revision = model_digest(model, settings.embedding_revision)
    extract = ids.fingerprint(
        {
            "version": PAGES_VERSION,
            "ocr_model": _ocr_digest(settings),
            "dpi": settings.ocr_dpi,
            "precision": settings.ocr_precision,
            "max_page_pixels": settings.max_page_pixels,
        }
    )
    chunk = ids.fingerprint(
        {
            "version": CHUNKS_VERSION,
            "pages": extract,
            "tokenizer": model_revision,
            "chunk_tokens": settings.chunk_tokens,
            "chunk_overlap_tokens": settings.chunk_overlap_tokens,
            "batch": settings.embedding_batch_chunks,
        }
    )
    embed = ids.fingerprint(
        {
            "version": VECTORS_VERSION,
            "chunks": chunk,
            "model": model_revision,
            "precision": settings.embedding_precision,
        }
    )
    shown: dict[str, str | int | float] = {
        "ocr_model": settings.ocr_model,
        "ocr_dpi": settings.ocr_dpi,
        "ocr_precision": settings.ocr_precision,
        "embedding_model": settings.embedding_model,
        "embedding_revision": model_revision,
        "embedding_precision": settings.embedding_precision,
        "chunk_tokens": settings.chunk_tokens,
        "chunk_overlap_tokens": settings.chunk_overlap_tokens,
    }
    return PipelineSpec(extract=extract, chunk=chunk, embed=embed, points=POINTS_VERSION, settings=shown)


def _ocr_digest(settings: Settings) -> str:
    directories = ocr_model_dirs(settings.ocr_model, settings.home / "models")
    if directories is None:
        return settings.ocr_model
    return "+".join(model_digest(str(directory), "") for directory in directories)
