"""A run folder: who may write to it, its log, its progress bar, and signals."""

from __future__ import annotations

import signal
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch

from slimp.data.files import read_json, write_json
from slimp.data.signals import deferred_signals
from slimp.errors import CheckpointError, UserError
from slimp.training.checkpoint import Progress
from slimp.training.config import PretrainConfig
from slimp.training.run_folder import (
    Log,
    open_record,
    open_run,
    read_log,
    resolve_settings,
    versions,
)


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig.from_preset("tiny", **{"precision": "32", **changes})


def begin(out: Path, settings: PretrainConfig, **flags: bool) -> PretrainConfig:
    """Resolves the settings, then opens the folder, as `pretrain` does."""
    settings = resolve_settings(out, settings, **{"resume": False, "overwrite": False, **flags})
    open_run(out, {"pretrain": asdict(settings)}, resume=flags.get("resume", False))
    return settings


# ------------------------------------------------------------------ the folder


def test_resolving_writes_nothing_and_opening_leaves_what_repeats_the_run(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    assert resolve_settings(out, config(), resume=False, overwrite=False) == config()
    assert list(tmp_path.iterdir()) == []
    settings = begin(out, config(seed=7), resume=True)  # there is nothing to resume
    content = read_json(out / "config.json")
    assert PretrainConfig(**content["pretrain"]) == settings
    assert content["versions"] == versions()
    assert {"python", "slimp", "torch", "timm", "numpy"} <= set(content["versions"])
    assert content["versions"]["torch"].startswith(torch.__version__.partition("+")[0])


def test_a_folder_in_use_is_refused_or_emptied(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    for flags, named in (({}, "--overwrite"), ({"resume": True}, "no run to resume")):
        with pytest.raises(UserError, match=named):
            begin(tmp_path, config(), **flags)
    with pytest.raises(UserError):  # it is not a folder that slimp wrote
        begin(tmp_path, config(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    (tmp_path / "metrics.json").touch()
    begin(tmp_path, config(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_saved_precision_counts_where_none_is_asked_for(tmp_path: Path) -> None:
    begin(tmp_path, config(precision="bf16"))
    assert begin(tmp_path, config(precision="auto"), resume=True).precision == "bf16"
    with pytest.raises(CheckpointError, match="precision='bf16'"):
        begin(tmp_path, config(precision="32"), resume=True)


HARMLESS = {
    *("accelerator", "devices", "nodes", "chunk", "compile"),
    *("checkpoint_every_steps", "keep_checkpoints", "workers", "logger"),
}


def test_a_setting_may_not_change_on_resume_unless_known_to_be_harmless(tmp_path: Path) -> None:
    """A new setting must not slip through unnoticed."""
    begin(tmp_path, config())
    changed = config(workers=5, checkpoint_every_steps=7, keep_checkpoints=9, logger="none")
    assert begin(tmp_path, changed, resume=True) == changed
    saved = read_json(tmp_path / "config.json")
    for name in {f.name for f in fields(PretrainConfig)} - HARMLESS:
        content = {**saved, "pretrain": {**saved["pretrain"], name: "something else"}}
        write_json(tmp_path / "config.json", content)
        with pytest.raises(CheckpointError, match=f"{name}='something else'"):
            resolve_settings(tmp_path, config(), resume=True, overwrite=False)


def test_settings_that_an_older_version_had_not_count_as_their_defaults(tmp_path: Path) -> None:
    begin(tmp_path, config())
    content = read_json(tmp_path / "config.json")
    for name in ("duplicates", "crop_scale", "batch_norm"):
        del content["pretrain"][name]
    write_json(tmp_path / "config.json", content)
    assert begin(tmp_path, config(), resume=True) == config()
    with pytest.raises(CheckpointError, match="duplicates='negative', not 'positive'"):
        begin(tmp_path, config(duplicates="positive"), resume=True)
    out, record = tmp_path / "record", {"finetune": {"epochs": 3}}
    new = {"finetune": {"epochs": 3, "patience": 4}}
    open_record(out, record, defaults={}, resume=True, overwrite=False)
    open_record(out, new, defaults=new, resume=True, overwrite=False)
    changed = {"finetune": {"epochs": 3, "patience": 5}}
    with pytest.raises(CheckpointError, match="patience=4, not 5"):
        open_record(out, changed, defaults=new, resume=True, overwrite=False)


@pytest.mark.parametrize("content", ["[]", "{}", '{"probe": {}}', '{"pretrain": 3}', '{"pretrain"'])
def test_settings_of_something_else_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        resolve_settings(tmp_path, config(), resume=True, overwrite=False)


# ------------------------------------------------------------------ the log


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    with Log(tmp_path, config(), Progress()) as log:
        log.write("step", Progress(step=1), loss=3.0)
        saved = Progress(step=1, log_bytes=log.length)
        log.write("step", Progress(step=2), loss=2.0)
    with Log(tmp_path, config(), saved) as log:
        log.write("step", Progress(step=2), loss=2.5)
    assert [row["loss"] for row in read_log(tmp_path)] == [3.0, 2.5]


def test_a_damaged_log_is_refused_and_an_absent_one_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step"}\n{"kind": "st')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
        read_log(tmp_path)


# ------------------------------------------------------------------ signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_defers_and_a_second_one_interrupts(number: int) -> None:
    before = signal.getsignal(number)
    with deferred_signals() as stop:
        assert not stop.wanted
        signal.raise_signal(number)
        assert stop.wanted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    with pytest.raises(RuntimeError), deferred_signals():
        raise RuntimeError
    assert signal.getsignal(number) is before
