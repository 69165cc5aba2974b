"""The model card of a run that is given away, and its settings without places of this machine.

The card (`README.md`) is written from what the run and a probe recorded, and says so where they
did not. Neither holds ids, cells or images of patients; `model.json`, which goes with them, has the
columns' names, categories, means, deviations, least and largest values.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slimp import __version__
from slimp.data.files import read_json, sha256_of
from slimp.errors import CheckpointError
from slimp.evaluation.bootstrap import FEWEST_PATIENTS, Estimate
from slimp.models.config import WEIGHTS
from slimp.models.hub import SETTINGS
from slimp.models.known_weights import PREFIX, described, known_weights
from slimp.models.persistence import read_description
from slimp.prediction.output import STATEMENT
from slimp.prediction.probe_record import read_record
from slimp.sources.export.describe import licence_header

Content = dict[str, Any]
STAGES = ("adapt", "finetune", "pretrain", "weights")
"""Sections of `config.json` by which a run was made; an adapted one has `pretrain` too."""
PLACES = {"run", "cohort", "split_file", "encoder_weights", "pseudo", "reference"}
"""Settings that may be paths; elsewhere, what begins as one alone counts as a path."""
PATH = re.compile(r"(?:weights:)?(?:[A-Za-z]:[\\/]|~?/\w|\\\\|\.{1,2}[\\/])")
SHOWN = ("balanced_accuracy", "auroc_macro_ovr", "f1_macro", "accuracy", "ece")


def published_settings(run: Path) -> Content:
    """`config.json` of a run, and of those that it started from where they are still there.

    Of whatever names a place on this machine the last part alone is kept.
    """
    if not (run / SETTINGS).is_file():
        return {}
    content: Content = read_json(run / SETTINGS)
    if "finetune" in content and "from" not in content:  # the folder of its probe has it
        above = run.resolve().parent / SETTINGS
        outer = read_json(above) if above.is_file() else {}
        content["from"] = outer.get("from", {"run": "", "weights_sha256": ""})
    found: Content = without_places(content)
    for section in ("pretrain", "weights"):
        if (name := content.get(section, {}).get("encoder_weights")) is not None:
            found[section]["initial"] = _licence_of(str(name))
    if content.get("pretrain", {}).get("pretrained"):
        found["pretrain"]["initial"] = _licence_of_timm(content["pretrain"]["encoder"])
    start = content.get("from")
    if start is not None and "settings" not in start:
        found["from"]["settings"] = _settings_of_start(str(start["run"]), start["weights_sha256"])
    return found


def _settings_of_start(run: str, weights: str) -> Content:
    """Those of the run that another started from; none if it is not there or has other weights."""
    if run.startswith(PREFIX):
        name = re.sub(r"@\d+$", "", run.removeprefix(PREFIX))
        return {"weights": {"initial": _licence_of(name)}}
    file = Path(run, WEIGHTS)
    return published_settings(Path(run)) if file.is_file() and sha256_of(file) == weights else {}


def without_places(value: Any, key: str = "") -> Any:
    """The value with the last part alone of every path in it, whichever system wrote it."""
    if isinstance(value, dict):
        return {name: without_places(x, name) for name, x in value.items()}
    if isinstance(value, list):
        return [without_places(x) for x in value]
    if isinstance(value, str) and (key in PLACES or PATH.match(value)):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def model_card(
    run: Path,
    settings: Mapping[str, Any],
    *,
    name: str | None = None,
    probe: Path | None = None,
    licence: str = "not stated",
) -> str:
    """The text of `README.md`: a header for the hub, then what the model is and is not for.

    Args:
        run: folder of the model.
        settings: as `published_settings` has them.
        name: by which `Slimp.from_pretrained` finds the model; None: a file of any name.
        probe: folder of a probe of this run, whose scores are shown.
        licence: of the weights, for whoever publishes them to state.

    Raises:
        CheckpointError: there is no model, or the probe is of another one.
    """
    header = {
        **licence_header(licence),
        "library_name": "slimp",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["slimp", "dermatology", "contrastive-learning", "tabular", "not-for-diagnosis"],
    }
    yaml = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    parts = {
        f"# {name or 'A model of slimp'}": _summary(run, name or "FILE"),
        "## Data": "\n".join(_data(settings)) or "The run does not say what it learned from.",
        "## Initial weights": "\n".join(_initial(settings)),
        "## Licence of these weights": f"{licence}. Those of data and initial weights bind too.",
        "## Scores": "None were given." if probe is None else "\n".join(_scores(run, probe)),
        "## Limits": _limits(settings),
        "## How it was made": "\n".join(_made(run, settings)),
    }
    return f"---\n{yaml}\n---\n\n" + "\n\n".join(f"{k}\n\n{v}" for k, v in parts.items()) + "\n"


def stages(settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(verb, settings) of each stage of training, the newest first."""
    while settings:
        yield next((s for s in STAGES if s in settings), "unknown"), settings
        settings = settings.get("from", {}).get("settings", {})


