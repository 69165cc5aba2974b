"""A clean cohort with something to spoil in it; fixtures return functions."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from PIL import Image

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


@pytest.fixture(scope="session")
def encode():
    """Pixels -> an encoded image."""

    def encode(pixels, kind="png", **options):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def picture(encode):
    """Number -> an encoded image of noise, always the same."""

    @lru_cache(None)
    def picture(seed):
        rng = np.random.default_rng(seed)
        return encode(rng.integers(0, 255, (40, 36, 3), dtype=np.uint8))

    return picture


@pytest.fixture(scope="session")
def clean_tables():
    """Two lesions per patient, an image each; clinical columns depend on the label, by chance."""

    def clean_tables(seed=0, patients=60):
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

    return clean_tables


@pytest.fixture(scope="session")
def with_column(clean_tables):
    """The clean tables, a column of one of them replaced."""

    def with_column(table, column, values):
        tables = clean_tables()
        tables[table] = tables[table].assign(**{column: values})
        return tables

    return with_column


@pytest.fixture
def without_patients(clean_tables):
    """The clean tables, each lesion as a patient of its own."""
    tables = clean_tables()
    own = {"patient_id": tables["lesions"]["lesion_id"].to_numpy()}
    people = tables["patients"].iloc[np.arange(120) // 2]
    return {
        "images": tables["images"].assign(**own),
        "lesions": tables["lesions"].assign(**own),
        "patients": people.assign(**own),
    }


@pytest.fixture(scope="session")
def cohort(clean_tables, picture):
    """Tables -> a cohort, `encoded` in place of noise, with a report of its import."""

    def cohort(tables=None, *, encoded=None, schema=None, report=None):
        tables = tables or clean_tables()
        own = encoded or {}
        ids = tables["images"]["image_id"]
        return Cohort.from_tables(
            **tables,
            schema=Schema.from_dict({**SCHEMA, **(schema or {})}),
            store=ImagesInMemory([own.get(i, picture(k)) for k, i in enumerate(ids)]),
            info=CohortInfo(name="ours", import_report=report or {}),
        )

    return cohort


@pytest.fixture(scope="session")
def codes():
    """The codes in a report, of some severities or of all."""

    def codes(report, *severities):
        return {f.code for f in report.findings if not severities or f.severity in severities}

    return codes


@pytest.fixture(scope="session")
def only():
    """The one finding of a code."""

    def only(report, code):
        [found] = [finding for finding in report.findings if finding.code == code]
        return found

    return only
