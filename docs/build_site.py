"""Builds the documentation site into `build/docs/site`, without a network: `make docs`.

Gathers the Markdown pages into one folder, runs the notebooks of `examples/` and writes their
output into pages, lists every flag and public name from the code, then calls Zensical, which
refuses a link that leads nowhere. With --quick the notebooks are shown and not run.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import slimp
from slimp.cli.flags import InFiles, config_field, flags_of, presets_of
from slimp.cli.main import VERBS
from slimp.cli.parser import default_words

ROOT = Path(__file__).resolve().parents[1]
MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/results/README.md": "measurements.md",
}
"""Pages outside `docs/` -> their place in the site; `docs/X` is X, `examples/X` tutorials/X."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs")
    parser.add_argument("--quick", action="store_true", help="notebooks are shown and not run")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    pages = arguments.out / "pages"
    for path in sorted([*(ROOT / "docs").rglob("*"), *(ROOT / "examples").glob("*")]):
        if path.suffix in (".css", ".md", ".svg", ".webp"):
            copy(path, pages)
        elif path.suffix == ".py" and path.parent.name == "examples":
            render(path, pages / "tutorials", run=not arguments.quick)
    for name in list(MOVED)[1:]:  # docs/index.md takes the place of README.md
        copy(ROOT / name, pages)
    (pages / "flags.md").write_text(all_flags(), encoding="utf-8")
    (pages / "api.md").write_text(public_names(), encoding="utf-8")
    for name in ("zensical.toml", "example_sections.py"):
        shutil.copy(ROOT / "docs" / name, arguments.out)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    subprocess.run(build, cwd=arguments.out, check=True)


def place(path: Path) -> str | None:
    """Where a file of the project is in the site; None: it is no page."""
    name = Path(os.path.relpath(path, ROOT)).as_posix()
    folder, _, rest = name.partition("/")
    inside = {"docs": rest, "examples": f"tutorials/{rest}".replace(".py", ".md")}.get(folder)
    return MOVED.get(name, inside)


def copy(path: Path, pages: Path) -> None:
    """Copies a file to its place in the site."""
    target = pages / (place(path) or "")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)
    if path.suffix == ".md":
        target.write_text(relinked(path, path.read_text(encoding="utf-8")), encoding="utf-8")


def relinked(path: Path, text: str) -> str:
    """Its text with links to the places in the site; those to what is no page are left out."""

    def relative(link: re.Match[str]) -> str:
        words, target, anchor = link.groups()
        found = place((path.parent / target).resolve())
        start = Path(place(path) or "").parent
        return f"[{words}]({os.path.relpath(found, start)}{anchor or ''})" if found else words

    return re.sub(r"\[([^]]*)\]\((?!\w+:)([^)#]+)(#[^)]*)?\)", relative, text)


def render(path: Path, folder: Path, *, run: bool = True) -> str:
    """The page of a py:percent notebook, run in an empty folder: what it printed and drew."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, object] = {"__name__": "__main__"}
    lines, drawn, begun = list[str](), 0, time.process_time()
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        cells = re.split(r"^# %%(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        for kind, cell in zip(cells[::2], map(str.strip, cells[1::2]), strict=True):
            if kind.strip() == "[markdown]":
                lines += [relinked(path, re.sub(r"^# ?", "", cell, flags=re.MULTILINE)), ""]
                continue
            lines += ["```python", cell, "```", ""]
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
                exec(compile(cell if run else "", path.name, "exec"), names)  # it is ours
            if shown := printed.getvalue().replace(f"{Path.cwd()}/", "").rstrip():
                lines += ["```text", shown, "```", ""]
            for number in plt.get_fignums():
                drawn += 1
                plt.figure(number).savefig(folder / f"{path.stem}-{drawn}.png", dpi=110)
                lines += [f"![Drawn by the lines above]({path.stem}-{drawn}.png)", ""]
            plt.close("all")
    spent = f"in {time.process_time() - begun:.0f} s of processor time" if run else "without output"
    text = "\n".join([*lines, f"This page is `examples/{path.name}`, made {spent}."])
    (folder / f"{path.stem}.md").write_text(text, encoding="utf-8")
    return text


def all_flags() -> str:
    """A table of flags per verb, from the fields of its dataclasses."""
    lines = ["# All flags", "", "Made from the code; `slimp VERB --help-all` shows the same.", ""]
    for verb in VERBS:
        module = import_module(f"slimp.cli.{verb.replace(' ', '_')}")
        nested, config = config_field(module.Arguments)
        flags = [flag for flag in flags_of(module.Arguments) if flag.name != nested]
        flags += [*flags_of(config), *flags_of(InFiles)] if config else []
        lines += [f"## slimp {verb}", "", (module.__doc__ or "").strip(), ""]
        lines += ["| flag | meaning |", "| --- | --- |"] if flags else []
        for flag in flags:
            cells = flag.usage, flag.help + default_words(flag, presets_of(config))
            usage, words = (html.escape(cell).replace("|", "&#124;") for cell in cells)
            lines.append(f"| <code>{usage}</code> | {words} |")
        lines.append("")
    return "\n".join(lines)


def public_names() -> str:
    """Directives that show the docstring of every public name, by folder."""
    homes = {name: module.split(".")[1] for name, module in slimp._HOMES.items()}
    lines = ["# Python API", "The public names; `import slimp` loads each when it is first used."]
    for folder in sorted(set(homes.values())):
        lines.append(f"## {folder}")
        lines += [f"::: slimp.{name}" for name in sorted(homes) if homes[name] == folder]
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
