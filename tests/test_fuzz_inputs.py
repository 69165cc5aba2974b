"""Mangled inputs of every kind: a sound cohort or one clear paragraph, and nothing beside it.

Each family begins with an input that imports, and mangles one file of it: its structure where it
has one, then its bytes. All follows from the family and a number, which a failure names:
`pytest "tests/test_fuzz_inputs.py::test_mangled[csv]"` runs the same inputs again.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import random
import re
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from raw_data import dicom, noise, workbook, zipped

from slimp.cli import main as cli
from slimp.data.cohort import Cohort

SECONDS = 20.0
"""A single input that takes longer hangs; most take hundredths."""
TARGET = "(target)"
ODD_NAMES = ("../evil.jpg", "/tmp/evil.jpg", "..\\evil.jpg", "C:/evil.jpg", "a/../../evil.jpg", ".")

SCHEMA = """\
image = "file"
lesion = "lesion"
patient = "patient"
label = "label"
missing = ["UNK"]

[label_names]
nv = "nevus"

[lesion_metadata]
size = { kind = "continuous", unit = "mm" }
site = { kind = "categorical", aliases = { back = "torso" } }

[patient_metadata]
age = { kind = "continuous", unit = "years", missing = ["-1"] }
smoker = { kind = "checkbox" }

[refused]
biopsied = "gives the label away"
"""
HEADER = ["file", "lesion", "patient", "label", "size", "site", "age", "smoker", "biopsied"]
ROWS = [
    ["a.jpg", "1", "p1", "nv", "3.5", "back", "40", "yes", "no"],
    ["b.jpg", "2", "p1", "mel", "", "leg", "40", "yes", "yes"],
    ["c.jpg", "1", "p2", "nv", "2", "arm", "-1", "no", "no"],
    ["d.jpg", "1", "p3", "mel", "7", "", "71", "UNK", "yes"],
]
STRANGE = [
    *("", " ", "0", "-1", "1e400", "-1e308", "nan", "inf", "1,5", "1.234,5", "0x10", "1_000"),
    *("UNK", "yes", "True", "12/31/1999", "31.12.99", "2024-02-30", "\u202egpj.a", "\u0661\u0662"),
    *("../a.jpg", "/etc/passwd", "C:\\a.jpg", "\\\\host\\a.jpg", "images/a", "a", "A.JPG", "~/a"),
    *("a.jpg;b.jpg", '"', '"a', 'a"b', "'", "\0", "\ufeff", "=1+1", "#N/A"),
    *("\U0001f4a9", "e\u0301"),
    *("x" * 70_000, "a/" * 3000, "file", "age", "\r", "\n", "a\nb", "\t", "|", ";", "\x1a", "\x85"),
    *("1.2345E+12", "100.0", "007"),
]


@dataclasses.dataclass(frozen=True)
class Seed:
    """An input that is taken, and how to mangle it."""

    argv: tuple[object, ...]
    """The command; `TARGET` stands for the cohort or file that it writes."""
    victims: tuple[Path, ...]
    """Files that are mangled, each an input of its own."""
    mangle: Callable[[random.Random, bytes], bytes]
    names: tuple[str, ...]
    """What a message may call the input; one of them must occur."""
    afterwards: Callable[[random.Random], None] = lambda rng: None
    """Called when the victims are mangled, and before the command."""


def table_text(rows: list[list[str]], mark: str = ",") -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=mark).writerows(rows)
    return text.getvalue()


def own_raw(folder: Path, rows: list[list[str]] = ROWS) -> tuple[Path, tuple[object, ...]]:
    """Somebody's table and images, with its schema beside them, and the command to import it."""
    raw, schema = folder / "raw", folder / "schema.toml"
    (raw / "images").mkdir(parents=True)
    (raw / "metadata.csv").write_text(table_text([HEADER, *rows]), encoding="utf-8")
    for number, row in enumerate(rows):
        (raw / "images" / row[0]).write_bytes(noise(number))
    schema.write_text(SCHEMA, encoding="utf-8")
    return raw, ("data", "import", "csv", raw, TARGET, "--schema", schema)


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# How bytes are mangled.


def edit_bytes(rng: random.Random, content: bytes, most: int = 6) -> bytes:
    """A few accidents of a disk, a cable or a text editor."""
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 8, 64, 1000))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x0A, 0x2C))
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = rng.randbytes(length)
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            data[at : at + length] = bytes(min(length, max(len(data) - at, 0)))
        elif kind == 6 and rng.random() < 0.4:
            del data[at:]
        elif at + 4 <= len(data):
            data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 65536)))
    return bytes(data)


