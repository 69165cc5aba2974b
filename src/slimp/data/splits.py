"""Splits of rows into parts, such as training and test, with no patient in two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimp.errors import CohortError


def assign_groups(
    labels: Sequence[Any] | NDArray[Any],
    groups: Sequence[Any] | NDArray[Any],
    parts: Mapping[str, float],
    *,
    seed: int,
) -> NDArray[Any]:
    """Part name per row: no group in two parts, sizes and label shares as close as groups allow.

    Groups are assigned in random order, those with the rarest labels first, each to the part that
    lacks its labels most (as scikit-learn's StratifiedGroupKFold, for parts of any size).

    Args:
        labels: (rows,) class of each row.
        groups: (rows,) group of each row, such as the patient id.
        parts: name -> fraction of the rows; the fractions add up to 1.
        seed: random seed.

    Returns:
        (rows,) the part's name, as an array of strings.

    Raises:
        CohortError: a fraction is not in (0, 1], they do not add up to 1, or there are fewer
            groups than parts.
    """
    names, fractions = list(parts), np.array(list(parts.values()), dtype=float)
    if (fractions <= 0).any() or not np.isclose(fractions.sum(), 1):
        raise CohortError(f"the fractions must be positive and add up to 1, got {dict(parts)}.")
    classes, label_codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    group_names, group_codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if len(group_names) < len(names):
        raise CohortError(
            f"cannot make {len(names)} parts from {len(group_names)} patient(s): "
            "a patient never spans two parts. Add patients or ask for fewer parts."
        )
    counts = np.zeros((len(group_names), len(classes)))  # (groups, classes)
    np.add.at(counts, (group_codes, label_codes), 1)
    share = counts.sum(axis=0)
    wanted = fractions[:, None] * share  # (parts, classes)
    order = np.random.default_rng(seed).permutation(len(group_names))
    # Rare labels first, while every part has room; large groups before small ones.
    rarity = (counts / share).max(axis=1)[order]
    order = order[np.argsort(-rarity, kind="stable")]
    have = np.zeros_like(wanted)
    part_of_group = np.empty(len(group_names), dtype=np.int64)
    for position, group in enumerate(order):
        lack = ((wanted - have) / share * counts[group]).sum(axis=1)
        empty = [k for k in range(len(names)) if have[k].sum() == 0]
        last_chance = len(empty) == len(order) - position  # every part gets at least one group
        part = empty[0] if last_chance else int(np.argmax(lack / fractions))
        part_of_group[group] = part
        have[part] += counts[group]
    return np.array(names)[part_of_group[group_codes]]


def require_disjoint(**parts: Iterable[str]) -> None:
    """Raises if two parts share a patient.

    Raises:
        CohortError: names the two parts, how many patients they share, and one of them.
    """
    sets = {name: set(ids) for name, ids in parts.items()}
    for first, second in combinations(parts, 2):
        if shared := sets[first] & sets[second]:
            raise CohortError(
                f"{len(shared)} patient(s) are in both '{first}' and '{second}', such as "
                f"'{min(shared)}'. Parts must be patient-disjoint."
            )
