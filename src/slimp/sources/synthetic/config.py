"""Size and difficulty of a synthetic cohort."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from slimp.errors import UserError

if TYPE_CHECKING:
    from slimp.data.cohort import CohortInfo

NUISANCE = (
    *("clinic", "height_cm", "occupation", "smokes", "drinks", "pesticide"),
    *("piped_water", "sewage_system", "education", "household"),
)
LARGEST = 1e6
"""Of the spreads; beyond, images are black or white."""
LIMITS = (
    ("patients lesions images_per_lesion", 1, math.inf),
    ("image_size", 16, 2048),
    ("seed", 0, 2**32 - 1),
    ("ambiguity ugly_duckling label_noise session_share missing_block missing_cells", 0, 1),
    ("context signature_spread spread lighting clinic_cast", 0, LARGEST),
    ("nuisance_columns", 0, len(NUISANCE)),
)
"""Settings, and the least and most that each may be."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Size and difficulty of a synthetic cohort."""

    patients: int = 200
    """Number of patients."""
    lesions: int = 6
    """Mean number of lesions per patient; at least 1, most within twice the mean."""
    images_per_lesion: int = 1
    """Photographs of each lesion, at most; the number is uniform from 1."""
    image_size: int = 64
    """Side of the photographs, px."""
    seed: int = 0
    """Random seed; also of the clinics' cameras."""
    context: float = 1.0
    """How much the patient's phenotype shifts the odds of the diagnoses; 0 is not at all."""
    signature_spread: float = 0.22
    """Standard deviation, over patients, of the pigment of their nevi (absorbance). A melanoma is
    0.25 darker than its own patient's nevi, so a wide spread hides it from whoever does not look
    at the patient: the ugly duckling."""
    ugly_duckling: float = 0.0
    """Share of the melanomas that look, and are noted, like nevi of another patient: nothing but
    the patient's other lesions gives them away."""
    ambiguity: float = 0.3
    """Largest share that another diagnosis has in a lesion's look."""
    spread: float = 0.10
    """Standard deviation of each visible trait within a diagnosis, on a scale of 0 to 1."""
    label_noise: float = 0.02
    """Share of lesions whose label is drawn anew, whatever they are."""
    nuisance_columns: int = 8
    """Patient columns that nothing depends on, 0 to 10. The first, `clinic`, shows in the
    photographs all the same, by its camera."""
    lighting: float = 0.10
    """Standard deviation of the log exposure; colour casts have half of it."""
    session_share: float = 0.7
    """Share of the lighting's variance that the photographs of one patient have in common."""
    clinic_cast: float = 0.06
    """Standard deviation, over clinics, of the cameras' log gain per channel."""
    missing_block: float = 0.35
    """Share of patients without a questionnaire: of them only age, sex and clinic are known."""
    missing_cells: float = 0.03
    """Share of the other metadata cells that are missing, each on its own."""
    image_metadata: bool = False
    """Also note field of view and exposure per photograph, as a third level."""

    def __post_init__(self) -> None:
        for names, low, high in LIMITS:
            for name in names.split():
                if not low <= (value := getattr(self, name)) <= high:
                    bound = f"{low} or more" if high == math.inf else f"{low} to {high}"
                    raise UserError(f"{name} must be {bound}, got {value}.")

    @classmethod
    def of(cls, info: CohortInfo) -> SyntheticConfig:
        """The configuration that a synthetic cohort was made with.

        Raises:
            UserError: the cohort is not synthetic, or was made by another version.
        """
        content = {"ugly_duckling": 0.0, **info.import_report.get("config", {})}
        if info.source != "synthetic" or set(content) != {field.name for field in fields(cls)}:
            raise UserError(
                f"cohort '{info.name}' is not synthetic, or was made by another version of slimp."
            )
        return cls(**content)
