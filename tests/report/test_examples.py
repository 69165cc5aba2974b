"""Example lesions: drawn fairly, and thumbnails that carry nothing but pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from slimp.report.examples import PER_CLASS, SIDE, draw_examples, thumbnail
from slimp.report.inputs import ProbeFacts


def picture(mode: str = "RGB", size: tuple[int, int] = (200, 90), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def make_probe(order: int = 0) -> ProbeFacts:
    rng = np.random.default_rng(0)
    rows = []
    for seed in (0, 1):
        for i in range(80):
            label, predicted = rng.choice(["a", "b"], 2)
            patient = f"p{i // 4}"
            rows.append(
                {"image_id": f"i{i}", "patient_id": patient, "seed": seed, "label": label}
                | {"predicted": predicted, "p_a": 0.25, "p_b": 0.75}
            )
    table = pd.DataFrame(rows).sample(frac=1, random_state=order)
    return ProbeFacts(name="x", metrics={}, classes=("a", "b", "never"), predictions=table)


def test_right_and_wrong_are_what_they_say():
    rows = draw_examples(make_probe(), lambda _: picture(), seed=0)
    assert [row.label for row in rows] == ["a", "b"]  # no image of 'never' was tested
    for row in rows:
        assert 0 < len(row.right) <= PER_CLASS
        assert 0 < len(row.wrong) <= PER_CLASS
        assert all(e.true == e.predicted == row.label for e in row.right)
        assert all(e.true == row.label != e.predicted for e in row.wrong)
        assert all(e.probability == {"a": 0.25, "b": 0.75}[e.predicted] for e in row.right)


def test_no_patient_is_shown_twice_and_the_first_seed_counts():
    probe = make_probe()
    rows = draw_examples(probe, lambda _: picture(), seed=0)
    examples = [e for row in rows for e in (*row.right, *row.wrong)]
    first = probe.predictions[probe.predictions["seed"] == 0].set_index("image_id")
    patients = [first.loc[e.image_id, "patient_id"] for e in examples]
    assert len(set(patients)) == len(patients)
    assert all(first.loc[e.image_id, "predicted"] == e.predicted for e in examples)


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_rows():
    def drawn(order: int, seed: int) -> list[object]:
        return draw_examples(make_probe(order), lambda _: picture(), seed=seed)

    assert drawn(0, seed=0) == drawn(5, seed=0)
    assert drawn(0, seed=0) != drawn(0, seed=1)


def test_a_thumbnail_is_a_small_square_without_metadata():
    for encoded in (picture(), picture("L", (30, 300)), picture("RGBA"), picture("P", kind="GIF")):
        uri = thumbnail(encoded)
        with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
            assert image.size == (SIDE, SIDE)
            assert image.mode == "RGB"
            assert image.format == "JPEG"
            assert not image.getexif()
