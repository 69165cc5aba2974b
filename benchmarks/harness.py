"""What all benchmarks share: arguments, a process of its own, a result with how to repeat it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from slimp.training.run_folder import versions


def plain_parser(description: str | None, *, quick: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks have; `quick` says what the short run leaves out."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, help="also write the result there, as JSON")
    return parser


def last_line_of(script: str | Path, *flags: str) -> dict[str, Any]:
    """What a benchmark prints last, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(script), *flags], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def record(path: Path, result: dict[str, Any], script: str, **more: Any) -> None:
    """Writes a result with what it takes to repeat it."""
    content = {
        "command": f"python benchmarks/{script} " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "hardware": f"{os.cpu_count()} CPU cores, {cpu_name()}",
        "versions": versions(),
        **more,
        "result": result,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def cpu_name() -> str:
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.is_file() else ""
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx2") if name in text]
    return f"{platform.machine()} {' '.join(fast)}"


def interval(score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    return f"{score['mean']:.3f} [{score['ci95'][0]:.3f}, {score['ci95'][1]:.3f}]"