def edit_rows(rng: random.Random, rows: list[list[str]]) -> list[list[str]]:
    """A few accidents of a spreadsheet."""
    rows = [list(row) for row in rows]
    for _ in range(rng.randint(0, 3)):
        r = rng.randrange(len(rows))
        c = rng.randrange(max(len(rows[r]), 1))
        kind = rng.randrange(10)
        if kind <= 3 and rows[r]:
            rows[r][min(c, len(rows[r]) - 1)] = rng.choice(STRANGE)
        elif kind == 4:
            rows.insert(r, list(rng.choice(rows)))
        elif kind == 5 and len(rows) > 1:
            del rows[r]
        elif kind == 6:
            rows = [row[:c] + row[c + 1 :] for row in rows]
        elif kind == 7:
            rows[r] = rows[r][:c]
        elif kind == 8:
            rows[r] = rows[r] + [rng.choice(STRANGE)] * rng.choice((1, 3, 500))
        elif rows[r] and len(rows) > 1:
            other = rng.randrange(1, len(rows))
            rows[r], rows[other] = rows[other], rows[r]
    return rows


ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "cp037", "utf-7")


def mangle_csv(rng: random.Random, content: bytes) -> bytes:
    first = content.decode("utf-8").splitlines()[0]
    rows = edit_rows(rng, list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""))))
    mark = rng.choice((",", ",", ",", ";", "\t", "|", ":"))
    text = table_text(rows, mark) if rng.random() < 0.6 else "\n".join(map(mark.join, rows))
    if rng.random() < 0.1:
        text = text.replace("\r\n", rng.choice(("\r", "\n\n", "\u2028", "\0\n")))
    if rng.random() < 0.05:
        text = f"Export of 2024\n\n{text}\n{first}\n"
    encoding = "utf-8" if rng.random() < 0.7 else rng.choice(ENCODINGS)
    encoded = text.encode(encoding, "replace")
    return edit_bytes(rng, encoded, 3) if rng.random() < 0.5 else encoded


