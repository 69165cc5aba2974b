"""The command line from outside: exit codes, messages, streams, and how fast it answers."""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import time
import types
import warnings
from dataclasses import dataclass

import pytest

import slimp
from slimp.cli import main as cli
from slimp.cli.flags import config_field, flags_of
from slimp.errors import UserError

HEAVY = ("torch", "pandas", "numpy", "timm", "sklearn", "matplotlib", "pyarrow", "rich", "yaml")
LIGHT = (
    *("slimp.checks.report", "slimp.report.audit", "slimp.evaluation.paired_bootstrap"),
    *("slimp.experiments.run", "slimp.experiments.cost", "slimp.report.experiment"),
)
"""What `data check`, `compare`, and `experiment list` and `show` import."""
PATIENCE = 3
"""Times are those promised, times this: the machine may be busy."""


def python(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def fastest(argv: list[str], runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        assert python(*argv).returncode == 0
        times.append(time.perf_counter() - began)
    return min(times)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch):
    """Makes `slimp go` run the given function."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """None."""

    def install(action) -> None:
        module = types.ModuleType("slimp.cli.go", "Goes.")
        module.Arguments, module.run = Arguments, lambda arguments: action()
        monkeypatch.setitem(sys.modules, "slimp.cli.go", module)
        monkeypatch.setitem(cli.VERBS, "go", "goes")

    return install


def raiser(error: BaseException):
    def action() -> None:
        raise error

    return action


def test_help_answers_in_half_a_second():
    assert fastest(["-m", "slimp", "--help"]) < 0.5 * PATIENCE


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("slimp.cli.main", HEAVY),
        (
            "slimp.cli.main; [slimp.cli.main.main([*v.split(), '--help']) for v in VERBS]",
            HEAVY[:-1],
        ),
        ("slimp.cli.main; slimp.cli.main.main(['data', 'sources'])", HEAVY[:-2]),
        (f"slimp.cli.main, {', '.join(LIGHT)}", ("torch", "timm", "sklearn")),
    ],
)
def test_verbs_import_no_more_than_they_need(code, heavy):
    code = code.replace("VERBS", repr([*cli.VERBS]))
    lines = python("-c", f"import sys, {code}; print(*sys.modules)").stdout.splitlines()
    loaded = set(lines[-1].split())
    assert "slimp.cli.main" in loaded
    assert not loaded & set(heavy)


@pytest.mark.parametrize(("before", "after"), [(None, "passive"), ("active", "active")])
def test_threads_that_wait_sleep_unless_the_user_decides(before, after, monkeypatch, capsys):
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert cli.main(["--version"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == after


def test_help_names_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in cli.VERBS:
        assert re.search(rf"^  {name}  ", text, re.MULTILINE)
    assert "not a medical device" in text
    assert max(map(len, text.splitlines())) <= 100
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"slimp {slimp.__version__}\n"


@pytest.mark.parametrize(("argv", "status"), [([], 2), (["data"], 2), (["data", "--help"], 0)])
def test_half_a_command_gets_help(argv, status, capsys):
    assert cli.main(argv) == status
    captured = capsys.readouterr()
    assert "data check" in captured.out + captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pretran"], "no verb 'pretran'; did you mean 'pretrain'? See: slimp --help"),
        (["data", "chek", "x"], "no verb 'data chek'; did you mean 'data check'?"),
        (["xyzzy"], "no verb 'xyzzy'. See: slimp --help"),
    ],
)
def test_unknown_verbs_get_a_suggestion(argv, message, capsys):
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"slimp: error: {message}")
    assert captured.err.count("\n") == 1


def test_what_a_message_quotes_cannot_disturb_the_terminal(verb, capsys):
    cell = "a\nb\0\x1b[2J\u202e\udcff \u2603 " + "x" * 5000
    verb(raiser(UserError(f"table.csv: '{cell}' is no number.")))
    assert cli.main(["go"]) == 2
    message = capsys.readouterr().err
    assert "'a b\\x00\\x1b[2J\\u202e\\udcff \u2603 xxx" in message
    assert "xxx[...]xxx" in message
    assert message.endswith("x' is no number.\n")
    assert message.count("\n") == 1
    assert len(message) < 500


@pytest.mark.parametrize(("error", "status"), [(KeyError("spam"), 1), (UserError("eggs"), 2)])
def test_debug_adds_the_traceback(verb, capsys, error, status):
    verb(raiser(error))
    assert cli.main(["go", "--debug"]) == status
    message = capsys.readouterr().err
    assert "Traceback (most recent call last)" in message
    assert message.splitlines()[-1].startswith("slimp: error: ")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("table.csv, row 3: no age."), 2, "error: table.csv, row 3: no age.\n"),
        (KeyError("spam"), 1, "this is a bug in slimp: KeyError: 'spam'."),
        (OSError(errno.ENOSPC, "No space left on device", "run/x"), 2, "run/x: No space left"),
        (OSError(errno.EACCES, "Permission denied", "/x"), 2, "/x: Permission denied."),
        (MemoryError(), 2, "computer's memory is full"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 2, "device's memory is full"),
        (KeyboardInterrupt(), 130, "slimp: interrupted\n"),
    ],
)
def test_every_error_is_one_paragraph_and_a_status(verb, capsys, error, status, message):
    verb(raiser(error))
    assert cli.main(["go"]) == status
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1


def started(*lines: str) -> subprocess.Popen[str]:
    """A process in which `slimp go` runs these lines."""
    code = "\n".join(("import signal, slimp.cli.main as cli, sys, time", *lines))
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}\nsys.exit(cli.main(['go']))"],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
    )


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_sigint_ends_a_process_with_130():
    # A shell starts background jobs with SIGINT ignored, and so would be this process.
    default = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    wait = "cli._run = lambda words: (print('ready', flush=True), time.sleep(60))"
    with started(default, wait) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert (process.returncode, message) == (130, "slimp: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX systems")
def test_a_closed_pipe_is_quiet():
    write = "cli._run = lambda words: [print('row', i) for i in range(100_000)]"
    with started(write) as process:
        assert process.stdout.readline() == "row 0\n"
        process.stdout.close()
        message = process.stderr.read()
    assert (process.returncode, message) == (0, "")


def test_warnings_are_one_line(verb, capsys):
    def action() -> None:
        warnings.simplefilter("always")
        warnings.warn("--patience has\nno effect", stacklevel=1)

    verb(action)
    assert cli.main(["go"]) == 0
    assert capsys.readouterr().err == "slimp: warning: --patience has no effect\n"


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_explains_itself(name, capsys):
    module = importlib.import_module(f"slimp.cli.{name.replace(' ', '_')}")
    assert cli.main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: slimp {name}")
    assert f"Example: slimp {name}" in text
    assert len(re.findall(r"^  --", text, re.MULTILINE)) <= 14
    assert cli.main([*name.split(), "--help-all"]) == 0
    everything = capsys.readouterr().out
    nested, config = config_field(module.Arguments)
    flags = [f for f in flags_of(module.Arguments) if f.name != nested]
    for flag in (*flags, *(flags_of(config) if config else ())):
        assert flag.spelling.removeprefix("--") in everything
        assert flag.help, f"{flag.spelling} has no help"
    assert set(getattr(module, "MAIN_FLAGS", ())) <= {
        flag.name for flag in (*flags, *(flags_of(config) if config else ()))
    }


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("slimp ", {"data", "probe", "doctor"}, {"import"}),
        ("slimp data i", {"import"}, {"check", "sources"}),
        ("slimp data import ", {"synthetic"}, {"import"}),
        ("slimp pretrain cohorts/mine --le", {"--learning-rate", "--lesions"}, {"--out"}),
        ("slimp pretrain coh", set(), {"--out"}),  # bash then completes file names
        ("slimp nothing --", set(), {"--out"}),
    ],
)
def test_bash_completes_verbs_and_flags(line, some, none, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_TYPE", "9")
    assert cli.main(["slimp", line.split(" ")[-1], "slimp"]) == 0  # as bash calls it
    found = set(capsys.readouterr().out.split())
    assert some <= found
    assert not none & found
    assert all(word.startswith(line.split(" ")[-1]) for word in found)
