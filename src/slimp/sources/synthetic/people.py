"""The generative model of the synthetic cohort: patients, their lesions, and what is noted of them.

A patient's phenotype shapes its metadata, which diagnoses it is prone to, and how everything on
its skin looks. A lesion's diagnosis shapes its metadata and its appearance, the latter relative to
the patient. `docs/synthetic.md` draws the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from slimp.sources.synthetic.images import FINE, HARMONICS, Look, Photo, Skin

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


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A patient's latent state, and the metadata that were noted."""

    phenotype: Phenotype
    skin: Skin
    pattern: float
    """The signature nevus: -1 network, 1 globules."""
    lattice: float
    """The signature nevus: radians of its lattice per lesion radius."""
    clinic: int
    session: np.ndarray[Any, np.dtype[np.float64]]
    """Standard normal: the light and camera that all this patient's photographs share."""
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A lesion's true diagnosis, its look, and the metadata that were noted."""

    diagnosis: int
    look: Look
    metadata: dict[str, Any]


def draw_patient(rng: np.random.Generator, signature_spread: float) -> Patient:
    """A patient; `signature_spread` is how much patients' nevi differ in pigment."""
    normal = rng.standard_normal(12)
    fairness, moles = normal[0], normal[1] + 0.3 * normal[0]
    age_years = float(np.clip(55 + 16 * normal[2], 18, 95))
    age = (age_years - 55) / 16
    sun = 0.6 * normal[3] + 0.5 * age + 0.35 * fairness
    phenotype = Phenotype(age, sun, float(fairness), float(normal[4]), float(moles))
    melanin = float(np.clip(0.34 * np.exp(-0.55 * fairness), 0.08, 1.3))
    signature = 0.5 + 0.25 * (melanin - 0.34) + signature_spread * normal[5]
    skin = Skin(
        melanin=melanin,
        redness=float(np.clip(0.22 + 0.06 * normal[6], 0.08, 0.42)),
        freckles=float(_squash(0.9 * sun + 0.4 * fairness - 0.6)),
        freckle_knots=int(rng.integers(11, 23)),
        wrinkles=float(_squash(age)),
        moles=float(0.9 * np.exp(0.5 * moles)),
        mole_melanin=float(np.clip(signature, 0.15, 1.1)),
        hairiness=float(0.6 * np.exp(0.6 * normal[7])),
    )
    clinic = int(rng.integers(len(CLINICS)))
    return Patient(
        phenotype=phenotype,
        skin=skin,
        pattern=float(np.tanh(1.2 * normal[8])),
        lattice=float(8.0 * np.exp(0.2 * normal[9])),
        clinic=clinic,
        session=rng.standard_normal(5),
        metadata=_note_patient(rng, phenotype, age_years, clinic),
    )


def _note_patient(
    rng: np.random.Generator, phenotype: Phenotype, age_years: float, clinic: int
) -> dict[str, Any]:
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


def diagnosis_probabilities(
    phenotype: Phenotype, context: float
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Probability of each of `DIAGNOSES` for a lesion of such a patient.

    Args:
        phenotype: the patient's.
        context: 0, all patients are alike; 1, the full dependence.
    """
    odds = np.exp(_PRIOR + context * _PRONENESS @ np.array(phenotype))
    return np.asarray(odds / odds.sum())


def draw_lesion(
    rng: np.random.Generator, patient: Patient, *, context: float, ambiguity: float, spread: float
) -> Lesion:
    """A lesion of that patient.

    Args:
        rng: of the lesion.
        patient: whose it is.
        context: see `diagnosis_probabilities`.
        ambiguity: largest share that another diagnosis may have in the look.
        spread: standard deviation of each visible trait within a diagnosis.
    """
    probabilities = diagnosis_probabilities(patient.phenotype, context)
    diagnosis = int(np.searchsorted(np.cumsum(probabilities)[:-1], rng.random()))
    mix = np.zeros(len(DIAGNOSES))
    share = ambiguity * rng.random()
    mix[diagnosis] += 1 - share
    mix[rng.integers(len(DIAGNOSES))] += share
    values = mix @ _TYPICAL + spread * rng.standard_normal(len(TRAITS))
    traits = dict(zip(TRAITS, values.tolist(), strict=True))
    traits["pigment"] += float(mix @ _ON_SIGNATURE) * patient.skin.mole_melanin
    diameter = float(mix @ _DIAMETER_MM * np.exp(0.28 * rng.standard_normal()))
    look = _look(rng, patient, traits, diameter, typical=float(mix[0]))
    return Lesion(diagnosis=diagnosis, look=look, metadata=_note_lesion(rng, diagnosis, look))


def _look(
    rng: np.random.Generator,
    patient: Patient,
    traits: dict[str, float],
    diameter_mm: float,
    *,
    typical: float,
) -> Look:
    """The look of a lesion; a nevus has the patient's own pattern, others are off it."""
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
        pattern=float(np.clip(patient.pattern + strangeness * own[0], -1, 1)),
        lattice=float(patient.lattice * np.exp(0.35 * strangeness * own[1])),
        disorder=0.1 + 0.3 * strangeness,
        cysts=spots,
        fields=rng.standard_normal((3, FINE, FINE), dtype=np.float32),
        **traits,
    )


def _note_lesion(rng: np.random.Generator, diagnosis: int, look: Look) -> dict[str, Any]:
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
    rng: np.random.Generator,
    patient: Patient,
    look: Look,
    *,
    cast: tuple[float, float, float],
    lighting: float,
    session_share: float,
) -> Photo:
    """How one photograph was taken.

    Args:
        rng: of the photograph.
        patient: whose session it was taken in.
        look: of the lesion, which the photographer frames.
        cast: log gain per channel of the clinic's camera.
        lighting: standard deviation of the log exposure.
        session_share: share of the lighting's variance that the patient's photographs have in
            common.
    """
    own = rng.standard_normal(5)
    mixed = np.sqrt(session_share) * patient.session + np.sqrt(1 - session_share) * own
    exposure = lighting * (mixed[0] + np.array([0.45 * mixed[1], 0.0, 0.45 * mixed[2]]))
    gain = np.exp(exposure + np.array(cast))
    return Photo(
        field_mm=float((5.5 + 1.35 * look.diameter_mm) * np.exp(0.12 * rng.standard_normal())),
        centre=(float(rng.uniform(-0.16, 0.16)), float(rng.uniform(-0.16, 0.16))),
        angle=look.turn + float(rng.uniform(-0.3, 0.3)),
        light=float(patient.session[4] + (1 - session_share) * rng.uniform(-np.pi, np.pi)),
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
