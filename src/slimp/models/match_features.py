"""What a model that knows one schema makes of another: levels, features and their vocabularies.

Encodings only, no weights: those follow in `transfer.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import UserError

Status = Literal["kept", "extended", "grown", "new", "unused", "dropped"]
"""kept: as in the run; extended: with further categories or boxes; grown: wider, because a level
below it is new; new: fresh weights; unused: kept, but the cohort has nothing for it; dropped."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A feature of the cohort, and what it takes from the run."""

    feature: FittedFeature
    """As the adapted model reads it."""
    source: FittedFeature | None
    """Of the run, whose weights it takes; None: it starts fresh."""
    status: Status
    detail: str = ""
    boxes: tuple[int | None, ...] = ()
    """Of a checkbox group: the place of each column in the source; None for a new one."""


@dataclass(frozen=True, kw_only=True)
class LevelMerge:
    """One level of the adapted model, or one that it loses."""

    name: LevelName
    status: Status
    matches: tuple[Match, ...] = ()
    """In token order."""
    dropped: tuple[FittedFeature, ...] = ()
    """Features of the run that the cohort has not."""

    @property
    def encoding(self) -> Encoding:
        """What the adapted model reads at this level."""
        return Encoding(level=self.name, features=tuple(match.feature for match in self.matches))


def merge(
    run: Mapping[LevelName, Encoding],
    cohort: Mapping[LevelName, Encoding],
    rename: Mapping[str, str],
) -> tuple[LevelMerge, ...]:
    """The levels of the adapted model, and those that it loses, from fine to coarse.

    A level that the cohort lacks is kept where nothing of the cohort stands on it, so that
    retrieval can still lend its metadata; below a level of the cohort it would be in the way.

    Args:
        run: encodings of the model that is adapted.
        cohort: encodings fitted on the training patients of the cohort.
        rename: feature of the cohort -> the run's name for it, where that is another.

    Raises:
        UserError: `rename` names a feature that is not there, or one of the run twice.
    """
    _require_known(run, cohort, rename)
    merged = []
    for i, name in enumerate(LEVELS):
        if name in cohort:
            merged.append(_merge_level(run.get(name), cohort[name], rename))
        elif name in run:
            in_the_way = any(level in cohort for level in LEVELS[i + 1 :])
            kept = () if in_the_way else run[name].features
            matches = (Match(feature=f, source=f, status="unused") for f in kept)
            status: Status = "dropped" if in_the_way else "unused"
            merged.append(LevelMerge(name=name, status=status, matches=tuple(matches)))
    return tuple(merged)


def _merge_level(run: Encoding | None, cohort: Encoding, rename: Mapping[str, str]) -> LevelMerge:
    known = {} if run is None else {feature.name: feature for feature in run.features}
    matches = tuple(
        _match(f, known.get(rename.get(f.name, f.name)), rename) for f in cohort.features
    )
    taken = {match.source.name for match in matches if match.source is not None}
    return LevelMerge(
        name=cohort.level,
        status="new" if run is None else "kept",
        matches=matches,
        dropped=tuple(feature for name, feature in known.items() if name not in taken),
    )


def _match(feature: FittedFeature, known: FittedFeature | None, rename: Mapping[str, str]) -> Match:
    """What a feature of the cohort takes from the run's feature of that name, if there is one."""
    if known is None:
        return Match(feature=feature, source=None, status="new")
    reason = _differs(feature, known)
    if reason:
        return Match(feature=feature, source=None, status="new", detail=reason)
    merge_kind = {
        "continuous": _continuous,
        "categorical": _categorical,
        "checkbox": _checkbox,
    }[feature.kind]
    match = merge_kind(feature, known, rename)
    if match.source is not None and known.name != feature.name:
        text = ", ".join(filter(None, [f"was '{known.name}'", match.detail]))
        return replace(match, detail=text)
    return match


def _differs(feature: FittedFeature, known: FittedFeature) -> str:
    """Why two features of one name are not the same; empty if they are."""
    if feature.kind != known.kind:
        return f"was {known.kind}, is {feature.kind}"
    if feature.unit and known.unit and feature.unit != known.unit:
        return f"was in {known.unit}, is in {feature.unit}"
    return ""


def _continuous(feature: FittedFeature, known: FittedFeature, rename: Mapping[str, str]) -> Match:
    """The run's mean and standard deviation stay: its weights expect values scaled so."""
    unit = known.unit or feature.unit
    merged = replace(feature, mean=known.mean, std=known.std, unit=unit, also=_also(feature, known))
    return Match(feature=merged, source=known, status="kept")


