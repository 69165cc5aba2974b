"""The results in `benchmarks/results/` as tables: its README.md, and those of `BLOCKS`.

python benchmarks/summary.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FRONT = RESULTS.parents[1] / "README.md"
EVALUATION = RESULTS.parents[1] / "docs" / "evaluation.md"
PART = """PAD-UFES-20 is here 1,039 of its 2,298 images (757 patients), shorter side at most 160 px,
with other class shares, so none of this can be compared with published figures."""
"""What real data the results are of; docs/results.md says so too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the same; it takes no time")
    parser.parse_args()
    parts = ["# Results\n\nWritten by `benchmarks/summary.py` from the JSON files beside it."]
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        parts.append("\n".join([*heading(path, content), "", *draw(content["result"])]))
    text = "\n\n".join(parts) + "\n"
    (RESULTS / "README.md").write_text(text, encoding="utf-8")
    write_blocks()
    print(text)
    print(json.dumps({"files": len(parts) - 1}))


def write_blocks() -> None:
    """Puts tables of results between their marks in the pages of `BLOCKS`."""
    for name, (page, _) in BLOCKS.items():
        before, rest = page.read_text(encoding="utf-8").split(f"<!-- {name} -->")
        after = rest.split(f"<!-- /{name} -->")[1]
        page.write_text(before + block(name) + after, encoding="utf-8")


def block(name: str) -> str:
    """The lines of a page that are written, marks included."""
    return "\n".join([f"<!-- {name} -->", "", *BLOCKS[name][1](), "", f"<!-- /{name} -->"])


