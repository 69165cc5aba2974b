"""Every answer against an independent computation, and what must be refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from probes import make_probe, write_run
from sklearn.decomposition import PCA
from tables import metadata_of, write_images
from tiny import grid_cohort, with_feature, with_tables

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from slimp.app import embeddings
from slimp.app.audit import audit
from slimp.app.comparison import Comparison
from slimp.app.explorer import jpeg
from slimp.app.open import Sources, open_explorer
from slimp.app.predict_cohort import predict_cohort
from slimp.app.search import Search
from slimp.app.seen import Seen
from slimp.app.server import UPLOAD, create_app
from slimp.cli.main import main
from slimp.data.cohort import Cohort
from slimp.data.decode import decode
from slimp.data.files import sha256_of
from slimp.errors import UserError
from slimp.features.feature_table import FeatureTable
from slimp.features.nearest import nearest
from slimp.features.relative import OUTLIER
from slimp.prediction.predictor import Predictor

TOKEN = "a-token"


@contextmanager
def quiet(title: str) -> Iterator[object]:
    yield lambda done, total: None


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("app")
    write_run(root, patients=50, name="run2", seed=1)
    table = write_run(root, patients=50)
    make_probe(root / "probe", table, root, "full")
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> TestClient:
    sources = Sources(
        run=root / "run",
        cohort=root / "cohort",
        probe=root / "probe",
        compare=root / "run2",
        data_check=True,
    )
    app = create_app(open_explorer(sources, quiet), TOKEN)
    return TestClient(app, base_url="http://127.0.0.1:8000", headers={"X-Token": TOKEN})


@pytest.fixture(scope="module")
def without_probe(root: Path) -> TestClient:
    app = create_app(open_explorer(Sources(run=root / "run", cohort=root / "cohort"), quiet), TOKEN)
    return TestClient(app, base_url="http://127.0.0.1:8000", headers={"X-Token": TOKEN})


@pytest.fixture(scope="module")
def cohort(root: Path) -> Cohort:
    return Cohort.load(root / "cohort")


@pytest.fixture(scope="module")
def table(root: Path) -> FeatureTable:
    return FeatureTable.load(root / "features.parquet")


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Who may ask


def test_a_second_user_without_the_token_gets_403(client):
    for path in ("/", "/static/app.js", "/api/cohort", "/api/thumbnail/0", "/nothing"):
        for headers in ({"X-Token": ""}, {"X-Token": "wrong"}):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 403
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert client.post("/api/predict", headers={"X-Token": "wrong"}).status_code == 403


def test_the_address_gives_a_cookie_that_scripts_cannot_read(client):
    answer = client.get(f"/?token={TOKEN}", headers={"X-Token": ""}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    sent = {"X-Token": "", "Cookie": cookie.partition(";")[0]}
    assert client.get("/api/cohort", headers=sent).status_code == 200
    client.cookies.clear()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_another_name_for_this_machine_is_refused(client, host):
    assert client.get("/api/cohort", headers={"Host": host}).status_code == 403


def test_its_own_names_are_not(client):
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/api/cohort", headers={"Host": host}).status_code == 200


def test_every_answer_has_the_headers(client):
    for path in ("/api/cohort", "/api/thumbnail/0", "/api/case/99999", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/server.py"),
        *("/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/..\\server.py"),
        *("/api/column/..%2f..%2fcohort.json", "/api/thumbnail/-1", "/api/thumbnail/99999"),
    ],
)
def test_nothing_but_what_is_listed_is_served(client, path):
    assert client.get(path).status_code == 404


# What it says


def test_the_overview_counts_the_cohort(client, cohort):
    said = client.get("/api/cohort").json()
    assert said["images"] == len(cohort)
    assert said["patients"] == len(cohort.patients)
    assert said["spaces"] == ["image", "lesion", "patient"]
    assert said["probe"]["classes"] == list(cohort.classes)
    assert said["compare"] == {"run": "run2"}
    names = [column["name"] for column in said["columns"]]
    assert len(set(names)) == len(names)
    assert {"label", "outlier", "predicted", "agreement", "age", "site"} <= set(names)


def test_columns_hold_the_cells_of_the_tables(client, cohort):
    joined = metadata_of(cohort).assign(label=cohort.images["label"])
    checked = 0
    for column in client.get("/api/cohort").json()["columns"]:
        if column["name"] not in joined:
            continue
        cells = joined[column["name"]]
        answer = client.get(f"/api/column/{column['name']}")
        assert answer.headers["x-kind"] == column["kind"]
        assert column["missing"] == cells.isna().sum()
        if column["kind"] == "number":
            got = np.frombuffer(answer.content, "<f4")
            np.testing.assert_array_equal(got, cells.to_numpy(np.float32, na_value=np.nan))
            np.testing.assert_allclose([column["min"], column["max"]], [cells.min(), cells.max()])
        else:
            codes = np.frombuffer(answer.content, "<u2")
            words = [None if c == 65535 else column["categories"][c] for c in codes]
            if cells.dtype == "boolean":
                cells = cells.astype(object).map({True: "yes", False: "no"})
            assert words == [None if pd.isna(cell) else cell for cell in cells]
        checked += 1
    assert checked > 10


def test_points_are_the_principal_components(client, table):
    got = np.frombuffer(client.get("/api/points?projection=pca").content, "<f4").reshape(-1, 2)
    assert np.abs(got).max() == 1
    wanted = PCA(2).fit_transform(table.features["image"].astype(float))
    for axis in range(2):
        assert abs(np.corrcoef(got[:, axis], wanted[:, axis])[0, 1]) > 0.9999
    assert client.get("/api/points?projection=tsne").status_code == 400


@pytest.mark.slow  # numba compiles
@pytest.mark.filterwarnings("ignore")
def test_umap_keeps_groups_apart(tmp_path):
    pytest.importorskip("umap")
    x = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    x[:60] += 9
    spaces, nothing = {"image": x}, np.zeros(120, dtype=np.float32)
    found = embeddings.Embedded(folder=tmp_path, cohort_key="", spaces=spaces, outlier=nothing)
    plane = found.projection("umap")
    first, second = plane[:60], plane[60:]
    apart = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert apart > 3 * np.linalg.norm(first - first.mean(axis=0), axis=1).mean()
    np.testing.assert_array_equal(found.projection("umap"), plane)  # kept


def test_ids_of_indices(client, cohort):
    rows = client.post("/api/ids", json={"indices": [3, 0]}).json()["rows"]
    assert (
        rows == cohort.images[["image_id", "lesion_id", "patient_id"]].iloc[[3, 0]].values.tolist()
    )
    for body in ({"indices": [-1]}, {"indices": ["0"]}, {"indices": [0] * 100_001}, [0], {}):
        assert client.post("/api/ids", json=body).status_code == 400
    assert client.post("/api/ids", content=b"{").status_code == 400
    assert client.post("/api/ids", content=b" " * (3 << 20)).status_code == 413


@pytest.mark.parametrize("space", ["image", "lesion", "patient"])
@pytest.mark.parametrize("others", [True, False])
def test_neighbours_are_those_of_a_loop(client, cohort, table, space, others):
    query, name = 7, {"image": "image_id", "lesion": "lesion_id", "patient": "patient_id"}[space]
    x, images = table.features[space].astype(float), cohort.images
    scores = []
    for row in images.drop_duplicates(name).index:
        same = images.loc[row, "patient_id"] == images.loc[query, "patient_id"]
        if (others and same) or images.loc[row, name] == images.loc[query, name]:
            continue
        cosine = x[query] @ x[row] / np.linalg.norm(x[query]) / np.linalg.norm(x[row])
        scores.append((-np.float32(cosine), row))
    path = f"/api/neighbours/{query}?space={space}&k=9&other_patients={int(others)}"
    found = client.get(path).json()["neighbours"]
    np.testing.assert_allclose(
        [one["similarity"] for one in found], [-score for score, _ in sorted(scores)[:9]], atol=1e-6
    )
    assert [one["index"] for one in found] == [row for _, row in sorted(scores)[:9]]


def test_a_search_equals_the_one_for_many_queries():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 24)).astype(np.float32)
    x[1000:1400] = x[5]  # equally near rows: the lower row first
    found, allowed = nearest(x[:20], x, 6), np.ones(3000, dtype=bool)
    for query in range(20):
        rows, cosines = Search(x).nearest(x[query], 6, allowed)
        np.testing.assert_array_equal(rows, found.row[query])
        np.testing.assert_array_equal(cosines, found.similarity[query])
    assert [len(part) for part in Search(x).nearest(x[0], 6, ~allowed)] == [0, 0]


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="Linux tells what is resident")
def test_a_search_leaves_a_mapped_file_on_the_disk(tmp_path):
    x = np.random.default_rng(0).normal(size=(200_000, 64)).astype(np.float32)  # 51 MB
    np.save(tmp_path / "x.npy", x)
    mapped = np.asarray(np.load(tmp_path / "x.npy", mmap_mode="r"))

    def mapped_bytes() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[2])
        return pages * os.sysconf("SC_PAGE_SIZE")

    before = mapped_bytes()
    found = Search(mapped).nearest(x[3], 5)
    assert mapped_bytes() - before < 20e6
    np.testing.assert_array_equal(found[0], Search(x).nearest(x[3], 5)[0])


def test_wrong_questions_get_a_sentence(client):
    for path in ("neighbours/0?space=colour", "neighbours/0?k=0", "explanation/0?method=guess"):
        answer = client.get(f"/api/{path}")
        assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_a_case_has_its_metadata_its_patient_and_its_prediction(client, cohort, table, root):
    cells = metadata_of(cohort)
    columns = cells.columns.difference(["image"])
    row = int(np.flatnonzero(cells[columns].isna().any(axis=1))[0])
    case = client.get(f"/api/case/{row}").json()
    assert case["label"] == cohort.images["label"].iloc[row]
    assert {of["name"] for of in case["metadata"]} == set(columns)
    for of in case["metadata"]:
        cell = cells[of["name"]].iloc[row]
        assert of["missing"] == pd.isna(cell)
        if not of["missing"]:
            wanted = ("yes" if cell else "no") if isinstance(cell, bool | np.bool_) else cell
            assert of["value"] == wanted
    imputed = client.get(f"/api/imputed/{row}").json()
    for of in case["metadata"]:
        if (value := imputed.get(of["name"])) is not None:
            known = cells[of["name"]].dropna()
            assert isinstance(value, str) or known.min() <= value <= known.max()
    assert any(imputed.get(of["name"]) is not None for of in case["metadata"] if of["missing"])
    patients = cohort.images["patient_id"]
    mine = np.flatnonzero((patients == patients.iloc[row]) & (np.arange(len(cohort)) != row))
    assert sorted(other["index"] for other in case["others"]) == mine.tolist()
    scores = [other["outlier"] for other in case["others"]]
    assert scores == sorted(scores, reverse=True), "the most unlike first"
    distance = table.features["outlier"][:, OUTLIER.index("distance")]
    for other in case["others"]:
        assert other["outlier"] == pytest.approx(float(distance[other["index"]]), abs=1e-5)
    assert str(root) not in json.dumps(case)


def predicted(root: Path, cohort: Cohort, row: int) -> dict[str, object]:
    """What the verb says of an image with its metadata."""
    (path,) = write_images(cohort, root / "files", [row])
    metadata_of(cohort).iloc[[row]].to_csv(root / "one.csv", index=False)
    line = f"predict {root}/probe {path} --metadata {root}/one.csv --out {root}/p.json --overwrite"
    assert main(line.split()) == 0
    return json.loads((root / "p.json").read_text())["images"][0]


def test_predictions_are_those_of_slimp_predict(client, cohort, root):
    row = 11
    wanted = predicted(root, cohort, row)
    cells = metadata_of(cohort).iloc[row].drop("image").dropna().to_dict()
    files = {"image": ("x.jpg", cohort.read_image(row))}
    sent = {"metadata": json.dumps(cells, default=str)}
    uploaded = client.post("/api/predict", files=files, data=sent)
    assert uploaded.status_code == 200, uploaded.text
    for found in (client.get(f"/api/case/{row}").json(), uploaded.json()):
        got = found["prediction"]
        assert got["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-5)
        assert got["predicted"] == wanted["decision"]
        assert got["conformal_set"] == wanted["conformal_set"]
        assert got["novelty_p"] == pytest.approx(wanted["novelty_p"], abs=1e-3)
        assert not got["abstains"]
    near = uploaded.json()["neighbours"]
    assert near[0]["similarity"] > 0.99999
    assert row in [one["index"] for one in near]
    columns = {column["name"]: column for column in client.get("/api/cohort").json()["columns"]}
    codes = np.frombuffer(client.get("/api/column/predicted").content, "<u2")
    assert columns["predicted"]["categories"][codes[row]] == wanted["decision"]
    sizes = np.frombuffer(client.get("/api/column/set size").content, "<f4")
    assert sizes[row] == len(wanted["conformal_set"])


def test_numbers_of_an_upload_are_in_the_cohorts_unit_whatever_a_tables_are_in(root, cohort):
    """The page shows millimetres where the table that was imported had centimetres."""
    predictor = Predictor.load(root / "probe")
    schema = with_feature(predictor.schema, "diameter_mm", factor=10.0)
    cells = {"diameter_mm": 7, "site": "back", "smokes": True}
    found = []
    for one in (predictor, replace(predictor, schema=schema)):
        nothing = np.zeros((len(cohort), 24), dtype=np.float32)
        seen = Seen(model=one.model, cohort=cohort, images=nothing, predictor=one)
        found.append(seen.predict(cohort.read_image(3), cells)[0].probabilities)
    assert found[0]
    assert found[0] == pytest.approx(found[1])


def test_a_number_of_an_upload_in_another_unit_than_the_probes_is_not_read(root, cohort):
    """The page shows the unit of the cohort: 0.7 cm are no 0.7 mm."""
    predictor, nothing = Predictor.load(root / "probe"), np.zeros((len(cohort), 24), np.float32)
    other = replace(cohort, schema=with_feature(cohort.schema, "diameter_mm", unit="cm"))
    cells = {"site": "back", "smokes": True}
    found = []
    for data, more in ((cohort, {}), (other, {"diameter_mm": 0.7}), (cohort, {"diameter_mm": 0.7})):
        seen = Seen(model=predictor.model, cohort=data, images=nothing, predictor=predictor)
        found.append(seen.predict(cohort.read_image(3), cells | more))
    (missing, none), (left_out, told), (read, _) = found
    assert left_out.probabilities == missing.probabilities != read.probabilities
    assert not none
    assert told == ["Not read by the probe: diameter_mm."]


def test_a_cohort_in_other_units_than_the_probes_is_read_as_if_it_lacked_them(root, cohort, table):
    predictor, images = Predictor.load(root / "probe"), table.features["image"]
    other = replace(cohort, schema=with_feature(cohort.schema, "diameter_mm", unit="cm"))
    lacking = with_tables(cohort, lesions=cohort.lesions.assign(diameter_mm=np.nan))
    own, cm, none = (predict_cohort(predictor, c, images) for c in (cohort, other, lacking))
    np.testing.assert_array_equal(cm.probabilities, none.probabilities)
    assert np.abs(own.probabilities - none.probabilities).max() > 1e-3


def test_a_number_far_from_all_learned_from_is_missing_as_slimp_predict_has_it(root, cohort, table):
    predictor, images = Predictor.load(root / "probe"), table.features["image"]
    far, lacking = (
        with_tables(cohort, lesions=cohort.lesions.assign(diameter_mm=value))
        for value in (1e6, np.nan)
    )
    found, wanted = (predict_cohort(predictor, c, images) for c in (far, lacking))
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities)


def test_an_upload_stays_in_memory_and_a_blank_one_gets_no_probabilities(client, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("written to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    large = np.full((900, 900, 3), 90, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, "BMP")
    assert len(buffer.getvalue()) > 2_000_000
    data = {"metadata": '{"site": "back"}'}
    files = {"image": ("grey.bmp", buffer.getvalue())}
    said = client.post("/api/predict", files=files, data=data).json()
    assert said["prediction"]["abstains"]
    assert said["prediction"]["probabilities"] == {}
    assert "colour" in said["prediction"]["reason"]


def test_malformed_and_oversized_uploads_are_refused(client, without_probe, cohort):
    image, post = cohort.read_image(0), client.post
    assert post("/api/predict", content=image).status_code == 400
    assert post("/api/predict", files={"image": ("x", b"no image")}).status_code == 400
    assert post("/api/predict", files={"file": ("x", image)}).status_code == 400
    assert post("/api/predict", files=[("image", ("x", image))] * 2).status_code == 400
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert post("/api/predict", content=b"--y\r\nnothing", headers=broken).status_code == 400
    for text in ("[1]", "{", '{"age": [1]}'):
        files, data = {"image": ("x", image)}, {"metadata": text}
        assert post("/api/predict", files=files, data=data).status_code == 400
    assert post("/api/predict", files={"image": ("x", bytes(UPLOAD + 1))}).status_code == 413

    def chunks() -> Iterator[bytes]:  # of a length that is not announced
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(UPLOAD // 2**20 + 1):
            yield bytes(2**20)

    assert post("/api/predict", content=chunks(), headers=broken).status_code == 413
    # No metadata, or no probe: the nearest cases all the same.
    for some in (client, without_probe):
        answer = some.post("/api/predict", files={"image": ("x", image)})
        assert answer.status_code == 409
        assert 0 in [one["index"] for one in answer.json()["neighbours"]]


def test_thumbnails_hold_pixels_alone(client, cohort):
    for size in (96, 256, 768):
        answer = client.get(f"/api/thumbnail/2?size={size}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(answer.content)).size) <= size
    assert client.get("/api/thumbnail/2?size=95").status_code == 400
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG", exif=exif, comment=b"a name")
    sent = jpeg(decode(buffer.getvalue(), 96), 96)
    assert not [word for word in (b"Exif", b"camera", b"a name") if word in sent]
    assert Image.open(io.BytesIO(sent)).size == (40, 30)


def test_an_explanation_is_a_layer_over_the_thumbnail(client):
    answer = client.get("/api/explanation/4")
    layer = Image.open(io.BytesIO(answer.content))
    assert layer.mode == "RGBA"
    assert layer.getextrema()[3][0] < layer.getextrema()[3][1] <= 200
    assert "lesion" in answer.headers["x-explains"]
    thumbnail = Image.open(io.BytesIO(client.get("/api/thumbnail/4?size=768").content))
    assert layer.width / layer.height == pytest.approx(thumbnail.width / thumbnail.height, abs=0.05)


def test_a_run_that_was_tuned_for_labels_matches_and_imputes_nothing(root, tmp_path):
    shutil.copytree(root / "run", tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text('{"finetune": {}}')
    sources = Sources(run=tmp_path / "run", cohort=root / "cohort", probe=root / "probe")
    seen = open_explorer(sources, quiet).seen
    assert "log-odds" in seen.explanation(4, "rollout")[1]
    assert seen.imputed(4) == {}
    with pytest.raises(UserError, match="was fine-tuned for labels"):
        replace(seen, predictor=None).explanation(4, "rollout")


def test_two_runs_are_compared_by_the_neighbours_they_share(client, root, cohort, table):
    said = client.get("/api/compare").json()
    agreement = np.frombuffer(client.get("/api/column/agreement").content, "<f4")
    assert said["runs"] == ["run", "run2"]
    assert said["overlap"] == pytest.approx(float(agreement.mean()))
    same = open_explorer(
        Sources(run=root / "run", cohort=root / "cohort", compare=root / "run"), quiet
    )
    assert (same.comparison.agreement == 1).all()
    np.testing.assert_allclose(same.points("pca", other=True), same.points("pca"), atol=1e-5)
    other = np.frombuffer(client.get("/api/points?run=b").content, "<f4")
    assert np.abs(other).max() == 1
    assert len(other) == 2 * len(cohort)


@pytest.mark.parametrize(("images", "chance"), [(6, 1.0), (40, 0.25)])
def test_neighbours_are_of_other_patients_and_so_is_chance(images, chance, tmp_path):
    """Of two patients: half of the cohort cannot be a neighbour, and 6 images are fewer than 10."""
    x, y = np.random.default_rng(0).normal(size=(2, 2 * images, 24)).astype(np.float32)
    patients = np.repeat(np.array(["a", "b"], dtype=object), images)
    nothing = np.zeros(2 * images, dtype=np.float32)
    for name, other, wanted in (("same", x, 1.0), ("unrelated", y, chance)):
        one, two = (
            embeddings.Embedded(folder=place, cohort_key="", spaces={"image": z}, outlier=nothing)
            for place, z in ((tmp_path, x), (tmp_path / name, other))
        )
        found = Comparison.of("other", one, two, patients)
        assert found.agreement.mean() == pytest.approx(wanted, abs=0.05)
        assert found.by_chance == pytest.approx(chance)


def test_findings_open_their_images(tmp_path):
    cohort, kept = grid_cohort([2, 2]), tmp_path / "audit.json"
    assert audit(cohort, kept, run=False) == []
    found = {one["title"]: one for one in audit(cohort, kept, run=True)}
    assert found["Tiny image"]["indices"] == [0, 1, 2, 3]
    assert found["Tiny image"]["total"] == 4
    assert audit(cohort, kept, run=False) == [*found.values()]


def test_findings_are_listed(client):
    keys = {"level", "title", "text", "remedy", "indices", "total"}
    assert all(set(one) == keys for one in client.get("/api/findings").json())


def test_nothing_is_written_and_no_path_is_told(client, root):
    before = {name: digests(root / name) for name in ("cohort", "run", "probe")}
    paths = ["cohort", "case/3", "neighbours/3", "thumbnail/3", "findings", "compare", "points"]
    for path in [*paths, "explanation/3"]:
        assert str(root).encode() not in client.get(f"/api/{path}").content
    for method in ("put", "delete", "patch"):
        assert getattr(client, method)("/api/cohort").status_code == 405
    assert {name: digests(root / name) for name in before} == before


# Opening


def test_embeddings_are_computed_once_or_taken_from_a_file(root, table, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("embedded again")

    sources = Sources(run=root / "run", cohort=root / "cohort")
    first = open_explorer(sources, quiet)
    monkeypatch.setattr("slimp.features.embed.embed", refuse)
    again = open_explorer(sources, quiet)
    file = Sources(run=root / "run", cohort=root / "cohort", embeddings=root / "features.parquet")
    given = open_explorer(file, quiet)
    for explorer in (first, again, given):
        got = explorer.embedded.spaces["image"]
        np.testing.assert_allclose(got, table.features["image"], atol=1e-6)
    other = root / "other.parquet"
    for wrong, named in (
        (table.select(np.arange(len(table)) > 0), "its images are not those of cohort"),
        (replace(table, imputed=("lesion",)), r"imputed by retrieval \(lesion\)"),
    ):
        wrong.save(other)
        with pytest.raises(UserError, match=rf"other\.parquet: .*{named}"):
            open_explorer(replace(file, embeddings=other), quiet)


def test_embeddings_of_another_run_are_refused(root):
    """Its neighbours and predictions would look like any."""
    sources = Sources(
        run=root / "run2", cohort=root / "cohort", embeddings=root / "features.parquet"
    )
    with pytest.raises(UserError, match=r"features\.parquet: .* not those of this run"):
        open_explorer(sources, quiet)


def test_other_tools_get_rows_with_their_neighbours(root, cohort, table):
    out = root / "atlas.parquet"
    line = f"export embeddings {root}/run {root}/cohort --out {out} --neighbours 3"
    assert main(line.split()) == 0
    found, x = pd.read_parquet(out), table.features["image"]
    assert found["image_id"].tolist() == cohort.images["image_id"].tolist()
    np.testing.assert_allclose(np.stack(found["embedding"]), x, atol=1e-6)
    pd.testing.assert_series_equal(found["site"], metadata_of(cohort)["site"], check_names=False)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T + 2 * np.eye(len(x))
    for row, near in enumerate(found["neighbors"]):
        np.testing.assert_allclose(near["distances"], np.sort(distance[row])[:3], atol=1e-5)
        assert row not in near["ids"]
    assert found[["projection_x", "projection_y"]].abs().max().max() == 1
    assert main(line.split()) == 2  # it is there
    content = json.loads((root / "atlas.croissant.json").read_text("utf-8"))
    named = [field["name"] for field in content["recordSet"][0]["field"]]
    assert {*named, "neighbors"} == {*found.columns}
    assert content["distribution"][0]["sha256"] == sha256_of(out)
    card = (root / "atlas.card.md").read_text("utf-8")
    assert sha256_of(root / "run" / "model.safetensors") in card
    assert cohort.info.licence in card
    out.unlink()
    assert main(line.split()) == 2  # the card may be somebody's own
    assert not out.exists()


def test_without_the_extra_the_remedy_is_named(root, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    assert main(["app", str(root / "run"), "--cohort", str(root / "cohort")]) == 2
    assert "slimp[app]" in capsys.readouterr().err


LIGHT = """
import json, sys
from contextlib import nullcontext
from pathlib import Path
from starlette.testclient import TestClient
from slimp.app.open import Sources, open_explorer
from slimp.app.server import create_app