def _categorical(feature: FittedFeature, known: FittedFeature, rename: Mapping[str, str]) -> Match:
    """The run's categories come first, then those that it does not know, however spelled."""
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
        return Match(feature=feature, source=None, status="new", detail="no category in common")
    merged = replace(
        feature,
        categories=(*known.categories, *new),
        spellings=spellings,
        also=_also(feature, known),
    )
    detail = f"{shared} categories shared" + (f", {len(new)} added" if new else "")
    status: Status = "extended" if new else "kept"
    return Match(feature=merged, source=known, status=status, detail=detail)


def _checkbox(feature: FittedFeature, known: FittedFeature, rename: Mapping[str, str]) -> Match:
    """Boxes that the cohort lacks go; one that is never ticked adds nothing to the token."""
    places = _boxes(feature, known, rename)
    shared = [place for place in places if place is not None]
    if not shared:
        return Match(feature=feature, source=None, status="new", detail="no box in common")
    new, lost = len(places) - len(shared), len(known.columns) - len(shared)
    if new:
        merged = feature  # no earlier cohort has all its columns
    else:
        ordered = [tuple(columns[k] for k in shared) for columns in (known.columns, *known.also)]
        merged = replace(feature, also=_others(feature, ordered))
    parts = [f"{len(shared)} boxes shared" if new or lost else ""]
    parts += [f"{new} added" if new else "", f"{lost} dropped" if lost else ""]
    return Match(
        feature=merged,
        source=known,
        status="extended" if new else "kept",
        detail=", ".join(filter(None, parts)),
        boxes=places,
    )


def _boxes(
    feature: FittedFeature, known: FittedFeature, rename: Mapping[str, str]
) -> tuple[int | None, ...]:
    """The place of each column in the run's group; a lone box is the other lone one."""
    if len(feature.columns) == len(known.columns) == 1:
        return (0,)
    places = {column.casefold(): k for k, column in enumerate(known.columns)}
    places |= {column: k for k, column in enumerate(known.columns)}
    names = [rename.get(column, column) for column in feature.columns]
    return tuple(places.get(name, places.get(name.casefold())) for name in names)


def _also(feature: FittedFeature, known: FittedFeature) -> tuple[tuple[str, ...], ...]:
    return _others(feature, [known.columns, *known.also])


def _others(
    feature: FittedFeature, columns: Sequence[tuple[str, ...]]
) -> tuple[tuple[str, ...], ...]:
    """Columns by which earlier cohorts know the feature, but for its own."""
    return tuple(dict.fromkeys(known for known in columns if known != feature.columns))


def _require_known(
    run: Mapping[LevelName, Encoding],
    cohort: Mapping[LevelName, Encoding],
    rename: Mapping[str, str],
) -> None:
    """Raises unless `rename` speaks of what is there, each of the run once.

    Raises:
        UserError: with the names that there are.
    """
    ours = _names(cohort)
    theirs = _names(run)
    for name, other in rename.items():
        for wanted, there, whose in ((name, ours, "the cohort"), (other, theirs, "the run")):
            if wanted not in there:
                listed = ", ".join(sorted(there)) or "none"
                raise UserError(
                    f"rename: {whose} has no feature '{wanted}'; it has: {listed}. Write it as "
                    "NAME_IN_COHORT=NAME_IN_RUN."
                )
        if other in ours and other not in rename and other != name:
            raise UserError(
                f"rename: the cohort has a feature '{other}' of its own, so '{name}' cannot be it "
                f"too. Rename one of them, or say what '{other}' is."
            )
        if not theirs[other] & ours[name]:
            raise UserError(
                f"rename: '{name}' belongs to the {' and '.join(sorted(ours[name]))} level of the "
                f"cohort, '{other}' to the {' and '.join(sorted(theirs[other]))} level of the "
                "run. Weights of one level are of no use at another; leave the pair out."
            )


def _names(encodings: Mapping[LevelName, Encoding]) -> dict[str, set[LevelName]]:
    """Features and the boxes of checkbox groups, each with the levels that have it."""
    found: dict[str, set[LevelName]] = {}
    for level, encoding in encodings.items():
        for feature in encoding.features:
            boxes = feature.columns if feature.kind == "checkbox" else ()
            for name in (feature.name, *boxes):
                found.setdefault(name, set()).add(level)
    return found