def front_page() -> Iterator[str]:
    """What pre-training adds on PAD-UFES-20, from ImageNet weights and from random ones."""
    recipe, plain, scratch, against, drawn = (
        kept(name)["rows"]
        for name in (
            *("recipe_pad_ufes_20_laptop", "recipe_pad_ufes_20_laptop_against_plain"),
            *("experiments/low-shot_pad-ufes-20", "experiments/nested-vs-flat_pad-ufes-20"),
            "experiments/nested-vs-flat_no-ducklings",
        )
    )

    def pick(rows: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
        return next(row for row in rows if wanted.items() <= row.items())

    def minus(found: dict[str, Any]) -> str:
        low, high = found["ci95"]
        mean = found.get("mean", found.get("difference"))
        return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"

    yield "PAD-UFES-20, six classes, balanced accuracy of a linear probe, five folds by patient"
    yield "(predictions pooled; from random weights, the mean over folds); in brackets 95 %"
    yield f"intervals, over patients, of the paired difference.\n{PART}\n"
    yield "| image encoder starts from | pre-training | image | image and metadata | minus none |"
    yield "| --- | --- | --- | --- | --- |"
    metadata = pick(recipe, arm="imagenet", features="table")["balanced_accuracy"]
    yield f"| no images | none: metadata alone | | {metadata:.3f} | |"
    arms = {
        "imagenet": "none",
        "plain": "image against all metadata, no levels (`benchmarks/plain_contrast.py`)",
        "compact_cells": "`slimp pretrain --preset laptop`",
    }
    for arm, name in arms.items():
        image, full = (pick(recipe, arm=arm, features=kind) for kind in ("image", "full"))
        gain = "" if name == "none" else minus(full["balanced_accuracy_minus_imagenet"])
        scores = " | ".join(f"{row['balanced_accuracy']:.3f}" for row in (image, full))
        yield f"| ImageNet | {name} | {scores} | {gain} |"
    for arm, name in {"untrained": "none", "flat": "flat", "nested": "nested"}.items():
        some = {"arm": arm, "setting": "fraction 1", "labels": "native"}
        image, full = (pick(scratch, features=kind, **some) for kind in ("image", "full"))
        gain = minus(full["minus"]["untrained"]) if full["minus"] else ""
        yield f"| random | {name} | {image['mean']:.3f} | {full['mean']:.3f} | {gain} |"
    repeated = len(pick(recipe, arm="compact_cells", features="full")["seeds"])
    larger = pick(kept("recipe_pad_ufes_20_160")["rows"], arm="cells_160", features="image")
    gain = minus(larger["balanced_accuracy_minus_imagenet_160"])
    few = kept("downstream_low_shot")["low_shot"]
    shots, both = (few[f"{name}minus_imagenet"]["balanced_accuracy"] for name in ("", "full_"))
    yield f"\nThe preset: mean of {repeated} trainings a fold. With a tenth of the patients"
    yield f"labelled it has {shots['ours']:.3f} by images, {minus(shots)} over ImageNet, and"
    yield f"with metadata {both['ours']:.3f}, {minus(both)} (one training a fold)."
    yield "With `--image-size 160`, 1.6 times the pixels, and all labels it has"
    yield f"{larger['balanced_accuracy']:.3f} by images, {gain} over ImageNet at that size."
    levels = pick(plain, arm="compact_cells", features="full")["balanced_accuracy_minus_plain"]
    nested = pick(against, arm="nested", features="full", labels="native")["minus"]["flat"]
    yield "\nWhat the levels add, image and metadata (0 in an interval: no difference is shown):"
    yield f"from ImageNet {minus(levels)} (one training a fold; the probe weighs the linear"
    yield "heads of the preset, the script has none),"
    yield f"from random weights (nested over flat) {minus(nested)}."
    yield "Few patients there have several lesions. Of drawn patients with ten, over flat:"
    arms = {
        "nested": "nested",
        "lesion only": "the lesion level alone",
        "views only": "two views of each image, without metadata (SimCLR),",
    }
    for arm, name in arms.items():
        image, full = (
            pick(drawn, arm=arm, features=kind, labels="native")["minus"]["flat"]
            for kind in ("image", "full")
        )
        end = "." if arm == "views only" else ";"
        yield f"{name} {minus(image)} by images, {minus(full)} by images and metadata{end}"


def missing_cells() -> Iterator[str]:
    """Probes with and without blanked copies, by the fraction of cells that are missing."""
    found = kept("downstream_missing")["missing"]
    alone = found["blanked_copies_0"]["0.0"]["image_alone"]
    yield "Runs of the preset `laptop` on 1,039 of the 2,298 images of PAD-UFES-20 (five grouped"
    yield f"folds, `python benchmarks/downstream.py --parts missing`; image alone {alone:.3f}):\n"
    rates = list(found["blanked_copies_0"])
    yield f"| cells missing | {' | '.join(f'{float(rate):.0%}' for rate in rates)} |"
    yield "| --- " * (len(rates) + 1) + "|"
    arms = {"blanked_copies_1": "`--blanked-copies 1`", "blanked_copies_0": "without (default)"}
    for arm, name in arms.items():
        scores = (found[arm][rate]["probe"] for rate in rates)
        yield f"| {name} | {' | '.join(f'{score:.3f}' for score in scores)} |"


def probe_blocks() -> Iterator[str]:
    """The probe beside one penalty for all columns."""
    arms = kept("probe_blocks")["arms"]
    yield "| image and table by | balanced accuracy | macro AUROC | ECE |"
    yield "| --- | --- | --- | --- |"
    for arm, name in {
        "one C, class weights": "one C for all columns, class weights",
        "one C, 64 components, class weights": "one C, 64 whitened components, class weights",
        "one C, 64 components": "one C, 64 whitened components, no class weights",
        "image, table": "the probe",
        "table": "the probe, of the table alone",
    }.items():
        scores = (arms[arm][metric] for metric in ("balanced_accuracy", "auroc_macro_ovr", "ece"))
        yield f"| {name} | {' | '.join(f'{score:.3f}' for score in scores)} |"


BLOCKS: dict[str, tuple[Path, Callable[[], Iterator[str]]]] = {
    "results": (FRONT, front_page),
    "missing-cells": (EVALUATION, missing_cells),
    "probe-blocks": (EVALUATION, probe_blocks),
}
"""Name of the marks -> the page that they stand in, and what stands between them."""


def kept(name: str) -> dict[str, Any]:
    """The result in a file of the folder."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["result"]
    return found


def heading(path: Path, content: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {value}" for name, value in content["versions"].items())
    return [
        f"## {path.stem}",
        "",
        f"`{content['command']}`  ",
        f"{content['date']}; {content['hardware']}; {versions}.",
    ]


def draw(result: dict[str, Any]) -> list[str]:
    """The table that fits a result."""
    if "curves" in result:
        return curves(result)
    if "rows" in result:
        lists = [name for name, value in result.items() if isinstance(value, list) and value]
        tables = [rows_of(result[name]) for name in lists if isinstance(result[name][0], dict)]
        return [line for table in tables for line in (*table, "")][:-1]
    return facts(result)


def facts(result: dict[str, Any]) -> list[str]:
    """A row per number; those of a group under the group's name."""
    rows = ["| measure | value |", "| --- | --- |"]
    rows += [f"| {name} | {_text(value)} |" for name, value in _leaves(result)]
    return rows


def curves(result: dict[str, Any]) -> list[str]:
    """A row per feature dropout and step."""
    names = list(result["curves"][0])
    rows = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    cells = ([f"{row[name]:.3g}" for name in names] for row in result["curves"])
    return rows + ["| " + " | ".join(row) + " |" for row in cells]


def rows_of(found: list[dict[str, Any]]) -> list[str]:
    """A row per entry, a column per key of any of them."""
    names = list(dict.fromkeys(name for row in found for name in row if name != "per_seed"))
    if "ci95" in names:
        found = [{**row, "mean": row if "ci95" in row else row["mean"]} for row in found]
        names.remove("ci95")
    lines = ["| " + " | ".join(names) + " |", "| --- " * len(names) + "|"]
    return lines + ["| " + " | ".join(_cell(row.get(n)) for n in names) + " |" for row in found]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        p = f", p {value['p']:.2g}" if "p" in value else ""
        return f"{_interval(value)}{p}"
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _leaves(result: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in result.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}, ")
        else:
            yield f"{above}{name}", value


def _text(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _interval(score: dict[str, Any]) -> str:
    low, high = score["ci95"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
