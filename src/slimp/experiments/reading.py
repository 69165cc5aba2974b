"""The table of an experiment in a sentence per feature set."""

from __future__ import annotations

from collections.abc import Sequence

from slimp.experiments.rows import Row


def reading(rows: Sequence[Row]) -> str:
    """What is told apart from its control, in the first classes of a table.

    Differences are means over the settings in which they are told.
    """
    compared = [row for row in rows if row.labels == rows[0].labels and row.against is not None]
    kinds = dict.fromkeys((row.features, row.control, row.control_features) for row in compared)
    return " ".join(
        _sentence([r for r in compared if (r.features, r.control, r.control_features) == kind])
        for kind in kinds
    )


def _sentence(rows: Sequence[Row]) -> str:
    """Of arms in one feature set beside one control."""
    told: dict[str, list[str]] = {"ahead": [], "behind": [], "cannot be told": []}
    for arm in dict.fromkeys(row.arm for row in rows):
        own = [row for row in rows if row.arm == arm]
        for word, names in told.items():
            some = [r.against.difference for r in own if r.against and r.reading == word]
            if not some or (word == "cannot be told" and len(some) < len(own)):
                continue
            where = f" in {len(some)} of {len(own)} settings" if len(own) > 1 else ""
            mean = f" ({sum(some) / len(some):+.3f}{where})"
            names.append(arm + ("" if word == "cannot be told" else mean))
    features, control, theirs = rows[0].features, rows[0].control, rows[0].control_features
    beside = control if theirs in (features, control) else f"{control} ({theirs})"
    words = {"ahead": "ahead of", "behind": "behind", "cannot be told": "not told from"}
    parts = [f"{', '.join(arms)} {words[key]} {beside}" for key, arms in told.items() if arms]
    return f"{features[:1].upper()}{features[1:]} features: {'; '.join(parts)}."
