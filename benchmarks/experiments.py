"""Experiments at laptop scale, run to their end and kept: `docs/results.md` is written from them.

python benchmarks/experiments.py nested-vs-flat:pad-ufes-20 relative:ducklings --work DIR
python benchmarks/experiments.py            # writes the page anew from what is kept

Cells are shared in --work, so what an experiment has trained no other trains again, and what was
interrupted goes on. Those whose cells are not all done are not kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import record
from summary import PART, write_blocks

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "benchmarks" / "results" / "experiments"
PAGE, PLOTS = ROOT / "docs" / "results.md", ROOT / "docs" / "images" / "results"
HEAD = f"""# Results

Experiments at laptop scale, written by `benchmarks/experiments.py` from
`benchmarks/results/experiments/`. A small encoder from scratch on about a thousand images is no
replication of the paper: these tables say what this code does on data that anyone can hold, and
whether that agrees with what was published. How to read them: [experiments.md](experiments.md).
{PART}
HAM10000 is 6,035 of its 10,015 images, shorter side at most 128 px.
In the plots a difference that is told from 0 is blue, another one grey.
What pre-training from ImageNet weights reaches is a study of its own
([benchmarks/results](../benchmarks/results/README.md)).
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("which", nargs="*", metavar="NAME:COHORT", help="what to run and keep")
    parser.add_argument("--work", type=Path, default=Path("experiments"), help="for the cells")
    parser.add_argument("--quick", action="store_true", help="writes the page, runs nothing")
    arguments = parser.parse_args()
    for which in () if arguments.quick else arguments.which:
        keep(*which.split(":"), arguments.work)
    pages = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(KEPT.glob("*.json"))]
    PAGE.write_text("\n".join([HEAD, *overview(pages), *map(section, pages)]), encoding="utf-8")
    write_blocks()
    print(json.dumps({"experiments": len(pages)}))


def keep(name: str, cohort: str, work: Path) -> None:
    """Runs an experiment to its end and keeps its table with a plot."""
    out = work / f"{name}_{cohort}"
    verb = [sys.executable, "-m", "slimp", "experiment", name, "--cohort", cohort]
    subprocess.run(
        [*verb, "--out", str(out), "--cells", str(work / "cells")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    table: dict[str, Any] = json.loads((out / "table.json").read_text(encoding="utf-8"))
    if any(row["done"] < row["planned"] for row in table["rows"]):
        raise SystemExit(f"{out}: has holes; nothing is kept.")
    command = f"slimp experiment {name} --cohort {cohort} --out experiments/{name}_{cohort}"
    record(KEPT / f"{name}_{cohort}.json", table, "experiments.py", command=command)


def overview(pages: list[dict[str, Any]]) -> list[str]:
    """A row per claim of the paper: what was published, what was found, and whether they agree."""
    lines = ["## Beside the paper", "", "| claim | cohort | here | |", "| --- | --- | --- | --- |"]
    words = {"undecided": "cannot be told at this scale"}
    for page in pages:
        found = page["result"]
        for claim in found["verdict"]:
            kind = f"{claim['arm']} - {claim['control']}, {claim['features']}: {minus(claim)}"
            verdict = words.get(claim["verdict"], claim["verdict"])
            low, high = claim["ci95"]
            verdict += f", interval {100 * (high - low):.1f} points wide"
            lines.append(f"| {claim['claim']} | {found['cohort']} | {kind} | {verdict} |")
    return [*lines, ""]


def section(page: dict[str, Any]) -> str:
    """Question, command, reading, plot and table of an experiment."""
    found = page["result"]
    name = f"{found['name']}_{found['cohort']}"
    versions = ", ".join(f"{key} {value}" for key, value in page["versions"].items())
    lines = [f"## {found['name']}, {found['cohort']}", "", found["question"], ""]
    lines += [found["reading"], "", f"`{page['command']}`  "]
    lines += [f"{page['date']}; {page['hardware']}; {versions}; scale {found['scale']}.", ""]
    if plot(PLOTS / f"{name}.svg", found):
        lines += [f"![Differences from the control, {name}](images/results/{name}.svg)", ""]
    columns = list(dict.fromkeys(key for row in found["rows"] for key in row["columns"]))
    settings = any(row["setting"] for row in found["rows"])
    heads = ["arm", "features", *(["setting"] if settings else []), "classes", "score"]
    heads += ["minus its control", "p (Holm)", *columns]
    lines += ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for row in found["rows"]:
        against = next(iter(row["minus"].items()), None)
        entries = [row["arm"], row["features"], *([row["setting"]] if settings else [])]
        entries += [row["labels"], f"{row['mean']:.3f} {interval(row['ci95'])}"]
        entries += [f"{minus(against[1])} ({against[0]})" if against else ""]
        entries += [f"{against[1]['p_holm']:.3f}" if against else ""]
        entries += [f"{row['columns'][c]:.4g}" if c in row["columns"] else "" for c in columns]
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join([*lines, ""])


def minus(found: dict[str, Any]) -> str:
    low, high = found["ci95"]
    return f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"


def interval(ends: list[float]) -> str:
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def plot(target: Path, found: dict[str, Any]) -> bool:
    """Differences from the control in the first classes, a panel per feature set."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    first = found["rows"][0]["labels"]
    rows = [row for row in found["rows"] if row["labels"] == first and row["minus"]]
    kinds = list(dict.fromkeys(row["features"] for row in rows))
    if not rows:
        return False
    most = max(sum(row["features"] == kind for row in rows) for kind in kinds)
    style = {"svg.hashsalt": target.stem, "svg.fonttype": "none", "font.size": 8}
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.6 * len(kinds), 0.9 + 0.19 * most), layout="constrained")
        for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            own = [row for row in rows if row["features"] == kind]
            for y, row in enumerate(own):
                against = next(iter(row["minus"].values()))
                told = against["p_holm"] < 0.05
                colour = "#0072B2" if told else "#777777"
                axes.plot(against["ci95"], [y, y], color=colour)
                axes.plot(against["difference"], y, "o", color=colour, markersize=4)
            names = [f"{row['arm']} {row['setting']}".strip() for row in own]
            axes.set_yticks(range(len(own)), names)
            axes.set_ylim(len(own) - 0.5, -0.5)
            axes.axvline(0, color="#777777", linewidth=0.8)
            axes.set_title(f"{kind} features: minus the control", loc="left")
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.patch.set_facecolor("white")
        figure.savefig(target, metadata={"Date": None, "Creator": None})
    return True


if __name__ == "__main__":
    main()
