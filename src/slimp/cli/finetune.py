"""End-to-end fine-tuning of encoders and a linear head, scored on the splits of a probe.

Leaves what slimp probe leaves, so that compare and predict take it, and a run folder per split.
Patients that choose the epoch are taken from the training part, never from the test part.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import slimp
from slimp.cli.console import note, progress_bar, say, show_cautions
from slimp.cli.flags import command_line
from slimp.cli.inputs import ReportedOutput
from slimp.cli.probe import show
from slimp.evaluation.probe_config import FullFinetuneConfig

EXAMPLE = "slimp finetune runs/mine cohorts/mine --out tuned/mine"
MAIN_FLAGS = (
    *("out", "features", "decision", "split", "seeds", "epochs", "learning_rate"),
    *("encoder_lr_scale", "patients", "modality_dropout", "malignant", "resume"),
)


@dataclass(frozen=True, kw_only=True)
class Arguments(ReportedOutput):
    """Inputs and outputs."""

    run: Path
    """Run folder to start from (read only), or weights:NAME, a published encoder as it is."""
    cohort: Path
    """Cohort folder with labels."""
    held_out: bool = True
    """Test on the patients that pre-training or an official split set aside, if there are any."""
    resume: bool = False
    """Continue the fine-tuning in --out."""
    config: FullFinetuneConfig


def run(arguments: Arguments) -> None:
    """Probes the frozen features, fine-tunes, writes the folder and prints the table."""
    from slimp.data.files import sha256_of
    from slimp.data.images import decoding_processes
    from slimp.evaluation.fine_tuning import beside_frozen, fine_tune, run_of
    from slimp.evaluation.probe_config import ProtocolConfig
    from slimp.evaluation.protocol import assess, require_possible, task_of
    from slimp.evaluation.run_features import cached_features
    from slimp.features.encode import InferenceConfig
    from slimp.prediction.probe_folder import write_probe
    from slimp.prediction.probe_record import reads_metadata
    from slimp.report.page import PageOptions, write_report
    from slimp.training.devices import device_of, precision_of
    from slimp.training.parts import earlier_table, labels_known, parts_of_run
    from slimp.training.run_folder import open_record
    from slimp.training.weights_run import as_run

    start, out, config = as_run(arguments.run), arguments.out, arguments.config
    cohort = slimp.Cohort.load(arguments.cohort)
    require_possible(cohort, config, ProtocolConfig())
    model = slimp.Slimp.from_pretrained(start)
    precision = precision_of(config.precision, config.accelerator, model.image_encoder)
    config = replace(config, precision=precision)
    source = {"run": str(arguments.run), "weights_sha256": sha256_of(start / "model.safetensors")}
    record = {"probe": asdict(config), "finetune": asdict(config), "from": source}
    parts, held_out = parts_of_run(start, cohort), arguments.held_out
    task, _ = task_of(cohort.images, config, run_parts=parts, held_out=held_out)
    defaults = dict.fromkeys(("probe", "finetune"), asdict(FullFinetuneConfig()))
    resume, overwrite = arguments.resume, arguments.overwrite
    open_record(out, record, defaults=defaults, resume=resume, overwrite=overwrite)
    device = device_of(config.accelerator)
    how = InferenceConfig(device=device, workers=decoding_processes(config.workers))
    with progress_bar("embedding images") as progress:
        table = cached_features(start, arguments.cohort, how, lacking="missing", progress=progress)
    known = labels_known(start)
    frozen = assess(table, cohort, config, run_parts=parts, labels_known=known, held_out=held_out)
    note(f"fine-tuning on {len(task.splits)} split(s) ...")
    tuned = fine_tune(model, cohort, task, config, out, how=how, earlier=earlier_table(start))
    result = beside_frozen(frozen, tuned, cohort)
    first = run_of(out, task.splits[0])
    table = slimp.embed(slimp.Slimp.from_pretrained(first), cohort, how, lacking="missing")
    where = {"held_out": held_out, "cohort": str(arguments.cohort), "pseudo": None}
    write_probe(out, result, table, cohort, run=first, record={**record, **where})
    show_cautions(cohort)
    show(result)
    if arguments.report:
        options, target = PageOptions(command=command_line(arguments)), out / "report.html"
        page = write_report(target, first, cohort, result, table=table, options=options)
        say(f"report: {page}")
    metadata = " --metadata TABLE" * reads_metadata(out)
    say(f"written: {out}; next: slimp predict {out} IMAGES{metadata}")
