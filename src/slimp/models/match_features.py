"""The schema of a run against that of another cohort: levels, features and their vocabularies.

Encodings only; `adapt_model.py` moves the weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError

Encodings = Mapping[LevelName, Encoding]
Status = Literal["kept", "extended", "grown", "new", "unused", "dropped"]
"""kept: as in the run; extended: with further categories or boxes; grown: wider, because a level
below it is new; new: fresh weights; unused: kept, but the cohort has nothing for it; dropped."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A feature of the cohort, and what it takes from the run."""

    feature: FittedFeature
    """As the adapted model reads it."""
    source: FittedFeature | None = None
    """The run's feature whose weights it takes; None: its weights are new."""
    status: Status = "new"
    detail: str = ""
    boxes: tuple[int | None, ...] = ()
    """Of a checkbox group: the position of each column in the source; None for a new one."""


@dataclass(frozen=True, kw_only=True)
class LevelMatch:
    """One level of the adapted model, or one that it loses."""

    name: LevelName
    status: Status
    matches: tuple[Match, ...] = ()
    """In token order."""
    dropped: tuple[FittedFeature, ...] = ()
    """Features of the run that the cohort lacks."""

    @property
    def encoding(self) -> Encoding:
        """What the adapted model reads at this level."""
        return Encoding(level=self.name, features=tuple(match.feature for match in self.matches))


def match_levels(
    run: Encodings, cohort: Encodings, rename: Mapping[str, str]
) -> tuple[LevelMatch, ...]:
    """The levels of the adapted model, and those that it loses, from fine to coarse.

    A level that the cohort lacks is kept if it is above all levels of the cohort, so that retrieval
    can still impute its metadata; a level below one of the cohort's is dropped. Arguments: as
    `transfer`.

    Raises:
        UserError: `rename` names a feature that is not there, or two of different levels.
    """
    _require_known(run, cohort, rename)
    found = []
    for i, name in enumerate(LEVELS):
        if name in cohort:
            found.append(_match_level(run.get(name), cohort[name], rename))
        elif name in run and any(level in cohort for level in LEVELS[i + 1 :]):
            found.append(LevelMatch(name=name, status="dropped"))
        elif name in run:
            found.append(LevelMatch(name=name, status="unused", matches=as_is(run[name])))
    return tuple(found)


def as_is(encoding: Encoding) -> tuple[Match, ...]:
    """The features of a level for which a cohort has nothing, each from itself."""
    return tuple(
        Match(feature=f, source=f, status="unused", boxes=tuple(range(len(f.columns))))
        for f in encoding.features
    )


def _match_level(run: Encoding | None, cohort: Encoding, rename: Mapping[str, str]) -> LevelMatch:
    known = {feature.name: feature for feature in run.features} if run else {}
    matches = [_match(f, known.get(rename.get(f.name, f.name)), rename) for f in cohort.features]
    taken = {match.source.name for match in matches if match.source}
    return LevelMatch(
        name=cohort.level,
        status="kept" if run else "new",
        matches=tuple(matches),
        dropped=tuple(feature for name, feature in known.items() if name not in taken),
    )


def _match(feature: FittedFeature, known: FittedFeature | None, rename: Mapping[str, str]) -> Match:
    """What a feature of the cohort takes from the run's feature of that name, if there is one."""
    if known is None:
        return Match(feature=feature)
    if feature.kind != known.kind:
        return Match(feature=feature, detail=f"was {known.kind}, is {feature.kind}")
    if feature.unit and known.unit and feature.unit != known.unit:
        return Match(feature=feature, detail=f"was in {known.unit}, is in {feature.unit}")
    if feature.kind == "checkbox":
        match = _checkbox(feature, known, rename)
    elif feature.kind == "categorical":
        match = _categorical(feature, known)
    else:  # the run's mean and standard deviation stay: its weights expect values scaled by them
        # But for a column without spread there, empty or of one value, which says no scale.
        scale = known if known.std != 1.0 else feature
        merged = replace(known, name=feature.name, columns=feature.columns)
        merged = replace(merged, mean=scale.mean, std=scale.std, unit=known.unit or feature.unit)
        merged = replace(merged, bounds=_hull(known.bounds, feature.bounds))
        merged = replace(merged, usual=_hull(known.usual or known.bounds, feature.usual))
        match = Match(feature=merged, source=known, status="kept")
    if match.source is None:
        return match
    if feature.kind != "checkbox":
        match = replace(match, feature=_also(match.feature, known.columns, *known.also))
    if known.name != feature.name:
        match = replace(match, detail=_listed(f"was '{known.name}'", match.detail))
    return match


