from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from slimp.cli.inputs import require_inputs_kept
from slimp.cli.main import main
from slimp.errors import UserError
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("cohorts") / "drawn"
    write_synthetic(target, SyntheticConfig(patients=20, lesions=2))
    return target


def test_text_is_printed_and_nothing_written(folder, capsys):
    before = sorted(path.name for path in folder.iterdir())
    assert main(["data", "check", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Cohort synthetic")
    assert "Findings: 0 errors" in printed.out
    assert sorted(path.name for path in folder.iterdir()) == before


def test_flags_reach_the_check_and_the_page_and_json_is_all_that_is_printed(
    folder, capsys, tmp_path
):
    out = tmp_path / "audit"
    words = ["data", "check", str(folder), "--no-near-duplicates", "--no-images"]
    assert main([*words, "--out", str(out), "--format", "json"]) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["usable"] is True
    assert content == json.loads((out / "metrics.json").read_text())
    assert f"written: {out}" in printed.err
    assert content["duplicate_pairs"]["near"] is None
    page = (out / "report.html").read_text()
    assert "Only pixel-identical images were looked for." in page
    assert "<img" not in page
    config = json.loads((out / "config.json").read_text())
    assert config["near_duplicates"] is False


def test_an_unusable_cohort_exits_with_2_and_still_leaves_its_page(tmp_path, capsys):
    target, out = tmp_path / "one", tmp_path / "audit"
    write_synthetic(target, SyntheticConfig(patients=1, lesions=3))
    assert main(["data", "check", str(target), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "not usable as it is" in printed.err
    assert "one-patient" in printed.out
    assert "cannot be used as it is" in (out / "report.html").read_text()


def test_overwriting_what_is_read_is_refused(folder, tmp_path, capsys):
    """The folder itself, one that holds it, and by another name."""
    (tmp_path / "same").symlink_to(folder)
    before = sorted(path.name for path in folder.iterdir())
    for out in (folder, folder.parent, tmp_path / "same"):
        assert main(["data", "check", str(folder), "--out", str(out), "--overwrite"]) == 2
        assert "which is read" in capsys.readouterr().err
    words = ["data", "export", str(folder), "--format", "webdataset", "--out", str(folder)]
    assert main([*words, "--overwrite"]) == 2
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_text_too_long_for_a_path_is_no_input(tmp_path, monkeypatch):
    """A citation, and a flag that is empty where the folder to write holds the current one."""
    monkeypatch.chdir(tmp_path)
    arguments = SimpleNamespace(out=tmp_path, overwrite=True, citation="long " * 100, reason="")
    require_inputs_kept(arguments)
    with pytest.raises(UserError, match="which is read"):
        require_inputs_kept(SimpleNamespace(**vars(arguments), raw=[tmp_path / "."]))


def test_an_interrupted_check_leaves_no_folder(folder, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("slimp.report.audit.render_audit", stop)
    out = tmp_path / "audit"
    assert main(["data", "check", str(folder), "--out", str(out)]) == 130
    assert list(tmp_path.iterdir()) == []
