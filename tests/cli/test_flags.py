"""Flags and config files derived from dataclasses."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimp.cli.flags import (
    REQUIRED_FLAG,
    command_line,
    flags_of,
    parse,
    read_config,
    to_yaml,
)
from slimp.errors import UserError
from slimp.training.config import PRESETS, PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Part:
    """Settings of a part."""

    rate: float = 0.5
    """Per second; 100% of it."""


@dataclass(frozen=True, kw_only=True)
class Settings(Part):
    """Settings of the whole."""

    preset: Literal["plain", "fast"] = "plain"
    """A set of defaults."""
    steps: int = 10
    """How many."""
    precision: Literal["32", "bf16"] = "32"
    """Of numbers."""
    layers: Literal[1, 2] = 2
    """One or two."""
    workers: int | Literal["auto"] = "auto"
    """That decode."""
    seeds: tuple[int, ...] = (0, 1)
    """One result each."""
    shots: tuple[int, ...] | None = None
    """Per class; all without it."""
    names: tuple[str, ...] = ()
    """Of classes."""
    label: str | None = None
    """Always taken."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the encoder."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """New names."""
    crops: bool = True
    """Cut images."""
    weights: Path | None = None
    """Where they lie."""

    def __post_init__(self) -> None:
        if self.steps <= 0:
            raise UserError(f"steps must be positive, got {self.steps}.")

    @classmethod
    def preset_values(cls, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        fast = {"steps": 1, "rate": 9.0} if name == "fast" else {}
        return {"preset": name, **fast, **changes}


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Inputs and outputs."""

    source: str
    """What to read."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Where to write."""
    overwrite: bool = False
    """Replace."""
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Many:
    """Inputs."""

    first: Path
    """One."""
    rest: tuple[Path, ...]
    """Some."""
    more: int = 0
    """A flag between."""


def read(*argv: str) -> Verb:
    return parse(["here", "--out", "there", *argv], Verb, command="slimp go")


def help_of(*argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(argv, Verb, command="slimp go", example="slimp go x", shown=("steps", "rate"))
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_fields_become_arguments():
    verb = read()
    assert verb == Verb(source="here", out=Path("there"), overwrite=False, settings=Settings())
    assert read("--overwrite").overwrite
    found = parse(["a", "b", "-"], Many, command="slimp go")
    assert found == Many(first=Path("a"), rest=(Path("b"), Path("-")))
    assert parse(["--out", "o", "here"], Verb, command="slimp go").source == "here"
    found = parse(["a", "b", "--more", "2", "c"], Many, command="slimp go")
    assert (found.rest, found.more) == ((Path("b"), Path("c")), 2)


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--rate", "1e-3"], "rate", 1e-3),
        (["--rate=2"], "rate", 2.0),
        (["--rate", "-2"], "rate", -2.0),
        (["--steps", "3"], "steps", 3),
        (["--precision", "32"], "precision", "32"),
        (["--layers", "1"], "layers", 1),
        (["--workers", "2"], "workers", 2),
        (["--workers", "auto"], "workers", "auto"),
        (["--seeds", "4"], "seeds", (4,)),
        (["--seeds=4,5"], "seeds", (4, 5)),
        (["--seeds=[4, 5]"], "seeds", (4, 5)),
        (["--shots", "1,5"], "shots", (1, 5)),
        (["--shots", "null"], "shots", None),
        (["--label", "007"], "label", "007"),
        (["--names", "007, 1.10,no"], "names", ("007", "1.10", "no")),
        (["--names", "['a, b']"], "names", ("a, b",)),
        (["--seeds", "010"], "seeds", (10,)),
        (["--options", "{depth: 2, name: x}"], "options", {"depth": 2, "name": "x"}),
        (["--options", "depth=2", "--options=name=x"], "options", {"depth": 2, "name": "x"}),
        (["--rename", "age=7"], "rename", {"age": "7"}),
        (["--no-crops"], "crops", False),
        (["--crops"], "crops", True),
        (["--weights", "a/b.pt"], "weights", Path("a/b.pt")),
    ],
)
def test_values_take_the_type_of_their_field(argv, name, value):
    found = getattr(read(*argv).settings, name)
    assert found == value
    assert type(found) is type(value)


