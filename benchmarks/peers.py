"""Beside what a user would pick instead: time and quality of both, in the same run.

- probe: our probe of one block of features, against scikit-learn's `LogisticRegressionCV` on the
  same standardised columns, the same choice of C, the same folds of patients and one BLAS thread.

Both are taken in turn, `--repeats` times; ratios are of the medians.

    python benchmarks/peers.py --rows 20000 --columns 384
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from harness import plain_parser, record
from slimp.evaluation.folds import grouped_folds
from slimp.evaluation.logistic import fit_logistic
from slimp.evaluation.probe_config import ProbeConfig
from slimp.features.design import Design

CLASSES = 8
Array = np.ndarray[Any, np.dtype[Any]]


def main() -> None:
    parser = plain_parser(__doc__, quick="a minute: 1,500 rows of 96 columns, once")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.quick:
        args.rows, args.columns, args.repeats = 1500, 96, 1
    result = probe(args.rows, args.columns, args.repeats)
    if args.out:
        record(args.out, result, "peers.py")
    print(json.dumps(result))


def probe(rows: int, columns: int, repeats: int) -> dict[str, Any]:
    """Time to choose C and fit, and log-loss on as many other rows."""
    x, y, patients = embeddings(2 * rows, columns)
    config = ProbeConfig(features="image")
    names = tuple(str(c) for c in range(CLASSES))
    train, test = slice(0, rows), slice(rows, None)

    def ours() -> Array:
        design = Design(blocks={"image": x[train]})
        fitted = fit_logistic(design, y[train], patients[train], names, config, seed=0)
        return fitted.predict_proba(x[test])

    def theirs() -> Array:
        fold = grouped_folds(y[train], patients[train], config.folds, seed=0)
        scaler = StandardScaler().fit(x[train])
        model = LogisticRegressionCV(
            Cs=sorted(config.strengths),
            cv=[(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in np.unique(fold)],
            scoring="neg_log_loss",
            l1_ratios=(0,),
            max_iter=10_000,
            use_legacy_attributes=False,
        )
        with threadpool_limits(limits=1):
            model.fit(scaler.transform(x[train]), y[train])
        return np.asarray(model.predict_proba(scaler.transform(x[test])))

    seconds: dict[str, list[float]] = {"slimp": [], "scikit-learn": []}
    losses: dict[str, float] = {}
    ways: dict[str, Callable[[], Array]] = {"slimp": ours, "scikit-learn": theirs}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            losses[name] = float(log_loss(y[test], way()))
            seconds[name].append(time.perf_counter() - began)
            print(f"{name}: {seconds[name][-1]:.1f} s, log-loss {losses[name]:.4f}", flush=True)
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    each = [b / a for a, b in zip(seconds["slimp"], seconds["scikit-learn"], strict=True)]
    return {
        "probe_speedup": medians["scikit-learn"] / medians["slimp"],
        "probe_speedup_each": each,
        **{"rows": rows, "columns": columns, "peer": f"scikit-learn {sklearn.__version__}"},
        **{f"seconds {name}": value for name, value in medians.items()},
        **{f"log-loss {name}": value for name, value in losses.items()},
    }


def embeddings(rows: int, columns: int) -> tuple[Array, Array, Array]:
    """Rows as an encoder gives them: variances fall as 1 / rank, mixed over all columns."""
    rng = np.random.default_rng(0)
    y = rng.integers(CLASSES, size=rows)
    y[: 2 * CLASSES] = np.tile(np.arange(CLASSES), 2)
    spread = 1 / np.arange(1, columns + 1)
    centres = rng.normal(size=(CLASSES, columns)) * spread
    centres[:, 10:] = 0
    mixing, _ = np.linalg.qr(rng.normal(size=(columns, columns)))
    x = (0.7 * centres[y] + rng.normal(size=(rows, columns)) * spread) @ mixing
    return x.astype(np.float32), y, np.arange(rows) // 5


if __name__ == "__main__":
    main()