def mangle_parquet(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.6:
        return edit_bytes(rng, content)
    frame = pd.read_parquet(io.BytesIO(content))
    name = rng.choice(list(frame.columns))
    kinds = [
        lambda c: c.astype("str").astype("category"),
        lambda c: pd.Series([[1], [2, 3], [], None]),
        lambda c: pd.Series([b"\xff", b"a", None, b""]),
        lambda c: pd.Series([np.nan, np.inf, -0.0, 1e300]),
        lambda c: pd.Series([2**62, -1, 0, 7]),
        lambda c: pd.to_datetime(pd.Series(["2020-01-01", None, "1900-01-01", "2261-01-01"])),
        lambda c: pd.Series([None] * 4),
        lambda c: pd.Series([rng.choice(STRANGE) for _ in range(4)]),
        lambda c: pd.Series([{"a": 1}, None, {"a": 2}, {}]),
        lambda c: pd.Series([True, False, None, True], dtype="boolean"),
    ]
    file = io.BytesIO()
    frame.assign(**{name: rng.choice(kinds)(frame[name])}).to_parquet(file)
    return file.getvalue()


def mangle_zip(rng: random.Random, content: bytes) -> bytes:
    """Mostly the list of members at the end; sometimes a member is doubled, or packed once more."""
    if rng.random() < 0.7:
        end = max(content.rfind(b"PK\5\6") - 300, 0)
        return content[:end] + edit_bytes(rng, content[end:], 3)
    members = members_of(content)
    name = rng.choice(list(members))
    odd = rng.choice((*ODD_NAMES, "images/", "x" * 5000, "__MACOSX/._a", f"other/{name}"))
    nested = zipped({name: edit_bytes(rng, members[name])})
    return zipped({**members, odd: nested, "more.zip": nested}, rng.choice((0, 8, 12, 14)))


def mangle_sheet(rng: random.Random, content: bytes) -> bytes:
    """A spreadsheet with one of its parts mangled, or all of it."""
    if rng.random() < 0.3:
        return edit_bytes(rng, content)
    parts = members_of(content)
    victim = rng.choice(list(parts))
    parts[victim] = mangle_text(rng, parts[victim], rb"<[^>]*>|[^<]+")
    if rng.random() < 0.1:
        del parts[victim]
    return zipped(parts)


def mangle_text(rng: random.Random, content: bytes, word: bytes) -> bytes:
    """A text with words of it lost, doubled, exchanged or replaced."""
    words = re.findall(word, content, re.DOTALL)
    for _ in range(rng.randint(1, 3)):
        at, kind = rng.randrange(len(words)), rng.randrange(5)
        if kind == 0:
            words[at] = b""
        elif kind == 1:
            words[at] = words[at] * rng.choice((2, 3, 200))
        elif kind == 2:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        elif kind == 3:
            words[at] = rng.choice(STRANGE).encode("utf-8")
        else:
            words[at] = edit_bytes(rng, words[at], 2)
    return b"".join(words)


def mangle_toml(rng: random.Random, content: bytes) -> bytes:
    return mangle_text(rng, content, rb"\w+|\s+|.")


def mangle_dicom(rng: random.Random, content: bytes) -> bytes:
    """Mostly within the data elements, which follow the preamble."""
    if rng.random() < 0.3:
        return edit_bytes(rng, content)
    end = min(len(content), 1000)
    return content[:128] + edit_bytes(rng, content[128:end], 4) + content[end:]


# The families.


def csv_family(folder: Path) -> list[Seed]:
    raw, argv = own_raw(folder)
    return [Seed(argv, (raw / "metadata.csv",), mangle_csv, ("metadata.csv", "raw"))]


def typed_family(folder: Path) -> list[Seed]:
    """Parquet, with images of its own and without, and a spreadsheet."""
    raw, argv = own_raw(folder)
    frame = pd.DataFrame(ROWS, columns=HEADER).assign(age=[40, 40, -1, 71])
    frame.to_parquet(raw / "table.parquet")
    images = [{"bytes": noise(n), "path": row[0]} for n, row in enumerate(ROWS)]
    frame.assign(file=images).to_parquet(raw / "images.parquet")
    (raw / "table.xlsx").write_bytes(workbook({"S": [HEADER, *ROWS]}))
    manglers = {
        "table.parquet": mangle_parquet,
        "table.xlsx": mangle_sheet,
        "images.parquet": mangle_parquet,
    }
    return [
        Seed((*argv, "--table", name), (raw / name,), mangle, (name, "raw"))
        for name, mangle in manglers.items()
    ]


def image_rows(count: int) -> list[list[str]]:
    return [[f"x{i}.jpg", "1", f"p{i}", "nv", "1", "leg", "40", "no", "no"] for i in range(count)]


def image_family(folder: Path) -> list[Seed]:
    """An image of each kind, twice, all of them mangled at once."""
    kinds = [
        *(("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "RGBA")),
        *(("PNG", "P"), ("PNG", "I;16"), ("TIFF", "RGB"), ("BMP", "RGB"), ("GIF", "P")),
        ("WEBP", "RGB"),
    ]
    encoded = [noise(5, kind, "L" if mode == "I;16" else mode) for kind, mode in kinds]
    encoded = [*encoded, *bombs(), *encoded, *bombs()]
    rows = image_rows(len(encoded) + 1)
    raw, argv = own_raw(folder, rows)
    victims = tuple(raw / "images" / row[0] for row in rows[1:])  # one stays whole
    for path, content in zip(victims, encoded, strict=True):
        path.write_bytes(content)
    argv = (*argv, "--max-corrupt", "1", "--shorter-side", "16")
    return [Seed(argv, victims, edit_bytes, ("images",))]


def bombs() -> list[bytes]:
    """Small files that say they are enormous."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1_000_000), 9)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000), 9))
    plain = noise(1, "PNG")
    return [png, plain[:33] + text + plain[33:]]


def dicom_family(folder: Path) -> list[Seed]:
    pytest.importorskip("pydicom", reason="needs the extra 'dicom'")
    raw, argv = own_raw(folder, image_rows(11))
    pixels = np.random.default_rng(1).integers(0, 255, (24, 30, 3), dtype=np.uint8)
    victims = tuple(raw / "images" / f"x{i}.dcm" for i in range(1, 11))
    for path in victims:
        path.with_suffix(".jpg").unlink()
        path.write_bytes(dicom(pixels, "RGB"))
    return [Seed((*argv, "--max-corrupt", "1"), victims, mangle_dicom, ("images",))]


def zip_family(folder: Path) -> list[Seed]:
    """A whole dataset in a zip file, and images of one in a zip file within the folder."""
    raw, argv = own_raw(folder)
    whole = folder / "whole.zip"
    paths = [path for path in sorted(raw.rglob("*")) if path.is_file()]
    whole.write_bytes(zipped({str(path.relative_to(raw)): path.read_bytes() for path in paths}))
    shutil.rmtree(raw / "images")
    inner = raw / "images.zip"
    inner.write_bytes(zipped({row[0]: noise(number) for number, row in enumerate(ROWS)}, 0))
    in_zip = tuple(whole if word == raw else word for word in argv)
    return [
        Seed(in_zip, (whole,), mangle_zip, ("whole.zip", ".jpg", "metadata.csv")),
        Seed(argv, (inner,), mangle_zip, ("images.zip", "raw", ".jpg")),
    ]


def schema_family(folder: Path) -> list[Seed]:
    _, argv = own_raw(folder)
    names = ("schema.toml", "metadata.csv", "raw")
    return [Seed(argv, (folder / "schema.toml",), mangle_toml, names)]


def hdf5_family(folder: Path) -> list[Seed]:
    raw, argv = own_raw(folder)
    with h5py.File(raw / "images.hdf5", "w") as file:
        for number, row in enumerate(ROWS):
            file[row[0].removesuffix(".jpg")] = np.void(noise(number))
    argv = (*argv, "--images", "images.hdf5", "--max-corrupt", "1")
    return [Seed(argv, (raw / "images.hdf5",), edit_bytes, ("images.hdf5", ".jpg"))]


def made_cohort(folder: Path) -> Path:
    _, argv = own_raw(folder)
    made = folder / "made"
    quiet(*(made if word == TARGET else word for word in argv))
    return made


def shard_family(folder: Path) -> list[Seed]:
    """An export as tar files: a shard, a table of it, and the file that lists them."""
    made, shards = made_cohort(folder), folder / "shards"
    quiet("data", "export", made, "--format", "webdataset", "--out", shards)
    tables = sorted((shards / "tables").glob("*.parquet"))
    listing, tars = shards / "export.json", sorted(shards.glob("*.tar"))

    def list_again(rng: random.Random) -> None:
        """Mostly, so that more is looked at than hashes."""
        content = json.loads(listing.read_bytes())
        for entry in content["files"]:
            entry["sha256"] = hashlib.sha256((shards / entry["name"]).read_bytes()).hexdigest()
        if rng.random() < 0.9:
            listing.write_text(json.dumps(content))

    def mangle_listing(rng: random.Random, content: bytes) -> bytes:
        return mangle_text(rng, content, rb'\w+|\s+|"|.')

    argv = ("data", "import", "webdataset", shards, TARGET)
    names = ("shards", "images read")
    return [
        Seed(argv, (tars[0],), edit_bytes, names, list_again),
        Seed(argv, (tables[0],), mangle_parquet, names, list_again),
        Seed(argv, (listing,), mangle_listing, names),
        Seed(argv, (tables[-1],), mangle_parquet, names, list_again),
    ]


def sketch_family(folder: Path) -> list[Seed]:
    """`data sketch` of tables that nobody looked at yet."""
    seeds = [*csv_family(folder / "text"), *typed_family(folder / "typed")]
    return [
        dataclasses.replace(seed, argv=("data", "sketch", path, "--out", TARGET))
        for seed in seeds
        for path in seed.victims
    ]


def cohort_family(folder: Path) -> list[Seed]:
    """`data check` of a cohort whose files were damaged."""
    made = made_cohort(folder)
    return [
        Seed(("data", "check", made), (path,), mangle, ("made", ".parquet", ".bin"))
        for path in sorted(made.iterdir())
        for mangle in [mangle_parquet if path.suffix == ".parquet" else edit_bytes]
    ]


def quiet(*words: object) -> None:
    """Runs a command that must succeed."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main([str(word) for word in words]) == 0


FAMILIES: dict[str, tuple[Callable[[Path], list[Seed]], int]] = {
    "csv": (csv_family, 140),
    "typed": (typed_family, 90),
    "image": (image_family, 1400),
    "dicom": (dicom_family, 220),
    "zip": (zip_family, 90),
    "schema": (schema_family, 110),
    "hdf5": (hdf5_family, 16),
    "shard": (shard_family, 16),
    "sketch": (sketch_family, 24),
    "cohort": (cohort_family, 12),
}
"""Family -> what it begins with, and how many files to mangle, a quarter in the fast test."""


# What must hold.


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """All that is in a folder, by path, with size and time of change."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_size, status.st_mtime_ns) if path.is_file() else (0, 0)
    return found


def problem(seed: Seed, target: Path) -> str | None:
    """What is wrong with how the command takes the input, or None."""
    before = files(target.parent.parent)
    out, err, began = io.StringIO(), io.StringIO(), time.perf_counter()
    words = [str(target) if word == TARGET else str(word) for word in seed.argv]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(words)
    if (took := time.perf_counter() - began) > SECONDS:
        return f"took {took:.1f} s"
    said = err.getvalue()
    if status not in (0, 2):
        return f"status {status}: {said}"
    written = TARGET in seed.argv and status == 0
    if written != target.exists():
        return f"status {status}, but the target is {'' if target.exists() else 'not '}there"
    if target.is_dir() and (wrong := unsound(target)):
        return wrong
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    after = files(target.parent.parent)
    if after != before:
        return f"left or changed: {sorted(dict(set(after.items()) ^ set(before.items())))}"
    return unclear(said, seed.names) if status else None


def unclear(said: str, names: tuple[str, ...]) -> str | None:
    """What is wrong with a refusal, or None."""
    message = said[said.index("slimp: error: ") :]
    if message.count("\n") != 1 or not 40 < len(message) < 4000:
        return f"not one paragraph: {message[:300]!r} ({len(message)} characters)"
    if not message[:-1].isprintable():
        return f"not readable: {message!r}"
    if not any(name in message for name in names):
        return f"does not name the file: {message}"
    return None


def unsound(target: Path) -> str | None:
    """What is wrong with a cohort, or None."""
    cohort = Cohort.load(target)
    if not 1 <= len(cohort) <= 30:
        return f"has {len(cohort)} images"
    ids = cohort.tables.images[["image_id", "lesion_id", "patient_id"]]
    if ids.isna().any().any() or ids.eq("").any().any() or ids["image_id"].duplicated().any():
        return "has odd ids"
    for row in range(len(cohort)):
        with Image.open(io.BytesIO(cohort.read_image(row))) as picture:
            picture.load()
            if picture.mode != "RGB" or picture.format not in ("JPEG", "PNG"):
                return f"holds a {picture.format} of mode {picture.mode}"
    return None


def run(
    family: str, folder: Path, first: int, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The problems met with so many inputs of a family, beginning with the number `first`."""
    prepare, _ = FAMILIES[family]
    place = folder / "inputs"
    (folder / "beside").mkdir(parents=True)
    (folder / "beside" / "precious.txt").write_text("somebody's work")
    place.mkdir()
    monkeypatch.chdir(folder / "beside")
    seeds, met = prepare(place), []
    for seed in seeds:
        target = folder / "out" / "cohort"
        target.parent.mkdir(exist_ok=True)
        wrong = problem(seed, target)
        assert wrong is None, f"the input that is not mangled: {wrong}"
    for number in count(first):
        rng = random.Random(f"{family} {number}")
        seed = seeds[number % len(seeds)]
        sound = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        for victim in seed.victims:
            victim.write_bytes(seed.mangle(rng, sound[victim]))
        seed.afterwards(rng)
        if wrong := problem(seed, folder / "out" / "cohort"):
            met.append(f"{family} {number}: {wrong}")
            shutil.rmtree(folder / "out")
            (folder / "out").mkdir()
        for path, content in sound.items():
            if path in seed.victims or path.suffix == ".json":
                path.write_bytes(content)
        inputs -= len(seed.victims)
        if inputs <= 0:
            return met
    raise AssertionError


@pytest.fixture(autouse=True)
def _hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes much of the time and is tested elsewhere: power cuts."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_there_are_enough():
    assert sum(inputs for _, inputs in FAMILIES.values()) >= 2000


@pytest.mark.parametrize("first", [0, pytest.param(10**6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_mangled(family, first, tmp_path, monkeypatch):
    """The fast test takes a quarter of the inputs; the slow one others, four times as many."""
    inputs = FAMILIES[family][1] * 4 if first else -(-FAMILIES[family][1] // 4)
    met = run(family, tmp_path, first, inputs, monkeypatch)
    assert not met, f"{len(met)} met:\n" + "\n".join(met[:10])