def test_flags_beat_the_file_which_beats_the_preset_which_beats_defaults(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("steps: 7\npreset: fast\n")
    from_file = ["--config", str(file)]
    assert (Settings().steps, Settings().rate) == (10, 0.5)
    assert read("--preset", "fast").settings.steps == 1
    assert read(*from_file).settings.steps == 7
    assert read(*from_file).settings.rate == 9.0  # of the preset that the file names
    assert read(*from_file, "--preset", "plain").settings.rate == 0.5
    assert read("--steps", "8", *from_file).settings.steps == 8  # whatever the order


def test_a_file_means_the_same_as_flags(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(
        "precision: 32\nlayers: 1\nseeds: 3\nshots: [1, 5]\nlabel: 7\noptions: {depth: 2}\n"
        "crops: false\nrate: 1e-3\nweights: a/b.pt\n"
    )
    want = Settings(
        layers=1,
        seeds=(3,),
        shots=(1, 5),
        label="7",
        options={"depth": 2},
        crops=False,
        rate=1e-3,
        weights=Path("a/b.pt"),
    )
    assert read("--config", str(file)).settings == want
    file.write_text(json.dumps({"go": {"steps": 3}, "versions": {"torch": "2"}}))
    assert read("--config", str(file)).settings == Settings(steps=3)  # a verb's config.json


def test_print_config_needs_no_other_argument_and_reads_back(tmp_path, capsys):
    argv = ["--print-config", "--preset", "fast", "--seeds", "3", "--options", "{a: {b: 1.5}}"]
    with pytest.raises(SystemExit) as stop:
        parse(argv, Verb, command="slimp go")
    assert stop.value.code == 0
    file = tmp_path / "settings.yaml"
    file.write_text(capsys.readouterr().out)
    assert "# One result each.\nseeds:\n- 3\n" in file.read_text()
    assert read("--config", str(file)).settings == Settings(
        preset="fast", steps=1, rate=9.0, seeds=(3,), options={"a": {"b": 1.5}}
    )


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], ""),
        (["--overwrite"], ""),  # which would not be typed again
        (["--steps", "10"], ""),  # as usual
        (["--no-crops", "--rate=2", "--label", "a b"], "--label 'a b' --no-crops --rate 2.0"),
        (["--names", "x,007", "--rename", "a=b"], "--names x,007 --rename a=b"),
    ],
)
def test_a_command_is_repeated_with_what_is_not_as_usual(argv, line):
    verb = read(*argv)
    said = command_line(verb)
    assert said == f"slimp test flags here --out there {line}".strip()
    assert parse(shlex.split(said)[3:], Verb, command="slimp go").settings == verb.settings


