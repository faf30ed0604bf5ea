"""Imitation of an office scanner: a clean page goes in, a slightly worn grey JPEG comes out."""

import io
from typing import Final

import numpy as np
import numpy.typing as npt
import pymupdf
from PIL import Image, ImageFilter

DPI: Final = 200
_INK: Final = 40.0
_PAPER: Final = 240.0
_SKEW_DEGREES: Final = (0.3, 0.8)
_BLUR_PIXELS: Final = 0.6
_NOISE: Final = 2.5
_SPINE_SHADOW: Final = 45.0
_SPINE_PIXELS: Final = 28.0
_JPEG_QUALITY: Final = 55


def scan(page: pymupdf.Page, rng: np.random.Generator) -> bytes:
    """Return `page` as a scanner would see it: skewed, soft, grainy, on off-white paper.

    The same page and the same generator state give the same bytes.
    """
    image = _skew_and_soften(_render(page), rng)
    pixels = _light(np.asarray(image, dtype=np.float64), rng)
    output = io.BytesIO()
    Image.fromarray(pixels).save(output, "JPEG", quality=_JPEG_QUALITY, dpi=(DPI, DPI))
    return output.getvalue()


def _render(page: pymupdf.Page) -> Image.Image:
    pixmap = page.get_pixmap(dpi=DPI, colorspace=pymupdf.csGRAY)
    clean = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
    return clean.point([round(_INK + (_PAPER - _INK) * level / 255) for level in range(256)])


def _skew_and_soften(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    angle = rng.uniform(*_SKEW_DEGREES) * rng.choice((-1, 1))
    skewed = image.rotate(angle, Image.Resampling.BICUBIC, fillcolor=round(_PAPER))
    return skewed.filter(ImageFilter.GaussianBlur(_BLUR_PIXELS))


def _light(
    pixels: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """Add uneven light from top to bottom, a shadow along the spine, and sensor noise."""
    height, width = pixels.shape
    falloff = np.linspace(0.0, rng.uniform(-9.0, 3.0), height)[:, np.newaxis]
    spine = _SPINE_SHADOW * np.exp(-np.arange(width) / _SPINE_PIXELS)[np.newaxis, :]
    noise = rng.normal(0.0, _NOISE, pixels.shape)
    return np.clip(pixels + falloff - spine + noise, 0, 255).astype(np.uint8)
