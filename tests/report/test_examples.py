"""Example lesions: drawn fairly, and thumbnails that carry nothing but pixels."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

from PIL import Image

from slimp.report.examples import PER_CLASS, SIDE, draw_examples, thumbnail


def test_examples_are_of_the_first_seed_and_of_different_patients(cohort, found):
    drawn = draw_examples(found.main, cohort, seed=0)
    table = found.main.predictions.query("seed == 0").set_index("image_id")
    assert list(drawn) == list(cohort.classes)
    ids = [e.image_id for groups in drawn.values() for group in groups.values() for e in group]
    assert table.loc[ids, "patient_id"].is_unique
    for label, groups in drawn.items():
        for heading, examples in groups.items():
            assert len(examples) <= PER_CLASS
            for e in examples:
                row = table.loc[e.image_id]
                assert row["label"] == label
                assert row["predicted"] == e.predicted
                assert (e.predicted == label) == (heading == "Found")
                assert e.probability == row[f"p_{e.predicted}"]


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows(cohort, found):
    first = draw_examples(found.main, cohort, seed=0)
    turned = replace(found.main, predictions=found.main.predictions.iloc[::-1])
    assert draw_examples(turned, cohort, seed=0) == first
    assert draw_examples(found.main, cohort, seed=1) != first


def test_a_thumbnail_is_a_small_square_without_metadata():
    for mode, size, kind in (
        *(("RGB", (200, 90), "PNG"), ("L", (30, 300), "PNG")),
        *(("RGBA", (50, 50), "PNG"), ("P", (50, 50), "GIF")),
    ):
        file = io.BytesIO()
        Image.new(mode, size).save(file, kind)
        uri = thumbnail(file.getvalue())
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            assert (image.size, image.mode, image.format) == ((SIDE, SIDE), "RGB", "JPEG")
            assert not image.getexif()