@hypothesis.settings(max_examples=15, deadline=None)
@given(
    rate=st.floats(1e-9, 1e9),
    steps=st.integers(1, 10**9),
    seeds=st.lists(st.integers(0, 2**31)).map(tuple),
    shots=st.none() | st.lists(st.integers(1, 99)).map(tuple),
    precision=st.sampled_from(["32", "bf16"]),
    crops=st.booleans(),
    label=st.none() | st.from_regex(r"[A-Za-z][A-Za-z_ -]{0,8}[A-Za-z_]", fullmatch=True),
    options=st.dictionaries(
        st.from_regex(r"[a-z]{3,6}_", fullmatch=True),
        st.integers() | st.booleans() | st.floats(0, 1),
    ),
)
def test_every_config_survives_a_file(tmp_path_factory, **values):
    settings = Settings(**values)
    file = tmp_path_factory.mktemp("round") / "settings.yaml"
    file.write_text(to_yaml(settings), encoding="utf-8")
    assert Settings(**read_config(file, Settings)) == settings


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_pretraining_survive_a_file(tmp_path, preset):
    config = PretrainConfig.from_preset(preset, seed=3, always_include="malignant")
    file = tmp_path / "config.json"
    for text in (json.dumps(asdict(config)), to_yaml(config)):
        file.write_text(text)
        assert PretrainConfig(**read_config(file, PretrainConfig)) == config


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--step", "3"], "no flag '--step'; did you mean --steps? See: slimp go --help"),
        (["--zzzzz"], "no flag '--zzzzz'. See"),
        (["--lr", "3"], "no flag '--lr'. See"),  # not the nearest of wrong ones
        (["--num-workers", "3"], "no flag '--num-workers'; here it is --workers. See"),
        (["--FP16"], "no flag '--FP16'; here it is --precision. See"),
        (["--steps", "many"], "--steps: takes a whole number, got 'many'."),
        (["--steps", "2.5"], "--steps: takes a whole number, got '2.5'."),
        (["--rate", "nan"], "--rate: takes a number, got 'nan'."),
        (["--rate", "null"], "--rate: takes a number, got 'null'."),
        (["--precision", "64"], "--precision: takes one of 32, bf16, got '64'."),
        (["--workers", "many"], "--workers: takes a whole number or auto, got 'many'."),
        (["--shots", "few"], "--shots: takes a list such as 1,2,3, got 'few'."),
        (["--options", "3"], "--options: takes a pair such as key=value"),
        (["--rename", "a=b", "--rename", "a=c"], "--rename gives one key twice."),
        (["--steps"], "--steps: expected one argument."),
        (["--config"], "--config: expected one argument."),
        (["--preset", "slow"], "--preset: takes one of plain, fast, got 'slow'."),
        (["there"], "unexpected argument 'there'."),
        (["--crops=3"], "--crops"),
        (["--steps", "0"], "steps must be positive, got 0."),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot read the config file"),
    ],
)
def test_mistakes_are_named_in_one_sentence(argv, named):
    with pytest.raises(UserError) as error:
        read(*argv)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flag_that_is_none_is_named_before_what_is_missing():
    with pytest.raises(UserError, match=r"no flag '--output'; here it is --out\."):
        parse(["--output=there"], Verb, command="slimp go")


@pytest.mark.parametrize(
    ("argv", "named"),
    [(["here"], "missing --out"), (["--out", "x"], "missing SOURCE")],
)
def test_what_is_missing_is_named(argv, named):
    with pytest.raises(UserError, match=named):
        parse(argv, Verb, command="slimp go")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("stepps: 3", "'stepps'; did you mean --steps?"),
        ("steps: many", "'steps' takes a whole number, got 'many'"),
        ("steps: null", "'steps'"),
        ("crops: 3", "'crops' takes true or false"),
        ("seeds: [a]", "'seeds'"),
        ("steps: [", "YAML"),
        ("", "key: value"),
    ],
)
def test_mistakes_in_a_file_name_the_file_and_the_key(tmp_path, content, named):
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        read("--config", str(file))
    assert str(error.value).startswith(f"{file}: ")
    assert named in str(error.value)


def test_help_shows_an_example_and_the_main_flags_and_help_all_every_flag(capsys):
    text = help_of("--help", capsys=capsys)
    assert text.startswith("usage: slimp go SOURCE --out PATH [FLAGS] Example: slimp go x")
    assert "--steps N How many. (default: 10; fast: 1)" in text
    assert "--rate X Per second; 100% of it. (default: 0.5; fast: 9.0)" in text
    assert "--seeds" not in text
    assert "--help-all" in text
    everything = help_of("--help-all", capsys=capsys)
    assert "--[no-]crops Cut images. (on by default)" in everything
    assert "--overwrite Replace. " in everything
    assert "Settings of the whole: --preset plain|fast" in everything
    assert "Settings of a part: --rate" in everything
    for flag in flags_of(Settings):
        assert flag.spelling.removeprefix("--") in everything
