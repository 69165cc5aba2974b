"""Beside what a user would pick instead: time and quality of both, in the same run.

- train: a step of ViT-S/16 at 224 px on as many images: the nested loss, open_clip's step (its
  text tower as small as our tables' encoders), the supervised step of timm's `train.py`.
- large: the same in more images than have a graph at once: our chunks, open_clip's `accum_freq`.
- views: two views per image: our loss of views, lightly's NTXentLoss on a timm model.
- embed: features of a cohort's images, from encoded files: `embed`, open_clip and timm with their
  own transforms and as many loading processes.
- search: 10 nearest rows: `nearest`, FAISS's flat index, scikit-learn's NearestNeighbors.
- probe: our probe of one block of features, against `LogisticRegressionCV` on the same
  standardised columns, the same choice of C, the same folds of patients and one BLAS thread.
- import: tiles in the layout of SLICE-3D: our import, with every check, against the loop of pandas
  and h5py that `import_scale.py` describes; per 10,000 images.
- load: augmented images per second from two processes: our batches, torchvision's ImageFolder and
  webdataset with torchvision's transforms.

Every way runs in a process of its own, ways take turns, `--repeats` times; ratios are peer / ours,
so above 1 we are ahead, and `cpu_seconds`, with OMP_NUM_THREADS=1, tell what a busy machine hides.
All use the number format that is fastest on this processor. A peer that is not installed is left
out: pip install open_clip_torch lightly faiss-cpu webdataset

    python benchmarks/peers.py
    python benchmarks/peers.py --row probe search --repeats 3
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from cohorts import add_cohort, load_cohort
from harness import last_line_of, plain_parser, record
from slimp.data.cohort import Cohort
from slimp.training.config import PretrainConfig

CLASSES, WIDTH, NEIGHBOURS, WORKERS, CHUNKS = 8, 384, 10, 2, 8
Array = np.ndarray[Any, np.dtype[Any]]
Found = dict[str, float]
"""`seconds`, and what says how good the answer was."""


def main() -> None:
    args = parse()
    if args.way:
        row, way = args.way.split(":")
        print(json.dumps(WAYS[row][way](args)))
        return
    result: dict[str, Any] = {}
    for row in args.row:
        peers = {way: PACKAGES.get(way, way) for way in WAYS[row] if way != "slimp"}
        missing = [p for p in peers.values() if not find_spec(MODULES.get(p, p.replace("-", "_")))]
        for package in missing:
            print(f"{row}: {package} is not installed, left out")
        ways = ["slimp", *(way for way, package in peers.items() if package not in missing)]
        found: dict[str, list[Found]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            for way in ways:
                found[way].append(last_line_of(__file__, *sys.argv[1:], "--way", f"{row}:{way}"))
        result[row] = {way: summary(found["slimp"], found[way]) for way in ways}
        for way in ways[1:]:
            result[row][way]["version"] = version(peers[way])
        if len(ways) > 1:
            result[f"{row}_speedup"] = min(result[row][way]["ratio"] for way in ways[1:])
        show(row, result[row])
    result["device"] = args.device
    if args.device == "cpu":
        result["cuda"] = "not measured"
    if args.out:
        more = {"threads": torch.get_num_threads(), "bf16": bf16(args.device)}
        record(args.out, result, "peers.py", **more)
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = plain_parser(__doc__, quick="minutes: small sizes, once")
    add_cohort(parser, real="pad-ufes-20")
    parser.add_argument("--row", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--rows", type=int, default=20_000, help="of the probe")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="of the steps: train, large, views")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch, args.large, args.images, args.index, args.tiles = 64, 256, 512, 100_000, 20_000
    if args.device != "cpu":
        args.batch, args.large = 512, 6400
    if args.quick:
        args.rows, args.repeats = 1500, 1
        args.batch, args.large, args.images, args.index, args.tiles = 16, 64, 64, 20_000, 2_000
    return args


def summary(ours: list[Found], theirs: list[Found]) -> dict[str, Any]:
    """Medians; and the ratio to ours, of each turn and of the medians."""
    medians = {key: float(np.median([run[key] for run in theirs])) for key in theirs[0]}
    each = [b["seconds"] / a["seconds"] for a, b in zip(ours, theirs, strict=True)]
    ratio = medians["seconds"] / float(np.median([run["seconds"] for run in ours]))
    return {**medians, "ratio": ratio, "ratio_each": each}


def show(row: str, ways: dict[str, dict[str, Any]]) -> None:
    for way, found in ways.items():
        more = {k: v for k, v in found.items() if isinstance(v, float) and k not in ("seconds",)}
        low, high = min(found["ratio_each"]), max(found["ratio_each"])
        quality = "  ".join(f"{k} {v:.4f}" for k, v in more.items() if k != "ratio")
        print(
            f"{row:7s}{way:14s}{found['seconds']:9.2f} s  {found['ratio']:6.2f} times ours "
            f"[{low:.2f}, {high:.2f}]  {quality}",
            flush=True,
        )


def bf16(device: str) -> bool:
    from slimp.models.precision import bf16_is_fast

    return bf16_is_fast(device)


def autocast(device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=bf16(device))


def timed(work: Callable[[], Any], warm: Callable[[], object], device: str = "cpu") -> Found:
    """Of a call after one that warms up: seconds, and those of all processor cores."""
    warm()
    began, own = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - own}


# Training steps. The work does not depend on what the images show: all are random pixels.


def our_step(args: argparse.Namespace, images: int, chunk: int, views: int = 1) -> Found:
    from slimp.models.precision import autocast_on, suit_to_device
    from slimp.training.devices import fast_precision
    from slimp.training.loop import learn
    from slimp.training.optimizer import make_optimizer
    from step import make_batch, make_model

    device = torch.device(args.device)
    alone = {"lesion_weight": 0.0, "patient_weight": 0.0, "view_weight": 1.0} if views > 1 else {}
    config = fast_precision(
        PretrainConfig.from_preset("vit-s", chunk=chunk, accelerator=args.device, **alone)
    )
    model = make_model(config).to(device)
    suit_to_device(model, device, config.precision)
    optimizer, cast = make_optimizer(model, config), autocast_on(device, config.precision)

    def step(n: int) -> None:
        batch = make_batch(model, n // views)
        pixels = batch.pixels.expand(views, *batch.pixels.shape[1:])
        learn(model, replace(batch, pixels=pixels).to(device), optimizer, config, cast, 0)

    return timed(lambda: step(images), lambda: step(images), args.device)


def clip_step(args: argparse.Namespace, images: int, at_once: int) -> Found:
    """As `open_clip_train`: `--accum-freq` embeds without graph, then piece by piece with one."""
    from open_clip import ClipLoss
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    image = CLIPVisionCfg(layers=12, width=WIDTH, head_width=64, patch_size=16, image_size=224)
    text = CLIPTextCfg(context_length=16, vocab_size=512, width=64, heads=2, layers=1)
    model, loss = CLIP(WIDTH, image, text).train().to(args.device), ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.2)

    def step(n: int) -> None:
        pixels, words = torch.randn(n, 3, 224, 224), torch.randint(512, (n, 16))
        parts = [
            tuple(x.to(args.device) for x in part)
            for part in zip(pixels.split(at_once), words.split(at_once), strict=True)
        ]
        optimizer.zero_grad()
        cached = []
        if len(parts) > 1:
            with torch.no_grad(), autocast(args.device):
                cached = [model(*part)[:2] for part in parts]
        for i, part in enumerate(parts):
            with autocast(args.device):
                own = model(*part)
                before, after = cached[:i], cached[i + 1 :]
                sides = [
                    torch.cat([*(c[s] for c in before), own[s], *(c[s] for c in after)])
                    for s in (0, 1)
                ]
                total = loss(*sides, own[2])
            total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return timed(lambda: step(images), lambda: step(images), args.device)


def timm_step(args: argparse.Namespace) -> Found:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=CLASSES).train()
    model.to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        pixels = torch.randn(args.batch, 3, 224, 224).to(args.device)
        y = torch.randint(CLASSES, (args.batch,), device=args.device)
        with autocast(args.device):
            total = F.cross_entropy(model(pixels), y)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return timed(step, step, args.device)


def lightly_step(args: argparse.Namespace) -> Found:
    import timm
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    torch.manual_seed(0)
    backbone = timm.create_model("vit_small_patch16_224", num_classes=0)
    model = nn.Sequential(backbone, SimCLRProjectionHead(WIDTH, WIDTH, 128)).train()
    model.to(args.device)
    loss, optimizer = NTXentLoss(), torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        views = torch.randn(2, args.batch // 2, 3, 224, 224).to(args.device)
        with autocast(args.device):
            total = loss(*(model(view) for view in views))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()

    return timed(step, step, args.device)


# Features of files, and loading them to train.


def some_images(args: argparse.Namespace) -> Cohort:
    cohort = load_cohort(args.cohort)
    return cohort.select(np.arange(len(cohort)) < args.images)


def our_embed(args: argparse.Namespace) -> Found:
    from slimp.features.embed import embed
    from slimp.features.encode import InferenceConfig
    from slimp.training.build_model import build_model

    cohort = some_images(args)
    model = build_model(cohort, PretrainConfig.from_preset("vit-s", seed=0)).eval()
    backend = "openvino" if find_spec("openvino") else "torch"
    how = InferenceConfig(
        backend=backend,  # type: ignore[arg-type]
        precision="bf16" if bf16("cpu") else "32",
        workers=WORKERS,
    )
    few = cohort.select(np.arange(len(cohort)) < 8)
    return timed(lambda: embed(model, cohort, how), lambda: embed(model, few, how))


def open_clip_embed(args: argparse.Namespace) -> Found:
    from open_clip import image_transform
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    image = CLIPVisionCfg(layers=12, width=WIDTH, head_width=64, patch_size=16, image_size=224)
    model = CLIP(WIDTH, image, CLIPTextCfg(width=64, heads=2, layers=1)).eval()
    return plain_embed(args, model.encode_image, image_transform(224, is_train=False))


def timm_embed(args: argparse.Namespace) -> Found:
    import timm

    model = timm.create_model("vit_small_patch16_224", num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    return plain_embed(args, model, transform)


def plain_embed(
    args: argparse.Namespace, encode: Callable[[Tensor], Tensor], transform: Any
) -> Found:
    from torchvision.datasets import ImageFolder

    with tempfile.TemporaryDirectory() as name:
        write_folder(some_images(args), Path(name))
        loader = torch.utils.data.DataLoader(
            ImageFolder(name, transform), batch_size=64, num_workers=WORKERS
        )

        def run() -> None:
            with torch.inference_mode(), autocast("cpu"):
                for pixels, _ in loader:
                    encode(pixels).float().numpy()

        with torch.inference_mode(), autocast("cpu"):
            return timed(run, lambda: encode(torch.randn(8, 3, 224, 224)))


def our_load(args: argparse.Namespace) -> Found:
    from slimp.data.batches import PatientBatches, epoch_loader
    from slimp.training.build_model import build_model

    config = PretrainConfig.from_preset("small", workers=WORKERS, image_size=128, seed=0)
    cohort = some_images(args)
    data = PatientBatches(cohort, build_model(cohort, config).encodings, config, image_size=128)
    epochs = range(1 + -(-8 * args.images // (data.batches_per_epoch * 64)))
    with closing(epoch_loader(data, epochs)) as loader:
        return per_image(len(batch.image_rows) for batch in loader)


def folder_load(args: argparse.Namespace) -> Found:
    from torchvision.datasets import ImageFolder

    with tempfile.TemporaryDirectory() as name:
        write_folder(some_images(args), Path(name))
        folder = ImageFolder(name, torchvision_augmentation())
        eightfold = torch.utils.data.ConcatDataset([folder] * 8)
        loader = torch.utils.data.DataLoader(
            eightfold, batch_size=64, shuffle=True, num_workers=WORKERS
        )
        return per_image(len(pixels) for pixels, _ in loader)


def webdataset_load(args: argparse.Namespace) -> Found:
    import webdataset

    with tempfile.TemporaryDirectory() as name:
        cohort = some_images(args)
        for shard in range(WORKERS):
            with tarfile.open(Path(name) / f"{shard}.tar", "w") as tar:
                for i in range(shard, len(cohort), WORKERS):
                    info, image = tarfile.TarInfo(f"{i:06d}.jpg"), cohort.read_image(i)
                    info.size = len(image)
                    tar.addfile(info, io.BytesIO(image))
        urls = [str(Path(name) / f"{shard}.tar") for shard in range(WORKERS)]
        data = webdataset.WebDataset(urls, shardshuffle=WORKERS).shuffle(1000).decode("pil")
        data = data.to_tuple("jpg").map_tuple(torchvision_augmentation()).batched(64).repeat(8)
        loader = webdataset.WebLoader(data, batch_size=None, num_workers=WORKERS)
        return per_image(len(pixels) for (pixels,) in loader)


def torchvision_augmentation() -> Any:
    """Crop, mirroring and colours as ours in kind; normalised in the loader, as is usual."""
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RGB(),
            v2.RandomResizedCrop(128, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ColorJitter(0.2, 0.2, 0.2),
            v2.PILToTensor(),
        ]
    )


def per_image(counts: Iterable[int]) -> Found:
    """Seconds per 1,000 images, without the first batch: the processes have started."""
    some: Iterator[int] = iter(counts)
    next(some)
    began = time.perf_counter()
    images = sum(some)
    return {"seconds": 1000 * (time.perf_counter() - began) / images}


def write_folder(cohort: Cohort, folder: Path) -> None:
    (folder / "images").mkdir()
    for i in range(len(cohort)):
        (folder / "images" / f"{i:06d}.jpg").write_bytes(cohort.read_image(i))


# Search and probe, on rows as encoders give them.


def search(args: argparse.Namespace, find: Callable[[Array, Array], Array]) -> Found:
    """A tenth of the rows asks the others; `top1` agrees with a product in 64 bit."""
    rows = embeddings(args.index, WIDTH)[0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    queries, index = rows[: args.index // 50], rows[args.index // 50 :]
    answers = []
    times = timed(lambda: answers.append(find(queries, index)), lambda: find(queries[:8], index))
    few = queries[:200].astype(np.float64) @ index.T.astype(np.float64)
    found = few.argmax(axis=1) == answers[0][:200, 0]
    return {**times, "top1": float(found.mean())}


def our_search(args: argparse.Namespace) -> Found:
    from slimp.features.nearest import nearest

    return search(args, lambda q, index: nearest(q, index, NEIGHBOURS).row)


def faiss_search(args: argparse.Namespace) -> Found:
    import faiss

    def find(queries: Array, index: Array) -> Array:
        flat = faiss.IndexFlatIP(WIDTH)
        flat.add(index)
        return np.asarray(flat.search(queries, NEIGHBOURS)[1])

    return search(args, find)


def sklearn_search(args: argparse.Namespace) -> Found:
    from sklearn.neighbors import NearestNeighbors

    def find(queries: Array, index: Array) -> Array:
        found = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", metric="cosine")
        return np.asarray(found.fit(index).kneighbors(queries, return_distance=False))

    return search(args, find)


def our_probe(args: argparse.Namespace) -> Found:
    from slimp.evaluation.logistic import fit_logistic
    from slimp.features.design import Design

    names = tuple(str(c) for c in range(CLASSES))

    def predict(x: Array, y: Array, patients: Array, others: Array) -> Array:
        fitted = fit_logistic(
            Design(blocks={"image": x}), y, patients, names, probe_config(), seed=0
        )
        return fitted.predict_proba(others)

    return probe(args, predict)


def sklearn_probe(args: argparse.Namespace) -> Found:
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.preprocessing import StandardScaler

    from slimp.evaluation.folds import grouped_folds

    def predict(x: Array, y: Array, patients: Array, others: Array) -> Array:
        fold = grouped_folds(y, patients, probe_config().folds, seed=0)
        scaler = StandardScaler().fit(x)
        model = LogisticRegressionCV(
            Cs=sorted(probe_config().strengths),
            cv=[(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in np.unique(fold)],
            scoring="neg_log_loss",
            l1_ratios=(0,),
            max_iter=10_000,
            use_legacy_attributes=False,
        )
        with threadpool_limits(limits=1):
            model.fit(scaler.transform(x), y)
        return np.asarray(model.predict_proba(scaler.transform(others)))

    return probe(args, predict)


def probe_config() -> Any:
    from slimp.evaluation.probe_config import ProbeConfig

    return ProbeConfig(features="image")


def probe(
    args: argparse.Namespace, predict: Callable[[Array, Array, Array, Array], Array]
) -> Found:
    """Time to choose C and fit, and log-loss on as many other rows."""
    from sklearn.metrics import log_loss

    x, y, patients = embeddings(2 * args.rows, 96 if args.quick else WIDTH)
    train, test = slice(0, args.rows), slice(args.rows, None)
    found = []
    times = timed(
        lambda: found.append(predict(x[train], y[train], patients[train], x[test])), lambda: None
    )
    return {**times, "log_loss": float(log_loss(y[test], found[0]))}


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


def imports(args: argparse.Namespace, code: str) -> Found:
    from import_scale import draw_tiles, run, write_raw

    with tempfile.TemporaryDirectory() as name:
        raw = write_raw(Path(name) / "raw", draw_tiles(), args.tiles)
        seconds, peak = run(code, args.tiles, raw, Path(name) / "out", args.tiles)
    return {"seconds": 10_000 * seconds / args.tiles, "peak_mib": peak}


def our_import(args: argparse.Namespace) -> Found:
    from import_scale import OURS

    return imports(args, OURS)


def plain_import(args: argparse.Namespace) -> Found:
    from import_scale import LOOP

    return imports(args, LOOP)


WAYS: dict[str, dict[str, Callable[[argparse.Namespace], Found]]] = {
    "train": {
        "slimp": lambda args: our_step(args, args.batch, chunk=args.batch),
        "open_clip": lambda args: clip_step(args, args.batch, at_once=args.batch),
        "timm": timm_step,
    },
    "large": {
        "slimp": lambda args: our_step(args, args.large, chunk=3 * args.large // CHUNKS),
        "open_clip": lambda args: clip_step(args, args.large, at_once=args.large // CHUNKS),
    },
    "views": {
        "slimp": lambda args: our_step(args, args.batch, chunk=args.batch, views=2),
        "lightly": lightly_step,
    },
    "embed": {"slimp": our_embed, "open_clip": open_clip_embed, "timm": timm_embed},
    "search": {"slimp": our_search, "faiss": faiss_search, "scikit-learn": sklearn_search},
    "probe": {"slimp": our_probe, "scikit-learn": sklearn_probe},
    "import": {"slimp": our_import, "h5py": plain_import},
    "load": {"slimp": our_load, "torchvision": folder_load, "webdataset": webdataset_load},
}
PACKAGES = {"open_clip": "open_clip_torch", "faiss": "faiss-cpu"}
"""On the index of Python packages, where it is called otherwise."""
MODULES = {"open_clip_torch": "open_clip", "faiss-cpu": "faiss", "scikit-learn": "sklearn"}


if __name__ == "__main__":
    main()
