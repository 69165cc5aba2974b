"""Draws a schematic photograph of a lesion on skin, and the mask of the lesion.

Colour follows two chromophores, melanin and haemoglobin, each with an absorption per channel, so
that brown, red and their mixtures look as they do on skin. Nothing here knows of diagnoses: a
picture is a function of a `Skin`, a `Look` and a `Photo`.

Axis names: h, w = pixels of the square image, k = knots of a random field, s = spots,
a = harmonics of the outline. Positions are in [-1, 1] from one edge of the photograph to the other.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Complex, Float, UInt8
from PIL import Image

COARSE, MEDIUM, FINE = 5, 10, 22
"""Knots along one side of the random fields: blotches, patches and grains."""
HARMONICS = 9

_UNPIGMENTED = np.array([0.99, 0.86, 0.79], dtype=np.float32)
_MELANIN = np.array([0.50, 0.86, 1.22], dtype=np.float32)
_HAEMOGLOBIN = np.array([0.12, 0.80, 0.66], dtype=np.float32)
_VEIL = np.array([0.42, 0.47, 0.58], dtype=np.float32)
_KERATIN = np.array([0.95, 0.91, 0.82], dtype=np.float32)
_HAIR = np.array([0.16, 0.11, 0.08], dtype=np.float32)
Plane: TypeAlias = Float[np.ndarray, "h w"]
Picture: TypeAlias = Float[np.ndarray, "h w 3"]
Fields: TypeAlias = tuple[Plane, Plane, Plane]  # of a lesion: coarse, medium and fine
Rng: TypeAlias = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Skin:
    """What all photographs of one patient share."""

    melanin: float  # absorbance, about 0.1 (very fair) to 1.3 (very dark)
    redness: float  # haemoglobin, about 0.1 to 0.4
    freckles: float  # density of sun spots, 0 to 1
    freckle_knots: int  # of the sun spots' field: few are broad spots, many are fine ones
    wrinkles: float  # depth of the skin lines, 0 to 1
    moles: float  # mean number of small naevi in view beside the lesion
    mole_melanin: float  # that this patient's naevi add to the skin: the signature
    hairiness: float  # mean number of hairs across a photograph


@dataclass(frozen=True, kw_only=True)
class Look:
    """What all photographs of one lesion share. Strengths are 0 (absent) to 1 (marked)."""

    diameter_mm: float
    outline: Complex[np.ndarray, " a"]
    """Fourier coefficients of the border: 1-2 lopsided and oval, higher ones ragged."""
    turn: float  # orientation on the body, radians
    sharpness: float
    melanin: float  # absorbance added to that of the skin
    redness: float
    gradient: float  # pigment that fades from one side to the other
    variegation: float
    structure: float  # contrast of the lattice
    pattern: float  # -1: a pigment network; 1: globules
    lattice: float  # radians of the lattice per lesion radius
    disorder: float  # how far the lattice is warped
    grain: float
    cysts: Float[np.ndarray, "s 3"]
    """Pale spots: position in lesion radii, and radius."""
    vessels: float
    rim: float
    ulcer: float
    scale: float
    veil: float
    elevation: float
    fields: Float[np.ndarray, "3 k k"]
    """Knots (standard normal) of the lesion's own random fields."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """How one photograph was taken. Angles in radians."""

    field_mm: float  # width of the field of view
    centre: tuple[float, float]
    angle: float  # of the lesion
    light: float  # direction that the light comes from
    gain: tuple[float, float, float]  # exposure and colour cast, per channel
    vignette: float
    blur: float  # standard deviation, as a share of the image's side
    noise: float
    quality: int  # of the JPEG encoding


class _Frame(NamedTuple):
    """The lesion's own coordinates at every pixel."""

    u: Plane  # in lesion radii, turned with the lesion
    v: Plane
    extent: Plane  # 0 in the middle, 1 on the border


def render(skin: Skin, look: Look, photo: Photo, size: int, rng: Rng) -> UInt8[np.ndarray, "h w 3"]:
    """The photograph in RGB, `size` px wide; `rng` draws the skin around, hairs and noise."""
    frame = _frame(look, photo, size)
    fields = _lesion_fields(look, size)
    coarse, medium, fine = fields
    inside = _sigmoid((1 - frame.extent) * (4 + 26 * look.sharpness))
    melanin, blood = _bare_skin(skin, frame.extent, size, rng)
    melanin = melanin + inside * _pigment(look, frame, fields)
    blood = blood + _redness(look, frame.extent, inside, fields)
    absorbance = melanin[..., None] * _MELANIN + blood[..., None] * _HAEMOGLOBIN  # (h, w, 3)
    rgb = _UNPIGMENTED * np.exp(-absorbance)
    rgb = _mix(rgb, _VEIL, 0.8 * look.veil * inside * _sigmoid(4 * coarse.T - 1))
    rgb = _mix(rgb, _KERATIN, inside * _keratin(look, frame, medium.T))
    rgb = rgb * _relief(skin, look, photo, frame, fine, rng)[..., None]
    rgb = _add_hairs(rgb, rng.poisson(skin.hairiness), rng)
    return _expose(rgb, photo, rng)


