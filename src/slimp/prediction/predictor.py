"""A saved probe, its encoders and its reference, ready for new images.

Axis names: q = images, d = width, k = classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from torch import Tensor

from slimp.data.encoding import Encoding, FittedFeature
from slimp.data.schema import Feature, LevelName, Schema
from slimp.errors import UserError
from slimp.evaluation.conformal import Conformal, Coverage
from slimp.evaluation.logistic import LinearProbe
from slimp.evaluation.metrics import Array
from slimp.evaluation.probe_config import LEAKING, RULES
from slimp.features.design import Design, RawTable
from slimp.features.encode import InferenceConfig, embed_images, embed_rows
from slimp.features.feature_sets import METADATA_KEYS, RELATIVE_TABLE, TABLE
from slimp.features.feature_table import FeatureTable
from slimp.features.relative import OUTLIER
from slimp.models.nested import Slimp
from slimp.prediction.config import PredictConfig
from slimp.prediction.inputs import (
    Metadata,
    Read,
    features_read,
    find_images,
    known_features,
    read_by_model,
    read_pixels,
    with_imputed,
)
from slimp.prediction.metadata_cautions import without_metadata
from slimp.prediction.novelty import Surroundings, load_reference
from slimp.prediction.probe_folder import levels_of, read_calibration, read_model
from slimp.prediction.probe_record import open_probe
from slimp.prediction.result import OTHERWISE, UNCALIBRATED, Batch, Prediction, far_out, refused


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictor:
    """Everything a prediction needs; make one with `load`.

    Example:
        >>> import tempfile, slimp.cli.main as cli
        >>> with tempfile.TemporaryDirectory() as d:
        ...     for line in (
        ...         f"data import synthetic - {d}/c --patients 40 --image-size 32",
        ...         f"pretrain {d}/c --out {d}/r --preset tiny --image-size 32 --epochs 1",
        ...         f"probe {d}/r {d}/c --out {d}/p --features image --seeds 1 --no-report",
        ...     ):
        ...         assert cli.main(line.split()) == 0
        ...     predictor = Predictor.load(f"{d}/p")
        >>> predictor.reads
        0
    """

    model: Slimp
    probe: LinearProbe
    reference: FeatureTable
    surroundings: Surroundings
    conformal: Conformal
    verified: Coverage
    """Coverage found on patients that the thresholds were not calibrated on."""
    schema: Schema
    """What the probe learned from: of its cohort, and of the model where metadata were imputed."""
    record: Mapping[str, Any]
    """As `read_record` gives it."""
    config: PredictConfig
    device: torch.device

    @classmethod
    def load(
        cls,
        folder: str | Path,
        config: PredictConfig | None = None,
        *,
        run: str | Path | None = None,
        device: str = "cpu",
    ) -> Predictor:
        """The predictor of a folder that `slimp probe` wrote, or of a bundle that holds one.

        `run` is the folder of the encoders; None: where the probe says.

        Raises:
            UserError: the folder is not such a one, or its parts do not fit each other.
        """
        config = config or PredictConfig()
        folder, run, record = open_probe(Path(folder), run)
        probe = LinearProbe.load(folder)
        reference = load_reference(folder)
        model = read_model(record, run, folder)
        levels_of(probe, reference, model)  # refuses what does not fit
        conformal, verified = read_calibration(folder, probe, config.coverage, config.per_class)
        patients = reference.ids["patient_id"].to_numpy(dtype=str)
        return cls(
            model=model,
            probe=probe,
            reference=reference,
            surroundings=Surroundings.of(reference.features["image"], patients),
            conformal=conformal,
            verified=verified,
            schema=with_imputed(Schema.from_dict(record["schema"]), model, reference.imputed),
            record=record,
            config=config,
            device=torch.device(device),
        )

    def __repr__(self) -> str:
        classes = ", ".join(self.probe.classes)
        return f"Predictor({self.probe.features!r} of {self.model!r}; classes: {classes})"

    @property
    def levels(self) -> tuple[LevelName, ...]:
        """Levels whose metadata the probe reads as embeddings."""
        return levels_of(self.probe, self.reference, self.model)

    @property
    def features(self) -> list[tuple[Feature, FittedFeature]]:
        """The metadata features that it reads, as embeddings or as they are."""
        return features_read(self.encodings, self.schema)

    @property
    def reads(self) -> int:
        """Number of metadata features that it reads."""
        return len(self.features)

    @property
    def encodings(self) -> list[Encoding]:
        """Those of the model, as far as the probe's cohort had the columns, and the probe's."""
        levels = (read_by_model(self.model, level, self.schema) for level in self.levels)
        return [*levels, *self.probe.encodings]

    @property
    def imputed(self) -> list[str]:
        """Features that it reads and that were imputed by retrieval where it learned."""
        used = [METADATA_KEYS[level] for level in self.levels]
        return [name for name in self.reference.imputed if name in used]

    @property
    def spares_metadata(self) -> bool:
        """Whether it learned to answer where all metadata are missing."""
        tuned = self.record.get("finetune", {}).get("modality_dropout", 0)
        return bool(tuned or self.probe.blanked_copies)

    @property
    def compares(self) -> bool:
        """Whether it reads what sets a lesion apart from the patient's other lesions."""
        return self.probe.features == "relative"

    @property
    def can_refuse(self) -> bool:
        """Whether the reference is large enough for any image to count as out of distribution."""
        return 1 / (1 + len(self.surroundings.usual)) < self.config.novelty

    @property
    def always_in_the_set(self) -> list[str]:
        """Classes with too few calibration patients to be left out of any set."""
        thresholds = self.conformal.thresholds
        return [c for c, t in zip(self.probe.classes, thresholds, strict=True) if np.isinf(t)]

    @property
    def decision_rule(self) -> str:
        """How `decision` follows from the probabilities, in words."""
        return RULES[self.probe.decision]

    def cautions(self) -> list[str]:
        """What weakens all results, in sentences."""
        found = []
        if self.record.get("saw_test_patients") or self.record.get("knows_test_labels"):
            what = "labels of" if self.record.get("knows_test_labels") else "images of"
            found.append(
                f"The run learned from {what} patients that the probe was tested on, so "
                "probabilities, sets and their coverage are optimistic."
            )
        if (mode := self.record["probe"].get("split")) in LEAKING:
            found.append(
                f"The probe was made with --split {mode}, so patients who calibrate it may have "
                "trained it too: sets and their coverage are optimistic. Use a split by patient."
            )
        if self.record.get("unit") == "lesions":
            found.append(
                "The cohort of the probe has no patient ids, so lesions stood for patients: one "
                "person may have trained it and calibrate it, and sets and their coverage are "
                "optimistic for new patients."
            )
        if self.config.novelty and not self.can_refuse:
            found.append(
                f"The reference has only {len(self.reference)} images, too few to call any image "
                f"out of distribution at --novelty {self.config.novelty:g}."
            )
        if self.imputed:
            found.append(
                f"The probe learned from metadata imputed by retrieval ({', '.join(self.imputed)})."
            )
        return found

    def predict(
        self,
        images: Iterable[str | Path],
        metadata: str | Path | pd.DataFrame | None = None,
    ) -> list[Prediction]:
        """A prediction per image, in the order of `find_images`; see `stream`."""
        paths = find_images(images)
        return list(self.stream(paths, self.metadata(metadata, paths)))

    def metadata(
        self, source: str | Path | pd.DataFrame | None, paths: Sequence[Path]
    ) -> Metadata | None:
        """The metadata of these images, read and matched.

        None if the probe reads none, or if there are none and it learned to do without.

        Raises:
            UserError: the probe reads metadata and there are none, or they do not fit.
        """
        encodings = self.encodings
        if not encodings and (source is None or not self.compares):
            return None
        if source is None and self.spares_metadata:
            return None
        if source is None:
            levels = dict.fromkeys(encoding.level for encoding in encodings)
            raise UserError(without_metadata(self.probe.features, [*levels], self.imputed))
        every = Metadata.read(source, encodings, self.schema)
        found = every.of_images(paths)
        if not len(found.frame):
            raise UserError(
                f"no row of the metadata table is about any of the {len(paths)} image(s): it has "
                f"'{every.frame.index[0]}', they are '{paths[0].name}' and so on. Its column "
                "'image' must hold the files' names."
            )
        return found

    def stream(
        self, paths: Sequence[Path], metadata: Metadata | None, read: Read = Path.read_bytes
    ) -> Iterator[Prediction]:
        """Predictions one batch after the other, in the order of `paths`.

        `metadata` are those of these files (see `metadata`), `read` gives their bytes.
        """
        size = self.config.batch_size
        some = (paths[first : first + size] for first in range(0, len(paths), size))
        batches = (self._embed(part, metadata, read) for part in some)
        if self.compares:  # with lesions of any batch, so all are embedded first
            batches = (Batch.joined(every) for every in [list(batches)])
        for batch in batches:
            found = self._answer(batch, metadata)
            yield from (found[path] for path in batch.paths)

    def _embed(self, paths: Sequence[Path], metadata: Metadata | None, read: Read) -> Batch:
        """Embeddings of the images that can be predicted."""
        found: dict[Path, Prediction] = {}
        pixels: dict[Path, Tensor] = {}
        for path in paths:
            square = read_pixels(path, self.model.image_spec.size, read)
            if isinstance(square, Prediction):
                found[path] = square
            elif metadata is not None and str(path) not in metadata.frame.index:
                reason = "the metadata table has no row for it, and the probe reads metadata"
                found[path] = refused(path, reason)
            else:
                pixels[path] = square
        if not pixels:
            return Batch(paths=paths, found=found)
        augmentation = self.reference.test_time_augmentation
        how = InferenceConfig(device=self.device, test_time_augmentation=augmentation)
        images = embed_images(self.model, [torch.stack(list(pixels.values()))], how)
        p = self.surroundings.p_values(images)
        for path, value in zip(pixels, p.tolist(), strict=True):
            if value < self.config.novelty:
                reason = far_out(value, self.config.novelty, len(self.surroundings.usual))
                found[path] = refused(path, reason, novelty_p=value)
        kept, inside = [path for path in pixels if path not in found], p >= self.config.novelty
        return Batch(
            paths=paths, found=found, kept=kept, images=images[inside], novelty_p=p[inside]
        )

    def design(
        self, images: Float32[Array, "q d"], cells: pd.DataFrame, ids: pd.DataFrame
    ) -> Design:
        """What the probe reads of images by their embeddings, a row of each table per image.

        `cells` are the columns of `features`, as far as they are known. `ids` (`patient_id
        lesion_id`) say which lesions a probe of features `relative` compares with each other.
        """
        raw, features = RawTable(schema=self.schema, frame=cells), {"image": images}
        for level in self.levels:
            rows = raw.rows_of(self.model, level)
            features[METADATA_KEYS[level]] = embed_rows(self.model, level, rows, device=self.device)
        if self.compares:
            assert self.reference.context is not None
            features |= self.reference.context.relative(features, ids)
            own = RawTable(schema=Schema.from_dict(self.record["schema"]), frame=cells)
            features[RELATIVE_TABLE] = own.relative(ids)
        blocks = {name: features[name] for name in self.probe.blocks if name != TABLE}
        return Design(blocks=blocks, table=raw)

    def _answer(self, batch: Batch, metadata: Metadata | None) -> dict[Path, Prediction]:
        """Predictions for the images of one batch."""
        found, kept, reads = dict(batch.found), batch.kept, self.reads
        if not kept:
            return found
        cells, names = pd.DataFrame(index=range(len(kept))), list(map(str, kept))
        ids = pd.DataFrame({"patient_id": names, "lesion_id": names})
        known = np.zeros(len(kept), dtype=np.int64)
        if metadata is not None:
            cells = metadata.frame.loc[names].reset_index(drop=True)
            ids = ids if metadata.owners is None else metadata.owners.loc[names]
            known = known_features(metadata.features, cells)
        design = self.design(batch.images, cells, ids)
        shown = self.probe.predict_proba(design)
        classes, decided = self.probe.classes, self.probe.decide(shown)
        sets = self.conformal.sets(shown, decided)
        most = min(self.config.cases, len(self.reference))
        cases = self.surroundings.cases(batch.images, self.reference.ids, most)
        others: list[int] | None = None
        if self.compares:
            log_others = design.blocks["outlier"][:, OUTLIER.index("log_others")]
            others = np.expm1(log_others).round().astype(int).tolist()
        for i, path in enumerate(kept):
            bare = known[i] == 0 and reads > 0
            why = UNCALIBRATED if bare else OTHERWISE if self.imputed else ""
            likeliest = np.argsort(-shown[i], kind="stable")
            found[path] = Prediction(
                image=str(path),
                status="predicted",
                reason=why,
                probabilities=dict(zip(classes, shown[i].tolist(), strict=True)),
                decision=classes[decided[i]],
                conformal_set=tuple(classes[c] for c in likeliest if sets[i, c] and not why),
                novelty_p=float(batch.novelty_p[i]),
                nearest=cases[i],
                metadata_known=int(known[i]) if reads else None,
                metadata_features=reads or None,
                compared_with=None if others is None else others[i],
                unseen={} if metadata is None else metadata.strange(names[i]),
            )
        return found
