"""The Hugging Face hub and its cache: from an id to a folder with a checkpoint's files.

The hub is asked which commit is meant; what the cache has of that one needs no network. One question that gets no
answer is enough to know that there is none: from then on the cache alone is read.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cutaway.errors import CheckpointError
from cutaway.model.checkpoints.weight_files import ANY_WEIGHTS, WEIGHTS, weight_map
from cutaway.text import tokenizer_files

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
HINT = "without a network give a folder, or load() for the bundled model"
CRFM = {  # Stanford's five GPT-2 small and five medium, each of another seed
    "small": ["alias-{}-x21", "battlestar-{}-x49", "caprica-{}-x81", "darkmatter-{}-x343", "expanse-{}-x777"],
    "medium": ["arwen-{}-x21", "beren-{}-x49", "celebrimbor-{}-x81", "durin-{}-x343", "eowyn-{}-x777"],
}


def _aliases() -> dict[str, str]:
    """Return the names that TransformerLens gives to GPT-2s, lower case, and their ids on the hub."""
    found = {"gpt2-small": "gpt2"}
    found |= dict.fromkeys(["distillgpt2", "distill-gpt2", "distil-gpt2", "gpt2-xs"], "distilgpt2")
    for size, patterns in CRFM.items():
        other = "mistral-small" if size == "small" else "medium-small"  # TransformerLens's spelling
        for letter, pattern in zip("abcde", patterns, strict=True):
            name = pattern.format(f"gpt2-{size}")
            spellings = [name, f"stanford-gpt2-{size}-{letter}", f"gpt2-stanford-{size}-{letter}"]
            found |= dict.fromkeys([*spellings, f"gpt2-{other}-{letter}"], f"stanford-crfm/{name}")
    return found


ALIASES = _aliases()


def cached(origin: str, revision: str | None) -> Path | None:
    """Return where the hub's cache has a model's tokenizer, or None. No network."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(origin, name, revision=revision) for name in tokenizer_files.VOCABULARIES)
    return next((Path(path).parent for path in found if isinstance(path, str)), None)


def download(name: str, revision: str | None) -> Path:
    """Fetch a hub checkpoint's files into the hub's cache; the folder they are in.

    Raises CheckpointError where there is none to be had, with the reason.
    """
    from huggingface_hub import errors

    asked = Asked(ALIASES.get(name.lower(), name), revision)
    shown = repr(name) if asked.repo == name else f"{name!r} ({asked.repo})"
    try:
        return _fetch_all(shown, asked)
    except CheckpointError:
        raise
    except errors.RevisionNotFoundError:
        expected = "a branch, tag or commit was expected"
        raise CheckpointError(f"the hub's {shown} has no revision {revision!r}: {expected}") from None
    except errors.GatedRepoError:
        raise CheckpointError(f"the hub's {shown} is gated: ask for access there and log in (hf auth login)") from None
    except errors.RepositoryNotFoundError:
        hint = "check its name, or log in (hf auth login) if it is private"
        raise CheckpointError(f"{shown} is not a folder here, and the hub has no such model: {hint}") from None
    except Exception as error:  # the hub's client raises its own errors, its HTTP library's and OSError
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"{shown} cannot be had from the hub: {reason}; {HINT}") from None


def _fetch_all(shown: str, asked: Asked) -> Path:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    config = asked.fetch("config.json")
    if config is None:
        if adapter := asked.fetch("adapter_config.json"):  # the folder's reader says what to do with one
            return adapter.parent
        if not asked.reachable:
            missing = f"{shown} is not a folder here, the hub's cache does not have it"
            raise CheckpointError(f"{missing}, and {asked.why}: {HINT}")
        raise CheckpointError(f"the hub's {shown} is not a model: it has no config.json")
    found = next((path for path in map(asked.fetch, WEIGHTS) if path), None)
    if found is None:
        where = f"{shown} has no weights" if asked.reachable else f"cache has no weights of {shown}"
        raise CheckpointError(f"the hub's {where}: {ANY_WEIGHTS} was expected")
    if found.suffix == ".json":
        for shard in sorted(set(weight_map(found).values())):
            asked.fetch(shard)
    for file in tokenizer_files.BESIDE:
        asked.fetch(file)
    for names in tokenizer_files.FORMS:
        if None not in [asked.fetch(file) for file in names]:
            break
    return config.parent


class Asked:
    """What is known of one hub repository: which commit is meant, and whether the hub answers at all."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.repo, self.revision = repo, revision
        self.commit = revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else None
        self.reachable: bool | None = None  # None: nobody has had to ask yet
        self.why = "the hub cannot be reached"

    def fetch(self, file: str) -> Path | None:
        """Return the file in the cache, downloaded if need be; None where neither the cache nor the hub has it.

        Raises the hub client's errors for a repository or revision that is not there, or not for everybody.
        """
        from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

        revision = self.commit or self.revision
        known = try_to_load_from_cache(self.repo, file, revision=revision)
        if self.commit and known:
            return Path(known) if isinstance(known, str) else None  # else: known not to be there
        if self.reachable is None and not isinstance(known, str):
            self._ask(file)  # the client itself would try for half a minute, with nothing to fall back on
        try:
            path = hf_hub_download(self.repo, file, revision=revision, local_files_only=self.reachable is False)
        except errors.LocalEntryNotFoundError:
            self.reachable = False
            return None
        except errors.EntryNotFoundError:
            return None
        self.commit = Path(path).parent.name
        return Path(path)

    def _ask(self, file: str) -> None:
        """Ask the hub once whether it has a file, to know whether it answers. Raises for a repository it has not."""
        from huggingface_hub import constants, errors, get_hf_file_metadata, get_token, hf_hub_url

        url = hf_hub_url(self.repo, file, revision=self.commit or self.revision)  # raises for an id that cannot be
        if constants.HF_HUB_OFFLINE:
            self.reachable, self.why = False, "HF_HUB_OFFLINE keeps from asking the hub"
            return
        try:
            get_hf_file_metadata(url, token=get_token())
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):  # a gated one is a repository not found
            raise
        except errors.EntryNotFoundError:
            pass
        except Exception:
            self.reachable = False
            return
        self.reachable = True
