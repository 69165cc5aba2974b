"""The generative model of the synthetic cohort: patients, their lesions, and what is noted of them.

A patient's phenotype shapes its metadata, which diagnoses it is prone to, and how everything on
its skin looks. A lesion's diagnosis shapes its metadata and its appearance, the latter relative to
the patient. `docs/synthetic.md` draws the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool
from scipy.special import ndtr, ndtri

from slimp.sources.synthetic.config import SyntheticConfig
from slimp.sources.synthetic.images import FINE, HARMONICS, Look, Photo, Rng, Skin

DIAGNOSES = ("nevus", "keratosis", "bcc", "actinic", "melanoma")
CANCERS = ("bcc", "melanoma")
CLINICS = ("A", "B", "C", "D", "E", "F")
SITES = ("face", "scalp", "neck", "chest", "back", "arm", "hand", "leg")
_OCCUPATIONS = ("care", "craft", "farm", "office", "sales", "school", "transport", "none")


class Phenotype(NamedTuple):
    """Latent traits that act on the diagnosis; each is about standard normal over patients."""

    age: float
    sun_damage: float
    fairness: float
    familial_risk: float
    mole_tendency: float


class Signature(NamedTuple):
    """What the nevi of one patient have in common."""

    pigment: float  # melanin that they add to the skin
    pattern: float  # -1 network, 1 globules
    lattice: float  # radians of the lattice per lesion radius


# Log odds of each diagnosis for the average patient, and per unit of each phenotype.
_PRIOR = np.log((0.34, 0.20, 0.18, 0.14, 0.14))
_PRONENESS = np.array(
    [  # age   sun   fair  famil moles
        [-1.1, -0.3, 0.0, 0.0, 0.9],  # nevus
        [0.8, -0.1, -0.4, -0.3, 0.0],  # keratosis
        [0.4, 0.5, 0.7, 0.1, -0.5],  # bcc
        [0.4, 1.0, 0.9, -0.3, -0.6],  # actinic
        [0.0, 0.2, 0.3, 1.1, 0.5],  # melanoma
    ]
)

_MANY_NEVI = np.array([8.0, 1.0, 1.0, 1.0, 2.0])
"""Odds where there are ugly ducklings: without many nevi, nothing would stand out from them."""

# Mean strength of each visible trait per diagnosis, 0 to 1. `pigment` is the melanin added to the
# skin's; that of nevi and melanomas is counted from the patient's own signature.
TRAITS = (
    *("lopsided", "ragged", "sharpness", "pigment", "redness", "gradient", "variegation"),
    *("structure", "grain", "cysts", "vessels", "rim", "ulcer", "scale", "veil", "elevation"),
)
_TYPICAL = np.array(
    [  # lop  rag  shar  pigm  red   grad  vari  stru  grai  cyst  vess  rim   ulce  scal  veil elev
        [0.25, 0.2, 0.5, 0.0, 0.1, 0.15, 0.2, 0.65, 0.1, 0.0, 0.05, 0.0, 0.0, 0.0, 0.05, 0.4],
        [0.35, 0.3, 0.8, 0.45, 0.1, 0.2, 0.35, 0.1, 0.7, 0.6, 0.05, 0.05, 0.05, 0.25, 0.05, 0.65],
        [0.35, 0.35, 0.4, 0.12, 0.5, 0.2, 0.3, 0.1, 0.2, 0.05, 0.55, 0.5, 0.35, 0.15, 0.1, 0.6],
        [0.4, 0.45, 0.15, 0.15, 0.55, 0.2, 0.35, 0.1, 0.4, 0.0, 0.15, 0.05, 0.1, 0.5, 0.0, 0.25],
        [0.5, 0.55, 0.5, 0.25, 0.2, 0.45, 0.5, 0.45, 0.2, 0.05, 0.15, 0.0, 0.12, 0.05, 0.35, 0.45],
    ]
)
_DIAMETER_MM = np.array([6.2, 8.0, 7.2, 7.8, 8.2])
_ON_SIGNATURE = np.array([1.0, 0.0, 0.0, 0.0, 1.0])

# Weights of the sites (in the order of SITES) and log odds of the symptoms, per diagnosis.
_SITE = np.array(
    [
        [2.0, 0.5, 1.0, 2.0, 2.5, 2.0, 0.7, 2.0],
        [2.0, 1.0, 1.5, 2.5, 3.0, 1.0, 0.7, 1.0],
        [3.0, 1.0, 2.0, 1.5, 2.0, 1.0, 0.7, 0.7],
        [3.0, 1.5, 1.0, 0.8, 1.0, 2.0, 2.0, 0.8],
        [1.5, 0.5, 1.0, 2.0, 3.0, 2.0, 0.7, 2.5],
    ]
)
SYMPTOMS = ("itch", "hurt", "grew", "changed", "bled")
_SYMPTOM = np.array(
    [
        [-1.2, -2.4, -1.0, -1.6, -3.2],
        [-0.2, -2.2, -0.2, -1.4, -2.8],
        [-0.2, -1.4, 0.4, -1.2, -2.2],
        [0.2, -1.6, -0.6, -1.4, -2.8],
        [-0.6, -2.0, 0.5, -0.2, -2.6],
    ]
)
_DURATION_MONTHS = np.array([70.0, 50.0, 30.0, 36.0, 26.0])


_ALWAYS_ASKED = ("age", "sex", "clinic")
"""What a clinic knows of everyone; the questionnaire holds the rest, and may be missing whole."""
Values: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A patient's latent state, and the metadata that were noted."""

    phenotype: Phenotype
    skin: Skin
    signature: Signature
    foreign: Signature
    """Another patient's, far from this one's; over patients both are distributed alike."""
    clinic: int
    session: Values  # standard normal: light and camera that all photographs share
    metadata: dict[str, Any]
    lesions: int  # how many


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A lesion's true diagnosis, its look, and what was noted."""

    diagnosis: int
    look: Look
    metadata: dict[str, Any]
    label: str
    biopsied: bool
    images: int  # how many


