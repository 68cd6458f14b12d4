"""The revision of a data set, which changes with its content."""

from pathlib import Path

from narrowband.params import InputError, first_line
from narrowband.runtime.artifacts import sha256


def dataset_revision(where: str, name: str) -> str:
    """The SHA-256 of a local file, or the commit of a data set of the hub; of any other data set, its name.

    Raises:
        InputError: see `commit`.
    """
    path = Path(name)
    if path.is_file():
        return f"sha256:{sha256(path)}"
    return f"commit:{commit(where, name)}" if is_hub_id(name) else name


def is_hub_id(name: str) -> bool:
    """Whether a name is OWNER/NAME or OWNER/NAME@REVISION (branch, tag or commit), and of nothing on this machine."""
    path, repository = Path(name), name.partition("@")[0]
    named = name.startswith(("/", "./", "../")) or path.suffix.lower() == ".json" or path.exists()
    return repository.count("/") == 1 and not named


def commit(where: str, name: str) -> str:
    """The commit that a hub id stands for; if the hub can't be reached, what it stood for when that was last asked.

    Raises:
        InputError: the hub has no such data set or revision, or it can't be reached and was never asked; begins with `where`.
    """
    from huggingface_hub import HfApi, errors  # slow to import

    repository, _, revision = name.partition("@")
    try:
        return HfApi().resolve_revision(repository, repo_type="dataset", revision=revision or None).resolved
    except errors.RepositoryNotFoundError:
        why = "is not on the hub, or is private; check its name, or log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        why = f"has no revision {revision}; give a branch, tag or commit of {repository}"
    except errors.RevisionResolutionError:
        why = "has not been read and the hub can't be reached; check the network, or give a .json file"
    except Exception as error:  # any exception, from the libraries of the network
        why = f"can't be read from the hub ({first_line(error)}); check its name, your access and the network"
    raise InputError(f"{where} {why}")