def lesion_mask(look: Look, photo: Photo, size: int) -> Bool[np.ndarray, "h w"]:
    """Where `render` draws the lesion."""
    return _frame(look, photo, size).extent < 1


def encode_jpeg(image: UInt8[np.ndarray, "h w 3"], quality: int) -> bytes:
    """The image as JPEG, without chroma subsampling so that small structures keep their colour."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _frame(look: Look, photo: Photo, size: int) -> _Frame:
    x, y = _grid(size)
    radius = look.diameter_mm / photo.field_mm
    turn = np.complex64(np.exp(-1j * photo.angle) / radius)
    z = ((x - np.float32(photo.centre[0])) + 1j * (y - np.float32(photo.centre[1]))) * turn
    distance = np.abs(z) + np.float32(1e-6)
    direction = z / distance
    border = np.zeros_like(z)
    for coefficient in look.outline[::-1]:  # Horner: sum over a of outline[a] * direction**(a + 1)
        border = (border + np.complex64(coefficient)) * direction
    return _Frame(z.real, z.imag, distance / np.maximum(1 + border.real, np.float32(0.3)))


def _bare_skin(skin: Skin, extent: Plane, size: int, rng: Rng) -> tuple[Plane, Plane]:
    """Melanin and haemoglobin of the skin, with sun spots and small naevi around the lesion."""
    blotches, flush = _field(rng, size, COARSE), _field(rng, size, COARSE)
    spots = np.maximum(_field(rng, size, skin.freckle_knots) - (2.2 - 1.4 * skin.freckles), 0)
    melanin = skin.melanin + 0.03 * blotches + (0.1 + 0.4 * skin.freckles) * spots
    x, y = _grid(size)
    for _ in range(rng.poisson(skin.moles)):
        angle, distance, radius = rng.uniform((0, 0.75, 0.05), (2 * np.pi, 1.25, 0.12))
        dx, dy = x - distance * np.cos(angle), y - distance * np.sin(angle)
        mole = np.exp(-(((dx * dx + dy * dy) / radius**2) ** 2)) * (extent > 1.2)
        melanin = melanin + 0.9 * skin.mole_melanin * mole
    return melanin.astype(np.float32), (skin.redness + 0.04 * flush).astype(np.float32)


def _pigment(look: Look, frame: _Frame, fields: Fields) -> Plane:
    """Melanin of the lesion: unevenness, a slope, a lattice and grains, multiplied."""
    coarse, medium, fine = fields
    u = look.lattice * frame.u + 3 * look.disorder * coarse
    v = look.lattice * frame.v + 3 * look.disorder * medium
    half, tall = np.float32(0.5), np.float32(np.sqrt(0.75))
    lattice = (np.cos(u) + np.cos(half * u + tall * v) + np.cos(half * u - tall * v)) / 3
    share = 1 + 0.55 * look.variegation * (coarse + 0.5 * medium)
    share += 0.5 * look.gradient * np.clip(frame.u, -1, 1)
    share += 1.1 * look.structure * look.pattern * lattice + 0.35 * look.grain * fine
    return np.maximum(look.melanin * share, 0).astype(np.float32)


def _redness(look: Look, extent: Plane, inside: Plane, fields: Fields) -> Plane:
    """Haemoglobin of the lesion: a flush, winding vessels and an ulcer in the middle."""
    coarse, medium, _ = fields
    flush = 0.75 * look.redness * _sigmoid((1.1 - extent) * 6) * (1 + 0.25 * medium)
    # The zero line of a smooth field winds and branches as a vessel does.
    vessels = 0.9 * look.vessels * inside * np.exp(-((medium / 0.16) ** 2))
    ulcer = 1.7 * look.ulcer * _sigmoid((0.42 - extent + 0.16 * coarse) * 11)
    return np.asarray(flush + vessels + ulcer, dtype=np.float32)


def _keratin(look: Look, frame: _Frame, patches: Plane) -> Plane:
    """Cover by pale matter: scales in patches, and cysts."""
    cover = 0.8 * look.scale * _sigmoid(5 * (patches - 0.5))
    for u, v, radius in look.cysts:
        squared = (frame.u - u) ** 2 + (frame.v - v) ** 2
        cover = np.maximum(cover, 0.7 * np.exp(-squared / np.float32(radius**2)))
    return np.asarray(cover, dtype=np.float32)


def _relief(skin: Skin, look: Look, photo: Photo, frame: _Frame, fine: Plane, rng: Rng) -> Plane:
    """Brightness from the surface: skin lines, and the lit and shaded flanks of the lesion."""
    size = len(fine)
    lines = _weights(size, FINE) @ _knots(rng, FINE, MEDIUM) @ _weights(size, MEDIUM).T
    facing = frame.u * np.cos(photo.light - photo.angle)
    facing = facing + frame.v * np.sin(photo.light - photo.angle)
    flank = np.exp(-(((frame.extent - 0.85) / 0.22) ** 2)) * np.clip(facing, -1, 1)
    rim = np.exp(-(((frame.extent - 0.82) / 0.13) ** 2)) * (0.6 + 0.4 * np.clip(facing, -1, 1))
    bumps = np.float32(0.07 * look.grain * look.elevation) * fine * (frame.extent < 1)
    relief = 1 + (0.015 + 0.03 * skin.wrinkles) * lines + 0.16 * look.elevation * flank
    return np.asarray(relief + 0.28 * look.rim * rim + bumps, dtype=np.float32)


def _add_hairs(rgb: Picture, count: int, rng: Rng) -> Picture:
    x, y = _grid(len(rgb))
    cover = np.zeros_like(x)
    for _ in range(min(count, 12)):
        angle, offset, bend, width = rng.uniform((0, -0.9, -0.4, 0.012), (np.pi, 0.9, 0.4, 0.028))
        along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
        across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
        gap = (across - np.float32(offset) - np.float32(bend) * along * along) / np.float32(width)
        cover = np.maximum(cover, np.exp(-gap * gap))
    return _mix(rgb, _HAIR, 0.75 * cover)


def _expose(rgb: Picture, photo: Photo, rng: Rng) -> UInt8[np.ndarray, "h w 3"]:
    """What the camera makes of it: light fall-off, colour cast, blur, noise, 8 bits."""
    size = len(rgb)
    x, y = _grid(size)
    toward = x * np.float32(np.cos(photo.light)) + y * np.float32(np.sin(photo.light))
    light = 1 - np.float32(photo.vignette) * (0.3 * (x * x + y * y) - 0.25 * toward)
    rgb = rgb * light[..., None] * np.asarray(photo.gain, dtype=np.float32)
    blur = _blur(size, photo.blur)
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))  # (3, h, w)
    rgb = np.moveaxis(blur @ planes @ blur.T, 0, -1)  # (h, w, 3)
    rgb = rgb + np.float32(photo.noise) * rng.standard_normal(rgb.shape, dtype=np.float32)
    return np.asarray(np.clip(rgb, 0, 1) * 255 + 0.5, dtype=np.uint8)


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Plane, Plane]:
    """Pixel centres: x, then y."""
    centres = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    return x, y


@lru_cache(maxsize=64)
def _weights(size: int, knots: int) -> Float[np.ndarray, "h k"]:
    """Gaussian interpolation from knots to pixels; unit rows keep a field's variance at 1."""
    pixels = (np.arange(size) + 0.5) / size * (knots - 2) + 0.5
    weights = np.exp(-0.5 * ((pixels[:, None] - np.arange(knots)) / 0.6) ** 2)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), dtype=np.float32)