def draw_patient(config: SyntheticConfig, rng: Rng) -> Patient:
    """A patient of the cohort."""
    normal = rng.standard_normal(12)
    fairness, moles = normal[0], normal[1] + 0.3 * normal[0]
    age_years = float(np.clip(55 + 16 * normal[2], 18, 95))
    age = (age_years - 55) / 16
    sun = 0.6 * normal[3] + 0.5 * age + 0.35 * fairness
    phenotype = Phenotype(age, sun, float(fairness), float(normal[4]), float(moles))
    melanin = float(np.clip(0.34 * np.exp(-0.55 * fairness), 0.08, 1.3))
    signature = _signature(config, melanin, own := normal[[5, 8, 9]])
    skin = Skin(
        melanin=melanin,
        redness=float(np.clip(0.22 + 0.06 * normal[6], 0.08, 0.42)),
        freckles=float(_squash(0.9 * sun + 0.4 * fairness - 0.6)),
        freckle_knots=int(rng.integers(11, 23)),
        wrinkles=float(_squash(age)),
        # A mole beside the lesion would tell the signature, with nothing to compare.
        moles=0.0 if config.ugly_duckling else float(0.9 * np.exp(0.5 * moles)),
        mole_melanin=signature.pigment,
        hairiness=float(0.6 * np.exp(0.6 * normal[7])),
    )
    clinic = int(rng.integers(len(CLINICS)))
    session = rng.standard_normal(5)
    metadata = _note_patient(rng, phenotype, age_years, clinic)
    missing = rng.random(len(metadata)) < config.missing_cells
    if rng.random() < config.missing_block:
        missing |= np.array([name not in _ALWAYS_ASKED for name in metadata])
    return Patient(
        phenotype=phenotype,
        skin=skin,
        signature=signature,
        # Half of the distribution away: the same distribution, and never less than 1.35 deviations.
        foreign=_signature(config, melanin, ndtri((ndtr(own) + 0.5) % 1)),
        clinic=clinic,
        session=session,
        metadata=_with_gaps(metadata, missing),
        lesions=1 + int(rng.poisson((config.lesions - 1) * rng.gamma(4.0, 0.25))),
    )


def _signature(config: SyntheticConfig, melanin: float, normal: Values) -> Signature:
    """The signature of a patient whose skin has that melanin, from three standard normals."""
    pigment = 0.5 + 0.25 * (melanin - 0.34) + config.signature_spread * normal[0]
    return Signature(
        pigment=float(np.clip(pigment, 0.15, 1.1)),
        pattern=float(np.tanh(1.2 * normal[1])),
        lattice=float(8.0 * np.exp(0.2 * normal[2])),
    )


def _with_gaps(metadata: dict[str, Any], missing: Bool[np.ndarray, " _"]) -> dict[str, Any]:
    cells = zip(metadata.items(), missing, strict=True)
    return {name: None if lost else value for (name, value), lost in cells}


