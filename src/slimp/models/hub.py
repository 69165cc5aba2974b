"""Where a model is: a folder, a bundle file, or a repository of the Hugging Face hub.

Safetensors, JSON and text are all that is read or sent; pickles never are.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from slimp import __version__
from slimp.data.files import new_folder, sha256_of
from slimp.errors import CheckpointError, UserError
from slimp.models.config import DESCRIPTION, WEIGHTS
from slimp.models.known_weights import cache_folder
from slimp.sources.raw_files import Place

CARD, SETTINGS = "README.md", "config.json"
FILES = (DESCRIPTION, WEIGHTS, SETTINGS, CARD)
"""What a repository or a bundle holds of a model; nothing else is fetched or sent."""
PROBE = "probe"
"""Folder of a bundle."""
HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\S+))?", re.ASCII)
"""OWNER/NAME, and a branch, tag or commit after '@'."""
IN_BUNDLES = re.compile(rf"(?:{PROBE}/)?[\w-]+\.(?:json|md|parquet|safetensors)", re.ASCII)


def find_model(name: str | Path) -> Path:
    """The folder of a model that is named by its folder, a bundle file, or OWNER/NAME of the hub.

    What is on this machine goes first. Where there is a folder OWNER here, the name is taken for a
    path in it that is mistyped, and nothing is asked of the network.

    Raises:
        UserError: the file is no bundle, or the hub has no such model or cannot be reached.
    """
    path = Path(name)
    if path.is_file():
        return unpacked(path)
    text = name if isinstance(name, str) else name.as_posix()
    if path.exists() or path.parent.exists() or not HUB_NAME.fullmatch(text):
        return path
    return download(text)


def download(name: str, revision: str | None = None) -> Path:
    """The folder in the hub's own cache that holds a model, fetched where it has changed.

    Without the network, a copy that is there already will do.

    Args:
        name: OWNER/NAME or OWNER/NAME@REVISION.
        revision: branch, tag or commit, in place of that of the name.

    Raises:
        CheckpointError: it is not there or not readable, or holds no model of slimp.
        UserError: not such a name.
    """
    repo, at = hub_name(name)
    from huggingface_hub import snapshot_download

    revision = revision or at
    with _in_words(repo, revision):
        found = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(FILES),
            library_name="slimp",
            library_version=__version__,
        )
    if lacking := [n for n in (DESCRIPTION, WEIGHTS) if not (Path(found) / n).is_file()]:
        raise CheckpointError(
            f"{repo}: no model of slimp, because the repository has no {lacking[0]}; pickles, such "
            "as .bin and .pt, are never read. Choose one that slimp push wrote."
        )
    return Path(found)


def upload(folder: Path, name: str, *, public: bool = False, revision: str | None = None) -> str:
    """Sends a model's files to the hub and returns the address; a new repository is private.

    One that exists keeps its visibility. `revision` is a branch, made if it is not there.

    Raises:
        UserError: not a name of the hub's, or it refuses or cannot be reached.
    """
    repo, at = hub_name(name)
    from huggingface_hub import HfApi

    api, revision = HfApi(library_name="slimp", library_version=__version__), revision or at
    with _in_words(repo, revision):
        address = str(api.create_repo(repo, private=not public, exist_ok=True))
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=revision,
            allow_patterns=list(FILES),
            commit_message=f"Model of slimp {__version__}",
        )
    return address


def unpacked(bundle: Path) -> Path:
    """The folder in the cache that holds what is in a bundle file.

    Raises:
        TableError: it is no zip file, or could do harm (names that lead out of it, links, bombs).
        CheckpointError: it holds no model.
    """
    bundles = cache_folder() / "bundles"
    bundles.mkdir(mode=0o700, parents=True, exist_ok=True)  # a probe's features are of patients
    folder = bundles / sha256_of(bundle)[:32]
    if folder.is_dir():
        return folder
    with closing(Place(bundle, "a model that slimp bundle wrote")) as place:
        if not {DESCRIPTION, WEIGHTS} <= place.paths.keys():
            raise CheckpointError(
                f"{bundle}: not a bundle (no {DESCRIPTION} and {WEIGHTS}). Make one with: slimp "
                "bundle RUN --out FILE."
            )
        with new_folder(folder, cached=True) as partial:
            for path in filter(IN_BUNDLES.fullmatch, place.paths):
                (partial / path).parent.mkdir(exist_ok=True)
                shutil.move(place.unpacked(path), partial / path)
    return folder


def hub_name(name: str) -> tuple[str, str | None]:
    """OWNER/NAME and revision of a name of the hub's.

    Raises:
        UserError: it is none.
    """
    if not (found := HUB_NAME.fullmatch(name)):
        raise UserError(f"'{name}' is no name of the hub's: write OWNER/NAME, as in clinic/slimp.")
    return found[1], found[2]


@contextmanager
def _in_words(repo: str, revision: str | None) -> Iterator[None]:
    """What goes wrong between here and the hub becomes a sentence."""
    try:
        yield
    except Exception as error:  # the hub's client and its HTTP library raise dozens of kinds
        raise CheckpointError(f"{repo}: {_reason(error, revision)}") from None


def _reason(error: Exception, revision: str | None) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return "is gated. Ask for access on its page, then log in: hf auth login."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision '{revision}'. Name one that it has, or none for the newest."
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return (
            "neither a folder here nor a model that the hub shows you. Check the name; if it is "
            "private, log in with: hf auth login."
        )
    if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
        return "the hub does not allow it. Log in with a token that may: hf auth login."
    if isinstance(error, errors.HFValidationError):
        return "is no name that the hub allows. Write OWNER/NAME, as in clinic/slimp."
    if status is not None:
        return f"the hub answered with status {status}. Run again later."
    cause = error.__cause__ or error
    said = " ".join(f"{type(cause).__name__}: {cause}".split())[:120]
    return (
        "no folder here, and the hub cannot be reached, nor is a whole copy in its cache "
        f"({said}). Check the path, or the network."
    )