def _summary(run: Path, name: str) -> str:
    config, encodings, image, _ = read_description(run)
    levels = [
        f"- {level}: {', '.join(f'{f.name} ({f.kind})' for f in encoding.features)}"
        for level, encoding in encodings.items()
    ]
    reads = "\n".join(["Metadata that it can read, by level:", "", *levels]) if levels else ""
    return (
        "Features of skin-lesion images and clinical metadata, learned by nested contrastive "
        "learning (SLIMP, arXiv 2505.23709): "
        f"`{config.encoder}` at {config.image_size} px, mean {list(image['mean'])}, standard "
        f"deviation {list(image['std'])} per channel.\n\n"
        f"**{STATEMENT}** For research on representations of skin lesions: probes, retrieval, and "
        "adaptation to another cohort.\n\n"
        f'```python\nimport slimp\n\nmodel = slimp.Slimp.from_pretrained("{name}")\n```\n\n{reads}'
    ).rstrip()


def _data(settings: Mapping[str, Any]) -> Iterator[str]:
    for verb, stage in stages(settings):
        data = stage.get("data", {})
        if not data:
            continue
        unit = data.get("unit", "patients")
        yield (
            f"- {verb}: cohort '{data.get('cohort')}' (source: {data.get('source', 'unknown')}), "
            f"{data.get('train_patients', '?')} training {unit}, "
            f"{data.get('train_images', '?')} images; "
            f"{data.get('held_out_patients', 0)} {unit} held out. "
            f"Licence: {data.get('licence', 'not recorded')}. "
            + (f"Cite: {data['citation']} " if data.get("citation") else "")
            + f"Fingerprint: `{data.get('fingerprint') or 'not recorded'}`."
        )
    if settings and _start_is_unknown(settings):
        yield "- The run that this one started from is no longer there: its data are not known."


def _start_is_unknown(settings: Mapping[str, Any]) -> bool:
    found = [stage for _, stage in stages(settings)]
    return not found or any("from" in stage and not stage["from"]["settings"] for stage in found)


def _initial(settings: Mapping[str, Any]) -> Iterator[str]:
    sections = [part for _, stage in stages(settings) for part in stage.values()]
    known = [x["initial"] for x in sections if isinstance(x, dict) and "initial" in x]
    for one in known:
        yield f"- {one['title']}; licence: {one['licence']}; source: {one['source']}."
    if not known:
        unknown = _start_is_unknown(settings)
        yield "Not known: it is not recorded." if unknown else "None: it started at random."


def _licence_of(name: str) -> Content:
    known = known_weights().get(name)
    if known is None and Path(name).is_file():
        known = described(name)
    if known is None:
        last = without_places(name, "encoder_weights")
        return {"title": f"the file '{last}'", "licence": "not known", "source": "not known"}
    return {
        "title": known.title or known.name,
        "licence": known.licence,
        "source": known.source or "not known",
    }


