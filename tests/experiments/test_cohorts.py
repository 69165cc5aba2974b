"""The control with metadata of other patients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny import tiny_cohort

from slimp.data.schema import LEVELS
from slimp.experiments.cohorts import shuffle_metadata


def test_each_patient_gets_all_metadata_of_one_other():
    cohort = tiny_cohort(patients=9, lesions=3, images_per_lesion=2, image_metadata=True)
    keep = np.ones(len(cohort), dtype=bool)
    keep[:3] = False  # some have fewer images than others
    cohort = cohort.select(keep)
    count = len(cohort.patients)
    number = dict(zip(cohort.patients["patient_id"], np.arange(float(count)), strict=True))
    tables, columns = {}, {}
    for name in LEVELS:  # a column that says whose row it is
        columns[name] = cohort.schema.level(name).columns[0]
        table = cohort.tables.of_level(name)
        marks = {columns[name]: table["patient_id"].map(number)}
        tables[f"{name}s"] = table.assign(**marks)
    marked = replace(cohort, tables=replace(cohort.tables, **tables))
    other = shuffle_metadata(marked, seed=1)
    found = {}
    for name in LEVELS:
        before, after = marked.tables.of_level(name), other.tables.of_level(name)
        kept = [c for c in before if c not in cohort.schema.level(name).columns]
        assert after[kept].equals(before[kept])  # ids, labels
        assert after.dtypes.equals(before.dtypes)
        whose = after.groupby("patient_id")[columns[name]].unique()
        assert whose.map(len).eq(1).all()
        found[name] = {patient: rows[0] for patient, rows in whose.items()}
    assert found["image"] == found["lesion"] == found["patient"]
    assert sorted(found["patient"].values()) == list(range(count))
    assert not [p for p, q in found["patient"].items() if q == number[p]]
    assert not shuffle_metadata(marked, seed=2).patients.equals(other.patients)
