"""A clean cohort with something to spoil in it, and how to read a report."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
from PIL import Image
from raw_data import encoded as encoded_image

from slimp.data.cohort import Cohort, CohortInfo
from slimp.data.files import ImagesInMemory
from slimp.data.schema import Schema

SCHEMA = {
    "image": "file",
    "lesion": "lesion",
    "patient": "patient",
    "label": "diagnosis",
    "lesion_metadata": {
        "diameter": {"kind": "continuous", "unit": "mm"},
        "symptoms": {"kind": "checkbox", "columns": ["itch", "bleed"], "missing": ["UNK"]},
    },
    "patient_metadata": {
        "age": {"kind": "continuous", "unit": "years"},
        "origin": {"kind": "categorical"},
    },
    "refused": {"biopsied": "follows from the diagnosis"},
}
CLASSES = np.array(["BCC", "MEL", "NEV"])


def encode(pixels, kind="png", **options):
    """Pixels -> an encoded image."""
    return encoded_image(Image.fromarray(pixels), kind, **options)


@lru_cache(None)
def picture(seed):
    """Number -> an encoded image of noise, always the same."""
    return encode(np.random.default_rng(seed).integers(0, 255, (40, 36, 3), dtype=np.uint8))


def clean_tables(seed=0, patients=60):
    """Two lesions per patient, an image each; clinical columns depend on the label, by chance."""
    rng = np.random.default_rng(seed)
    n = 2 * patients
    of = np.arange(n) // 2
    label = CLASSES[(of + rng.integers(0, 2, n)) % 3]
    chances = {"BCC": 0.7, "MEL": 0.4, "NEV": 0.1}
    bleeds = rng.random(n) < np.array([chances[name] for name in label])
    images = pd.DataFrame(
        {
            "image_id": [f"i{k:03}" for k in range(n)],
            "lesion_id": [f"l{k:03}" for k in range(n)],
            "patient_id": [f"p{k:03}" for k in of],
            "label": label,
        }
    )
    lesions = images[["lesion_id", "patient_id"]].assign(
        diameter=rng.uniform(2, 20, n).round(1),
        itch=pd.array(rng.random(n) < 0.4, dtype="boolean"),
        bleed=pd.array(bleeds, dtype="boolean"),
    )
    people = pd.DataFrame(
        {
            "patient_id": [f"p{k:03}" for k in range(patients)],
            "age": rng.integers(20, 60, patients).astype(float),
            "origin": rng.choice(["ITALY", "BRASIL", "POMERANIA"], patients),
        }
    ).astype({"origin": "str"})
    people.loc[rng.random(patients) < 0.2, "age"] = np.nan
    return {"images": images, "lesions": lesions, "patients": people}


def with_column(table, column, values):
    """The clean tables, a column of one of them replaced."""
    tables = clean_tables()
    return {**tables, table: tables[table].assign(**{column: values})}


def without_patients():
    """The clean tables, each lesion as a patient of its own."""
    tables = clean_tables()
    own = {"patient_id": tables["lesions"]["lesion_id"].to_numpy()}
    tables["patients"] = tables["patients"].iloc[np.arange(120) // 2]
    return {name: table.assign(**own) for name, table in tables.items()}


def cohort(tables=None, *, encoded=None, schema=None, report=None):
    """Tables -> a cohort, `encoded` in place of noise, with a report of its import."""
    tables, own = tables or clean_tables(), encoded or {}
    ids = tables["images"]["image_id"]
    return Cohort.from_tables(
        **tables,
        schema=Schema.from_dict({**SCHEMA, **(schema or {})}),
        store=ImagesInMemory([own.get(i, picture(k)) for k, i in enumerate(ids)]),
        info=CohortInfo(name="ours", import_report=report or {}),
    )


def codes(report, *severities):
    """The codes in a report, of some severities or of all."""
    return {f.code for f in report.findings if not severities or f.severity in severities}


def only(report, code):
    """The one finding of a code."""
    [found] = [finding for finding in report.findings if finding.code == code]
    return found
