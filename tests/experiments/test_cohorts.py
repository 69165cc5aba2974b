"""What arms learn from in place of the cohort as it is, and the cohort with few cancers."""

from __future__ import annotations

import numpy as np
from tiny import tiny_cohort, with_tables

from slimp.data.schema import LEVELS
from slimp.experiments.cohorts import (
    drown,
    lesions_as_patients,
    shuffle_metadata,
    shuffle_patients,
    without_image_metadata,
)
from slimp.sources.synthetic.people import CANCERS


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
    marked = with_tables(cohort, **tables)
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


def test_patients_are_shuffled_among_lesions():
    cohort = tiny_cohort(patients=12, lesions=3)
    other = shuffle_patients(cohort, seed=1)
    assert other.patients.equals(cohort.patients)
    before, after = cohort.lesions["patient_id"], other.lesions["patient_id"]
    assert sorted(before) == sorted(after)
    assert (before != after).mean() > 0.5
    assert other.lesions.drop(columns="patient_id").equals(
        cohort.lesions.drop(columns="patient_id")
    )
    assert (other.images["patient_id"] == after.to_numpy()[other.lesion_of_image]).all()


def test_a_lesion_becomes_a_patient_with_the_metadata_of_its_own():
    cohort = tiny_cohort(patients=9, lesions=3, images_per_lesion=2)
    other = lesions_as_patients(cohort, seed=0)
    assert len(other.patients) == len(other.lesions)
    assert (other.images["patient_id"] == "lesion " + other.images["lesion_id"]).all()
    columns = list(cohort.schema.level("patient").columns)
    own = cohort.patients.set_index("patient_id").loc[cohort.lesions["patient_id"], columns]
    assert other.patients[columns].reset_index(drop=True).equals(own.reset_index(drop=True))


def test_two_levels_know_nothing_of_image_metadata():
    cohort = tiny_cohort(patients=6, images_per_lesion=2, image_metadata=True)
    other = without_image_metadata(cohort, 0)
    assert cohort.schema.level("image").features
    assert not other.schema.level("image").features
    assert not set(cohort.schema.level("image").columns) & set(other.images)
    assert other.lesions.equals(cohort.lesions)
    assert other.patients.equals(cohort.patients)


def test_patients_of_the_drowned_have_one_cancer_or_none():
    cohort = tiny_cohort(patients=40, lesions=6)
    found, ill = drown(cohort, seed=0), cohort.images["label"].isin(CANCERS)
    counts = found.images["label"].isin(CANCERS).groupby(found.images["patient_id"]).sum()
    assert set(counts) == {0, 1}
    assert 0.25 < counts.mean() < 0.75
    kept = found.images["image_id"]
    assert set(cohort.images["image_id"][~ill]) <= set(kept)