def _categorical(feature: FittedFeature, known: FittedFeature) -> Match:
    """The run's categories come first, then new ones; upper and lower case are the same."""
    folded = {category.casefold(): category for category in reversed(known.categories)}
    spellings, new = dict(known.spellings), []
    for cell in feature.categories:
        if cell in known.categories or cell in spellings:
            continue
        if cell.casefold() in folded:
            spellings[cell] = folded[cell.casefold()]
        else:
            new.append(cell)
    shared = len(feature.categories) - len(new)
    if not shared:
        return Match(feature=feature, detail="no category in common")
    return Match(
        feature=replace(feature, categories=(*known.categories, *new), spellings=spellings),
        source=known,
        status="extended" if new else "kept",
        detail=_listed(f"{shared} categories shared", f"{len(new)} added" if new else ""),
    )


def _checkbox(feature: FittedFeature, known: FittedFeature, rename: Mapping[str, str]) -> Match:
    """Boxes that the cohort lacks are dropped: one that is never ticked adds nothing."""
    positions = {column.casefold(): k for k, column in enumerate(known.columns)}
    positions |= {column: k for k, column in enumerate(known.columns)}
    names = [rename.get(column, column) for column in feature.columns]
    boxes = tuple(positions.get(name, positions.get(name.casefold())) for name in names)
    if len(feature.columns) == len(known.columns) == 1:
        boxes = (0,)  # two groups of one box are the same box
    shared = [position for position in boxes if position is not None]
    if not shared:
        return Match(feature=feature, detail="no box in common")
    new, lost = len(boxes) - len(shared), len(known.columns) - len(shared)
    if not new:  # else no earlier cohort has all its columns
        earlier = [tuple(names[k] for k in shared) for names in (known.columns, *known.also)]
        feature = _also(feature, *earlier)
    return Match(
        feature=feature,
        source=known,
        status="extended" if new else "kept",
        detail=_listed(
            f"{len(shared)} boxes shared" if new or lost else "",
            f"{new} added" if new else "",
            f"{lost} dropped" if lost else "",
        ),
        boxes=boxes,
    )


def _also(feature: FittedFeature, *earlier: tuple[str, ...]) -> FittedFeature:
    """The feature, which also reads the columns that hold it in earlier cohorts."""
    others = dict.fromkeys(columns for columns in earlier if columns != feature.columns)
    return replace(feature, also=tuple(others))


def _hull(*ranges: tuple[float, float] | None) -> tuple[float, float] | None:
    """The least range that holds all those that are known."""
    ends = [end for known in ranges for end in known or ()]
    return (min(ends), max(ends)) if ends else None


def _listed(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _require_known(run: Encodings, cohort: Encodings, rename: Mapping[str, str]) -> None:
    ours, theirs = _levels_by_name(cohort), _levels_by_name(run)
    for name, other in rename.items():
        for wanted, known, owner in ((name, ours, "cohort"), (other, theirs, "run")):
            if wanted not in known:
                raise UserError(
                    f"rename: the {owner} has no feature '{wanted}'; it has: "
                    f"{', '.join(sorted(known)) or 'none'}. Write NAME_IN_COHORT=NAME_IN_RUN."
                )
        if other in ours and other not in rename and other != name:
            raise UserError(
                f"rename: the cohort has both '{name}' and '{other}', so '{name}' cannot become "
                f"'{other}'. Leave this pair out, or rename '{other}' too."
            )
        if not theirs[other] & ours[name]:
            levels = [" and ".join(sorted(found)) for found in (ours[name], theirs[other])]
            sections = " or ".join(f"[{level}_metadata]" for level in sorted(theirs[other]))
            raise UserError(
                f"rename: '{name}' is a feature of the cohort's {levels[0]} level, '{other}' of "
                f"the run's {levels[1]} level; weights cannot change their level. Leave this pair "
                f"out; or move '{name}' to {sections} in the cohort's schema file and import again."
            )


def _levels_by_name(encodings: Encodings) -> dict[str, set[LevelName]]:
    """Names of features and of boxes, each with the levels that have it."""
    found: dict[str, set[LevelName]] = defaultdict(set)
    for level, encoding in encodings.items():
        for feature in encoding.features:
            boxes = feature.columns if feature.kind == "checkbox" else ()
            for name in (feature.name, *boxes):
                found[name].add(level)
    return found