def _knots(rng: Rng, rows: int, columns: int) -> Float[np.ndarray, "k1 k2"]:
    return rng.standard_normal((rows, columns), dtype=np.float32)


def _field(rng: Rng, size: int, knots: int) -> Plane:
    """A smooth random field, standard normal at every pixel."""
    weights = _weights(size, knots)
    return np.asarray(weights @ _knots(rng, knots, knots) @ weights.T)


def _lesion_fields(look: Look, size: int) -> Fields:
    """The lesion's fields at three grain sizes."""

    def spread(knots: Float[np.ndarray, "k k"], count: int) -> Plane:
        weights = _weights(size, count)
        return np.asarray(weights @ knots[:count, :count] @ weights.T)

    coarse, medium, fine = look.fields
    return spread(coarse, COARSE), spread(medium, MEDIUM), spread(fine, FINE)


def _blur(size: int, width: float) -> Float[np.ndarray, "h h"]:
    """Gaussian blur of one axis as a matrix; rows add up to 1, also at the edges."""
    pixels = np.arange(size, dtype=np.float32)
    width = max(width * size, 0.05)
    kernel = np.exp(-0.5 * ((pixels[:, None] - pixels) / np.float32(width)) ** 2)
    return np.asarray(kernel / kernel.sum(axis=1, keepdims=True))


def _sigmoid(x: Plane) -> Plane:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _mix(rgb: Picture, colour: Float[np.ndarray, " 3"], cover: Plane) -> Picture:
    """`colour` laid over the image; `cover` is 0 to 1."""
    return np.asarray(rgb + (colour - rgb) * np.minimum(cover, 1)[..., None], dtype=np.float32)