run, cohort, probe, compare = map(Path, sys.argv[1:])
explorer = open_explorer(
    Sources(run=run, cohort=cohort, probe=probe, compare=compare, data_check=True),
    lambda title: nullcontext(lambda done, total: None),
)
app = create_app(explorer, "t")
client = TestClient(app, base_url="http://127.0.0.1", headers={"X-Token": "t"})
case = client.get("/api/case/3").json()
for path in (
    *("/", "cohort", "points", "points?run=b", "column/label", "groups", "find?id=a", "compare"),
    *("thumbnail/0?size=96", "neighbours/0?space=image", "neighbours/0?space=lesion", "findings"),
):
    assert client.get("/" if path == "/" else f"/api/{path}").status_code == 200, path
before = [name for name in ("torch", "timm", "sklearn") if name in sys.modules]
client.get("/api/methods")
print(json.dumps([before, "torch" in sys.modules, case["prediction"]["probabilities"]]))
"""


@pytest.mark.slow
def test_torch_is_loaded_by_the_first_explanation_and_not_before(client, root):
    """Of what an earlier start kept: that of `client`."""
    folders = [str(root / name) for name in ("run", "cohort", "probe", "run2")]
    said = subprocess.check_output([sys.executable, "-c", LIGHT, *folders], text=True)
    before, after, probabilities = json.loads(said.splitlines()[-1])
    assert (before, after) == ([], True)
    assert probabilities == client.get("/api/case/3").json()["prediction"]["probabilities"]


@pytest.mark.slow
def test_the_verb_serves_until_it_is_interrupted(root):
    line = [sys.executable, "-m", "slimp", "app", str(root / "run"), "--no-browser"]
    with subprocess.Popen(
        [*line, "--cohort", str(root / "cohort")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as server:
        address = server.stdout.readline().strip()
        try:
            assert address.startswith("http://127.0.0.1:"), address
            page, _, token = address.partition("?token=")
            assert len(token) > 30
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"{page}api/cohort")
            asked = urllib.request.Request(f"{page}api/cohort", headers={"X-Token": token})
            with urllib.request.urlopen(asked) as answer:
                assert json.load(answer)["run"] == "run"
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0, server.stderr.read()


def test_what_is_not_there_is_named(root, tmp_path, capsys):
    run, cohort = str(root / "run"), str(root / "cohort")
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "model.safetensors").unlink()
    for words, named in (
        (["nowhere", "--cohort", cohort], "nowhere"),
        ([str(tmp_path / "half"), "--cohort", cohort], "model.safetensors"),
        ([run, "--cohort", cohort, "--compare", "elsewhere"], "elsewhere"),
        ([run, "--cohort", cohort, "--embeddings", "none.parquet"], "none.parquet"),
    ):
        assert main(["app", *words, "--accelerator", "cpu", "--no-browser"]) == 2
        assert named in capsys.readouterr().err
