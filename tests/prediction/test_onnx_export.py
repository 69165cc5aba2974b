"""ONNX graphs with their reader give what `slimp predict` and `slimp embed` do, from files."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from probes import make_probe, write_run
from raw_data import encoded
from tables import metadata_of, write_images
from tiny import MODEL, SMALL_RESNET, fitted, tiny_cohort, with_features

from slimp.cli import main as cli
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.schema import Schema
from slimp.errors import UserError
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig, embed_images, encode_table
from slimp.features.feature_table import FeatureTable
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.prediction import onnx_export
from slimp.prediction.config import PredictConfig
from slimp.prediction.inputs import Metadata, read_pixels
from slimp.prediction.onnx_export import compare, export_onnx, table_coding
from slimp.prediction.onnx_graphs import (
    OPSET,
    TOLERANCE,
    Graph,
    image_graph,
    quantise,
    rows_of,
    write_graph,
)
from slimp.prediction.predictor import Predictor
from slimp.sources import import_source
from slimp.training.config import PretrainConfig, part_of

pytest.importorskip("onnxruntime", reason="needs pip install 'slimp[onnx]'")
LESION = ("diameter_mm", "site", "symptoms")


def reader_of(folder: Path) -> Any:
    """The module that was copied beside the graphs."""
    spec = importlib.util.spec_from_file_location("reader", folder / "reader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and probes on a cohort with holes, its images as files, and the export by its verb."""
    root = tmp_path_factory.mktemp("onnx")
    cohort = tiny_cohort(patients=40, image_size=32)
    with_features(cohort, lesion=LESION, patient=("age",)).save(root / "cohort")
    table = write_run(root, patients=40)
    for features in ("full", "relative"):
        make_probe(root / features, table, root, features)
    words = ("export", "onnx", root / "run", "--probe", root / "full", "--out", root / "out")
    assert cli.main([*map(str, words), "--cohort", str(root / "cohort")]) == 0
    return root


def test_the_reader_agrees_with_predict_and_embed(places: Path, tmp_path: Path) -> None:
    cohort, table = Cohort.load(places / "cohort"), FeatureTable.load(places / "features.parquet")
    metadata = metadata_of(cohort)
    assert metadata.isna().to_numpy().any(axis=1).mean() > 0.3, "rows with holes"
    paths = write_images(cohort, tmp_path, range(30))
    metadata.to_csv(tmp_path / "cells.csv", index=False)
    predictor = Predictor.load(places / "full", PredictConfig(novelty=0.0))
    wanted = predictor.predict(paths, tmp_path / "cells.csv")
    read = reader_of(places / "out").Reader(places / "out")
    for row, (path, one) in enumerate(zip(paths, wanted, strict=True)):
        cells = metadata.iloc[row].drop("image")
        found = read(path, cells.where(cells.notna(), None).to_dict())
        np.testing.assert_allclose(found["probabilities"], [*one.probabilities.values()], atol=1e-5)
        assert found["decision"] == one.decision
        assert len(found["missing"]) == one.metadata_features - one.metadata_known
        found["image"] = found["image_encoder"]
        for name in ("image", "lesion", "patient"):
            np.testing.assert_allclose(found[name], table.features[name][row], atol=TOLERANCE)
    with pytest.raises(ValueError, match="metadata"):
        read(paths[0], {})