def _licence_of_timm(encoder: str) -> Content:
    import timm

    found = timm.models.get_pretrained_cfg(encoder)
    licence = getattr(found, "license", None) or "not known"
    return {"title": f"timm's weights of {encoder}", "licence": licence, "source": "timm"}


def _scores(run: Path, probe: Path) -> Iterator[str]:
    record, found = read_record(probe), read_json(probe / "metrics.json")
    if record.get("weights_sha256") != sha256_of(run / WEIGHTS):
        raise CheckpointError(
            f"{probe}: is a probe of another run than {run}. Pass the probe of this one, or make "
            "one with: slimp probe."
        )
    cohort = without_places(str(record.get("cohort", "unknown")), "cohort")
    unit, score = record["unit"], found["balanced_accuracy"]
    splits = len(score.get("per_fold") or score["per_seed"])
    tested = f"{found['n_test']} test images of {found['n_test_patients']} {unit}"
    if splits > 1:
        tested = f"{found['n_test']} test images in each of {splits} splits, "
        tested += f"{found['n_test_patients']} {unit} in all"
    what = f"A {found['name']} probe of the frozen features"
    what = "The classifier fine-tuned end to end on the features" if "finetune" in record else what
    yield (
        f"{what} '{found['features']}' on cohort "
        f"'{cohort}', classes {', '.join(found['classes'])}; split: {found['split']}; "
        f"{tested}. 95 % intervals by a bootstrap over {unit}.\n"
    )
    yield "| metric | value [95 % interval] |\n| --- | --- |"
    yield from (f"| {name} | {_estimate(found[name])} |" for name in SHOWN if name in found)
    yield f"\n{(found.get('verdict') or {}).get('sentence', '')}"
    if record["saw_test_patients"] is not False or record["knows_test_labels"] is not False:
        yield "CAUTION: the model may have learned from patients that the probe was tested on."
    groups = (found.get("subgroups") or {}).get("groups", [])
    if not groups:
        return
    yield f"\nBalanced accuracy by subgroup:\n\n| group | {unit} | value |\n| --- | --- | --- |"
    for group in (some := [g for g in groups if g["n_patients"] >= FEWEST_PATIENTS]):
        value = _estimate(group["metrics"]["balanced_accuracy"])
        yield f"| {group['column']}: {group['group']} | {group['n_patients']} | {value} |"
    yield f"\nLeft out, with fewer than {FEWEST_PATIENTS} {unit}: {len(groups) - len(some)}."


def _estimate(entry: Mapping[str, Any]) -> str:
    mean, low, high = (float("nan") if x is None else x for x in (entry["mean"], *entry["ci95"]))
    return str(Estimate(mean=mean, ci95=(low, high), per_seed=()))


def _limits(settings: Mapping[str, Any]) -> str:
    tuned = any("finetune" in stage for _, stage in stages(settings))
    return (
        "- Figures on public or retrospective data say nothing certain about another clinic's "
        "patients, cameras or skin types; measure on your own before you rely on it.\n"
        "- It does not say which patients it learned from. A probe on data that it may have seen "
        "is optimistic.\n"
        "- Features of an image may reveal whether it was among the training images."
        + "\n- It was fine-tuned on labels: its features are of that task."
        * tuned
    )


def _made(run: Path, settings: Mapping[str, Any]) -> Iterator[str]:
    used = settings.get("versions", {})
    made = ", ".join(f"{n} {used.get(n, 'unknown')}" for n in ("slimp", "torch", "timm"))
    yield f"- Trained with {made}; this card is of slimp {__version__}."
    verb = next(stages(settings), ("unknown", {}))[0]
    text = json.dumps(settings.get(verb, {}), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    yield f"- SHA-256 of the settings (`{verb}` in `config.json`): `{digest}`"
    yield f"- SHA-256 of the weights: `{sha256_of(run / WEIGHTS)}`"