def _note_patient(rng: Rng, phenotype: Phenotype, age_years: float, clinic: int) -> dict[str, Any]:
    """Metadata of a patient: phenotype seen through noise, and columns that mean nothing."""
    noise, chance = rng.standard_normal(6), rng.random(12)
    _, sun, fairness, familial, moles = phenotype
    male = chance[0] < 0.5
    return {
        "age": round(age_years),
        "sex": "male" if male else "female",
        "skin_type": _bin(
            -fairness + 0.4 * noise[0], (-1.6, -0.4, 0.6, 1.3, 2.0), "I II III IV V VI"
        ),
        "sun_exposure": _bin(sun + 0.6 * noise[1], (-0.4, 0.7), "low moderate high"),
        "hair_colour": _bin(-fairness + 0.8 * noise[2], (-2.0, -0.8, 0.7), "red blond brown black"),
        "moles": _bin(moles + 0.5 * noise[3], (-0.5, 0.7), "few some many"),
        "family_melanoma": bool(chance[1] < _squash(1.3 * familial - 2.0)),
        "family_skin_cancer": bool(chance[2] < _squash(1.0 * familial + 0.3 * fairness - 1.0)),
        "previous_skin_cancer": bool(chance[3] < _squash(0.8 * sun + 0.7 * familial - 1.2)),
        "previous_cancer": bool(chance[4] < 0.12),
        "clinic": CLINICS[clinic],
        "height_cm": round(float(166 + 9 * male + 7 * noise[4])),
        "occupation": str(rng.choice(_OCCUPATIONS)),
        "smokes": bool(chance[5] < 0.25),
        "drinks": bool(chance[6] < 0.4),
        "pesticide": bool(chance[7] < 0.3),
        "piped_water": bool(chance[8] < 0.7),
        "sewage_system": bool(chance[9] < 0.6),
        "education": _bin(noise[5], (-0.3, 0.8), "primary secondary tertiary"),
        "household": int(1 + rng.poisson(1.8)),
    }


def diagnosis_probabilities(phenotype: Phenotype, context: float) -> Values:
    """Probability of each of `DIAGNOSES`; `context` is 0 if all patients are alike."""
    odds = np.exp(_PRIOR + context * _PRONENESS @ np.array(phenotype))
    return np.asarray(odds / odds.sum())


def draw_lesion(config: SyntheticConfig, rng: Rng, patient: Patient) -> Lesion:
    """A lesion of that patient."""
    probabilities = diagnosis_probabilities(patient.phenotype, config.context)
    if config.ugly_duckling:
        probabilities = probabilities * _MANY_NEVI / (probabilities @ _MANY_NEVI)
    diagnosis = int(np.searchsorted(np.cumsum(probabilities)[:-1], rng.random()))
    drawn, signature = diagnosis, patient.signature  # of its look
    hides = config.ugly_duckling > 0 and rng.random() < config.ugly_duckling
    if hides and DIAGNOSES[diagnosis] == "melanoma":
        drawn, signature = DIAGNOSES.index("nevus"), patient.foreign
    mix = np.zeros(len(DIAGNOSES))
    share = config.ambiguity * rng.random()
    mix[drawn] += 1 - share
    mix[rng.integers(len(DIAGNOSES))] += share
    values = mix @ _TYPICAL + config.spread * rng.standard_normal(len(TRAITS))
    traits = dict(zip(TRAITS, values.tolist(), strict=True))
    traits["pigment"] += float(mix @ _ON_SIGNATURE) * signature.pigment
    diameter = float(mix @ _DIAMETER_MM * np.exp(0.28 * rng.standard_normal()))
    look = _look(rng, signature, traits, diameter, typical=float(mix[0]))
    metadata = _note_lesion(rng, drawn, look)
    metadata = _with_gaps(metadata, rng.random(len(metadata)) < config.missing_cells)
    wrong, any_diagnosis = rng.random() < config.label_noise, rng.integers(len(DIAGNOSES))
    label = DIAGNOSES[any_diagnosis if wrong else diagnosis]
    return Lesion(
        diagnosis=diagnosis,
        look=look,
        metadata=metadata,
        label=label,
        biopsied=bool(rng.random() < 0.3) or label in CANCERS,
        images=int(rng.integers(config.images_per_lesion)) + 1,
    )