def test_json_says_how_images_and_cells_are_read(places: Path) -> None:
    content = json.loads((places / "out" / "export.json").read_text())
    assert content["statement"].startswith("Research software")
    assert content["opset"] == OPSET
    assert content["pixels"] == {"size": 32, "shorter_side": 320}
    assert content["graphs"]["lesion"] == ["lesion_cells"]
    diameter = content["tables"]["lesion_cells"][0]
    assert (diameter["columns"], diameter["unit"]) == (["diameter_mm"], "mm")
    compared = content["compared"]
    assert compared["same_decision"] == 1
    assert compared["largest_difference"] < TOLERANCE
    assert compared["balanced_accuracy_pytorch"] == compared["balanced_accuracy_onnx"]
    assert (places / "out" / "config.json").is_file()
    lines = (places / "out" / "reader.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(code) < 60


def photo(width: int = 90, height: int = 70) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, size=(7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


FILES: dict[str, Callable[[], bytes]] = {
    "bare": lambda: encoded(photo()),
    "large": lambda: encoded(photo(1500, 900), quality=92),
    "with a comment": lambda: encoded(photo(), comment=b"seen"),
    "with a trailer": lambda: encoded(photo()) + b"more",
    "on its side": lambda: encoded(photo(), exif=turned(6)),
    "large and on its side": lambda: encoded(photo(700, 400), exif=turned(8)),
    "png": lambda: encoded(photo(), "PNG"),
    "large png": lambda: encoded(photo(700, 400), "PNG"),
    "transparent": lambda: encoded(with_alpha(), "PNG"),
    "grey": lambda: encoded(photo().convert("L")),
    "palette": lambda: encoded(photo().convert("P"), "PNG"),
    "cmyk": lambda: encoded(photo().convert("CMYK")),
    "tiff": lambda: encoded(photo(), "TIFF"),
}


def with_alpha() -> Image.Image:
    image = photo()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize("kind", FILES)
def test_the_reader_sees_the_same_pixels(places: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(FILES[kind]())
    for size in (32, 48):
        found = reader_of(places / "out").pixels(path, size, 320)
        np.testing.assert_array_equal(found[0], read_pixels(path, size))


def test_the_reader_codes_cells_as_the_schema_reads_them(places: Path) -> None:
    kinds = {
        "age": {"kind": "continuous", "missing": ["-1", "?"], "aliases": {"old": "90"}},
        "site": {"kind": "categorical", "missing": ["?"], "aliases": {"ARM": "arm"}},
        "smokes": {"kind": "checkbox", "missing": ["?"], "aliases": {"": "no"}},
    }
    schema = Schema.from_dict({**dict.fromkeys(("image", "label"), "x"), "lesion_metadata": kinds})
    cells = pd.DataFrame(
        {
            "image": [f"i{n}" for n in range(6)],
            "age": ["31", " 40.5", "-1", "old", "?", ""],
            "site": ["arm", "ARM", "leg", "?", "", "elsewhere"],
            "smokes": ["yes", "0", "TRUE", "?", "", "1.0"],
        }
    )
    level = schema.level("lesion")
    typed = pd.DataFrame({"age": [31.0, 50.0], "site": ["arm", "leg"], "smokes": [True, False]})
    encoding = Encoding.fit(level, typed)
    wanted = encode_table(encoding, Metadata.read(cells, [encoding], schema).frame)
    features = json.loads(json.dumps(table_coding(encoding, schema)))
    code = reader_of(places / "out").coded
    given = np.concatenate([code(features, row) for row in cells.to_dict("records")])
    found = rows_of(encoding, torch.from_numpy(given))
    for kind, numbers in vars(wanted).items():
        np.testing.assert_allclose(getattr(found, kind), numbers, rtol=1e-6)
    typed = code(features, {"age": -1.0, "site": float("nan"), "smokes": np.True_})
    np.testing.assert_array_equal(typed, [[np.nan, np.nan, 1]])
    inches = Schema.from_dict(
        {
            **dict.fromkeys(("image", "label"), "x"),
            "lesion_metadata": {**kinds, "age": {**kinds["age"], "factor": 25.4}},
        }
    )
    spelt = table_coding(encoding, inches)
    assert code(spelt, {"age": 31})[0, 0] == 31
    assert np.isnan(code(spelt, {"age": "?"})[0, 0])
    with pytest.raises(ValueError, match="age: give a number"):
        code(spelt, {"age": "31"})
    hidden = table_coding(encoding, schema, ["site"])
    assert [feature["columns"] for feature in hidden] == [[None], ["site"], [None]]
    assert np.isnan(code(hidden, {"age": 3, "smokes": True})).all()


def test_eight_bits_lose_what_the_comparison_says(places: Path, tmp_path: Path) -> None:
    graph = tmp_path / "image_encoder.onnx"
    graph.write_bytes((places / "out" / graph.name).read_bytes())
    quantise(graph)
    assert list(tmp_path.iterdir()) == [graph]
    cohort = Cohort.load(places / "cohort")
    model = Slimp.from_pretrained(places / "run")
    found = compare(graph, model, None, cohort)
    assert found["images"] == len(cohort)
    assert TOLERANCE < found["largest_difference"] < 0.5
    assert 0.99 < found["least_cosine"] <= found["mean_cosine"] < 1


def test_a_mean_over_symmetries_is_in_the_graph(tmp_path: Path) -> None:
    model = Slimp(ModelConfig(**MODEL), {}).eval()
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    graph = image_graph(model.image_encoder, "dihedral")
    found = write_graph(tmp_path / "image_encoder.onnx", graph, pixels=pixels)
    wanted = embed_images(model, [pixels], InferenceConfig(test_time_augmentation="dihedral"))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_what_cannot_be_exported_is_refused(places: Path, tmp_path: Path, capsys) -> None:
    words = ["export", "onnx", str(places / "run"), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--probe", str(places / "relative")]) == 2
    assert "relative" in capsys.readouterr().err
    assert cli.main([*words, "--int8"]) == 2
    assert "--cohort" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="resnet10t"):
        export_onnx(tmp_path, Slimp(ModelConfig(**SMALL_RESNET, image_size=32), {}), int8=True)
    complex_numbers = Graph(lambda x: torch.fft.fft2(x.float()).abs().mean(dim=(2, 3)))
    with pytest.raises(UserError, match=r"odd\.onnx"):
        write_graph(tmp_path / "odd.onnx", complex_numbers, pixels=torch.ones(3, 3, 8, 8))
    row = Graph(lambda x: x * len(x))  # a constant in the graph, of the two rows it is traced with
    with pytest.raises(UserError, match=r"odd\.onnx: ONNX Runtime differs"):
        write_graph(tmp_path / "odd.onnx", row, pixels=torch.ones(3, 3, 8, 8))


def test_a_package_that_is_not_here_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(onnx_export, "PACKAGES", ("onnx", "onnx_that_nobody_has"))
    with pytest.raises(UserError, match=r"onnx_that_nobody_has.*slimp\[onnx\]"):
        export_onnx(tmp_path, Slimp(ModelConfig(**SMALL_RESNET, image_size=32), {}))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["small", "laptop"])
def test_real_rows_with_holes_agree(real_data: Path, tmp_path: Path, preset: str) -> None:
    """200 photographs of PAD-UFES-20, from the files that were published."""
    published = real_data / "pad-ufes-20"
    cohort = import_source("pad-ufes-20", published, tmp_path / "cohort")
    config = PretrainConfig.from_preset(preset)
    torch.manual_seed(0)
    model = Slimp(part_of(config, ModelConfig), fitted(cohort)).eval()
    model.save_pretrained(tmp_path / "run")
    make_probe(tmp_path / "full", embed(model, cohort), tmp_path, "full")
    predictor = Predictor.load(tmp_path / "full", PredictConfig(novelty=0.0))
    (tmp_path / "out").mkdir()
    export_onnx(tmp_path / "out", predictor.model, predictor)
    cells = pd.read_csv(published / "metadata.csv", dtype="str", keep_default_na=False)
    files = {path.stem: path for path in (published / "images").iterdir()}
    cells = cells.drop(columns="patient_id").rename(columns={"img_id": "image"})
    cells = cells[cells["image"].map(lambda name: Path(name).stem in files)].iloc[:200]
    paths = [files[Path(name).stem] for name in cells["image"]]
    assert (cells == "").to_numpy().any(axis=1).sum() > 50, "rows with holes"
    read, worst = reader_of(tmp_path / "out").Reader(tmp_path / "out"), 0.0
    wanted = predictor.predict(paths, cells)
    for path, one, row in zip(paths, wanted, cells.to_dict("records"), strict=True):
        found = read(path, row)
        p = np.array([*one.probabilities.values()])
        worst = max(worst, float(np.abs(found["probabilities"] - p).max()))
        assert found["decision"] == one.decision
    assert worst < TOLERANCE
