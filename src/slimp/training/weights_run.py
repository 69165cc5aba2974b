"""A published image encoder in the place of a run: `weights:NAME`, without pre-training."""

from __future__ import annotations

from pathlib import Path

from slimp.data.files import new_folder, sha256_of, write_json
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.hub import find_model
from slimp.models.known_weights import PREFIX, Weights, cache_folder, described
from slimp.training.run_folder import versions


def as_run(run: str | Path) -> Path:
    """The folder of a run, as `find_model` has it; of `weights:NAME`, of this encoder alone.

    NAME is one of `slimp weights list`, or a file that `slimp weights convert` wrote; `NAME@128`
    takes images of 128 px instead of the size that the weights were trained on. The folder has no
    levels of metadata, and does not say which patients it learned from: encoders of skin images may
    know those of a public cohort.

    Raises:
        UserError: there are no such weights on this machine, or the hub has no such model.
        CheckpointError: the file does not say which encoder it is of, or is damaged.
    """
    text = str(run)
    if not text.startswith(PREFIX):
        return find_model(run)
    name, at, side = (whole := text.removeprefix(PREFIX)).rpartition("@")
    if not at or Path(whole).is_file():
        name, side = whole, ""
    elif not side.isdecimal():
        raise UserError(f"{text}: after '@' stands the side of the images in px, as in @128.")
    known = described(name)
    if known is None:
        raise CheckpointError(
            f"{name}: not there, or does not say which encoder it is of. Make such a file of the "
            "published one: slimp weights convert."
        )
    return _folder_of(name, known, int(side or known.size))


def _folder_of(name: str, known: Weights, size: int) -> Path:
    from slimp.models.nested import Slimp  # not above: of a run, the folder is all that is asked
    from slimp.models.published_weights import file_of

    file = file_of(name)
    own = f"{Path(known.name).name}-{size}px-{sha256_of(file)[:12]}"  # a file may say any name
    folder = cache_folder() / "runs" / own
    if (folder / "model.json").is_file():
        return folder
    options = dict(known.options)
    config = ModelConfig(
        encoder=known.encoder, encoder_options=options, image_size=size, batch_norm="frozen"
    )
    model = Slimp(config, {})
    model.image_encoder.load_weights(file)
    with new_folder(folder, overwrite=folder.exists(), cached=True) as partial:
        model.save_pretrained(partial)
        used = {"encoder": known.encoder, "encoder_options": options, "image_size": size}
        used |= {"encoder_weights": known.name}
        write_json(partial / "config.json", {"weights": used, "versions": versions()})
    return folder