def _look(
    rng: Rng, signature: Signature, traits: dict[str, float], diameter_mm: float, *, typical: float
) -> Look:
    """The look of a lesion; a nevus has the signature's pattern, others are off it."""
    traits = {name: float(np.clip(value, 0, 1.2)) for name, value in traits.items()}
    orders = np.arange(1, HARMONICS + 1)
    ragged = (0.02 + 0.16 * traits.pop("ragged")) / orders**0.6
    size = np.where(orders <= 2, 0.03 + 0.2 * traits.pop("lopsided"), ragged)
    wave = rng.standard_normal((2, HARMONICS))
    strangeness = 1 - typical
    count = rng.poisson(9 * traits.pop("cysts"))
    spots = rng.uniform((-0.65, -0.65, 0.07), (0.65, 0.65, 0.14), size=(count, 3))
    own = rng.standard_normal(2)
    return Look(
        diameter_mm=diameter_mm,
        outline=0.7 * size * (wave[0] + 1j * wave[1]),
        turn=float(rng.uniform(-np.pi, np.pi)),
        melanin=0.05 + traits.pop("pigment"),
        pattern=float(np.clip(signature.pattern + strangeness * own[0], -1, 1)),
        lattice=float(signature.lattice * np.exp(0.35 * strangeness * own[1])),
        disorder=0.1 + 0.3 * strangeness,
        cysts=spots,
        fields=rng.standard_normal((3, FINE, FINE), dtype=np.float32),
        **traits,
    )


def _note_lesion(rng: Rng, diagnosis: int, look: Look) -> dict[str, Any]:
    """Metadata of a lesion: its history, and its look through a clinician's eyes."""
    noise, chance = rng.standard_normal(6), rng.random(len(SYMPTOMS))
    odds = _SYMPTOM[diagnosis].copy()
    odds[-1] += 4.0 * look.ulcer
    odds[0] += 1.2 * look.scale
    weights = _SITE[diagnosis] / _SITE[diagnosis].sum()
    crusted = look.ulcer + 0.5 * look.scale + 0.4 * noise[0]
    rough = look.grain + 0.7 * look.scale + 0.4 * noise[1]
    surface = "crusted" if crusted > 0.5 else "rough" if rough > 0.5 else "smooth"
    duration = _DURATION_MONTHS[diagnosis] * np.exp(0.9 * noise[2])
    return {
        "diameter_mm": round(float(look.diameter_mm * np.exp(0.12 * noise[3])), 1),
        "duration_months": round(float(max(1.0, duration))),
        "site": SITES[int(np.searchsorted(np.cumsum(weights)[:-1], rng.random()))],
        "surface": surface,
        "colour": _colour(look, 0.3 * noise[4]),
        "elevated": bool(look.elevation + 0.3 * noise[5] > 0.5),
        **{name: bool(c < _squash(o)) for name, c, o in zip(SYMPTOMS, chance, odds, strict=True)},
    }


def _colour(look: Look, noise: float) -> str:
    """The colour that a clinician would note."""
    if look.melanin > 0.3 and 0.5 * (look.variegation + look.veil + look.gradient) + noise > 0.5:
        return "mixed"
    if look.melanin + noise > 0.75:
        return "dark"
    if look.melanin + noise > 0.32:
        return "brown"
    return "red" if look.redness + noise > 0.4 else "skin"


def draw_photo(
    config: SyntheticConfig,
    rng: Rng,
    patient: Patient,
    look: Look,
    cast: tuple[float, float, float],
) -> Photo:
    """How one photograph was taken; `cast` is the log gain per channel of the clinic's camera."""
    common = config.session_share
    own = rng.standard_normal(5)
    mixed = np.sqrt(common) * patient.session + np.sqrt(1 - common) * own
    exposure = config.lighting * (mixed[0] + np.array([0.45 * mixed[1], 0.0, 0.45 * mixed[2]]))
    gain = np.exp(exposure + np.array(cast))
    return Photo(
        field_mm=float((5.5 + 1.35 * look.diameter_mm) * np.exp(0.12 * rng.standard_normal())),
        centre=(float(rng.uniform(-0.16, 0.16)), float(rng.uniform(-0.16, 0.16))),
        angle=look.turn + float(rng.uniform(-0.3, 0.3)),
        light=float(patient.session[4] + (1 - common) * rng.uniform(-np.pi, np.pi)),
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        vignette=float(0.5 * _squash(mixed[3])),
        blur=float(0.009 * np.exp(0.35 * own[3])),
        noise=float(0.014 * np.exp(0.4 * own[4])),
        quality=int(rng.integers(86, 96)),
    )


def _squash(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def _bin(value: float, edges: tuple[float, ...], names: str) -> str:
    """The name of the interval that `value` lies in."""
    return names.split()[int(np.searchsorted(edges, value))]
