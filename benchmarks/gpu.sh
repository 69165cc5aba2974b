#!/usr/bin/env bash
# Everything that needs a GPU, on a machine with one and nothing installed, in under 8 minutes there.
#   benchmarks/gpu.sh [FILE.json]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
make .venv/.installed
.venv/bin/python -m pip install --quiet open_clip_torch lightly -c constraints.txt
exec .venv/bin/python benchmarks/gpu.py --out "${1:-benchmarks/results/gpu.json}"
