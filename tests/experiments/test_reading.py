"""The sentence that a table begins with."""

from __future__ import annotations

from slimp.evaluation.paired_bootstrap import Difference
from slimp.experiments.rows import Row, reading


def row(arm: str, difference: float, p: float, **changes: str) -> Row:
    kinds = {"features": "image", "labels": "native", "setting": "", **changes}
    control = {"control": "flat", "control_features": kinds["features"]} | (
        {"control_features": kinds.pop("beside")} if "beside" in kinds else {}
    )
    ci95 = (difference - 0.1, difference + 0.1)
    found = Difference(
        a=0.5 + difference, b=0.5, difference=difference, ci95=ci95, p_value=p, effect_size=0.0
    )
    return Row(arm=arm, done=1, planned=1, estimate=None, against=found, holm=p, **control, **kinds)


def test_what_is_told_stands_before_what_is_not():
    rows = [row("untold", 0.2, 0.3), row("worse", -0.3, 0.01), row("better", 0.25, 0.01)]
    assert reading(rows) == (
        "Image features: better (+0.250) ahead of flat; worse (-0.300) behind flat; "
        "untold not told from flat."
    )


def test_settings_are_counted():
    rows = [
        row("better", 0.2, 0.01, setting="10 %"),
        row("better", 0.4, 0.01, setting="30 %"),
        row("better", 0.9, 0.30, setting="100 %"),
    ]
    assert reading(rows) == "Image features: better (+0.300 in 2 of 3 settings) ahead of flat."


def test_other_classes_are_left_to_the_table():
    rows = [row("better", 0.2, 0.01), row("worse", -0.2, 0.01, labels="malignant")]
    assert reading(rows) == "Image features: better (+0.200) ahead of flat."


def test_other_features_of_the_control_are_named():
    rows = [row("images alone", -0.2, 0.01, beside="full")]
    assert reading(rows) == "Image features: images alone (-0.200) behind flat (full)."
    assert reading([]) == ""
