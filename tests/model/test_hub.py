"""Hub ids: from a server of our own that answers as the hub does, and from the cache alone."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import huggingface_hub.constants
import pytest
import torch

import cutaway
from cutaway.errors import CheckpointError
from cutaway.text.tokenizer_files import BESIDE
from tests.model.reference import random_gpt2
from tests.test_tokens import copy_vocabulary

TINY = {"n_embd": 8, "n_head": 2, "n_layer": 1, "vocab_size": 50257, "n_positions": 16}
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"  # commits
LOADER = """
import json, sys, cutaway
for line in sys.stdin:
    try:
        model = cutaway.load(*json.loads(line)[:1], revision=json.loads(line)[1], device="cpu")
        told = [model.name, model.fingerprint, model.has_tokenizer]
    except cutaway.errors.CheckpointError as error:
        told = str(error)
    print(json.dumps(told), flush=True)
"""


BRANCHES = {"main": NEW, "v1": OLD}


class Hub(BaseHTTPRequestHandler):
    """HEAD and GET of /owner/name/resolve/revision/file, with the headers of Hugging Face's hub."""

    folders: ClassVar = {}  # (repository, commit) -> folder
    asked: ClassVar = []  # (revision, file) of each HEAD

    def do_HEAD(self):
        _, name, _, revision, file = self.path.strip("/").split("/")
        commit = BRANCHES.get(revision, revision)
        if self.command == "HEAD":
            self.asked.append((revision, file))
        if name == "down":
            self.send_error(503)
            return
        error = {"secret": "GatedRepo", "nothing": "RepoNotFound"}.get(name)
        folder = self.folders.get((name, commit))
        error = error or ("RevisionNotFound" if folder is None else None)
        error = error or ("EntryNotFound" if not (folder / file).is_file() else None)
        body = b"" if error else (folder / file).read_bytes()
        self.send_response({None: 200, "GatedRepo": 403}.get(error, 404))
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", "several\\nlines")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{name}-{commit[-1]}-{file}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two tiny checkpoints: one with a tokenizer, one in shards."""
    made = []
    for seed, options in ((1, {}), (2, {"max_shard_size": "200KB"})):
        folder = tmp_path_factory.mktemp("tiny")
        random_gpt2(seed, **TINY).save_pretrained(folder, **options)
        made.append(folder)
    copy_vocabulary(made[0])
    return made


@pytest.fixture(scope="module")
def fingerprints(folders):
    return [cutaway.load(folder, device="cpu").fingerprint for folder in folders]


@pytest.fixture(scope="module")
def hub(folders, tmp_path_factory):
    """Loads a hub id in a process of its own, whose hub is ours: ask(id, revision), ask.files(), ask.stop()."""
    whole, sharded = folders
    Hub.folders = {("tiny", NEW): whole, ("tiny", OLD): sharded, ("empty", NEW): whole / "none"}
    Hub.folders["config-only", NEW] = tmp_path_factory.mktemp("config")
    shutil.copy(whole / "config.json", Hub.folders["config-only", NEW])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = tmp_path_factory.mktemp("home")
    unset = {"HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"}
    environment = {k: v for k, v in os.environ.items() if k not in unset and "proxy" not in k.lower()}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    process = subprocess.Popen(
        [sys.executable, "-c", LOADER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def ask(repo, revision=None):
        Hub.asked.clear()
        process.stdin.write(json.dumps([repo, revision]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def stop():
        server.shutdown()
        server.server_close()

    ask.stop, ask.home = stop, home
    yield ask
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()
    stop()


def test_from_the_hub(hub, fingerprints):
    assert hub("org/tiny") == ["tiny", fingerprints[0], True]
    assert Hub.asked[:2] == [("main", "config.json")] * 2  # whether the hub answers, and what it has
    files = {"model.safetensors", "tokenizer.json", "vocab.json", "merges.txt", *BESIDE}  # the second is not there
    assert sorted(Hub.asked[2:]) == sorted((NEW, file) for file in files)
    assert (hub.home / "hub" / "models--org--tiny" / "snapshots" / NEW / "model.safetensors").is_file()
    assert hub("org/tiny") == ["tiny", fingerprints[0], True]
    assert Hub.asked == [("main", "config.json")]  # whether there is something newer, and no more


def test_a_revision_in_shards_without_a_tokenizer(hub, fingerprints):
    for revision in ("v1", OLD):
        assert hub("org/tiny", revision) == ["tiny", fingerprints[1], False]
    assert Hub.asked == []


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("org/tiny", "v9", "the hub's 'org/tiny' has no revision 'v9': a branch, tag or commit was expected"),
        ("org/empty", None, "the hub's 'org/empty' is not a model: it has no config.json"),
        (
            "org/config-only",
            None,
            "the hub's 'org/config-only' has no weights: model.safetensors (or model.safetensors.index.json, "
            "pytorch_model.bin, pytorch_model.bin.index.json) was expected",
        ),
        ("org/secret", None, "the hub's 'org/secret' is gated: ask for access there and log in (hf auth login)"),
        (
            "org/nothing",
            None,
            "'org/nothing' is not a folder here, and the hub has no such model: check its name, or log in (hf auth "
            "login) if it is private",
        ),
    ],
)
def test_what_the_hub_refuses(hub, repo, revision, message):
    assert hub(repo, revision) == message


@pytest.mark.parametrize("leave_out", [["vocab.json"], ["*.safetensors", "vocab.json"], ["*.json"]])
def test_a_hub_that_does_not_answer_is_asked_once(hub, folders, fingerprints, leave_out):
    """The client itself asks six times, over half a minute, for each file that the cache lacks."""
    home = hub.home / "hub" / "models--org--down"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(folders[0], home / "snapshots" / NEW, ignore=shutil.ignore_patterns(*leave_out))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(NEW)
    told = hub("org/down")
    if leave_out == ["vocab.json"]:
        assert told == ["down", fingerprints[0], False]
    elif leave_out == ["*.json"]:
        assert "the hub's cache does not have it, and the hub cannot be reached: without a network" in told
    else:
        assert told.startswith("the hub's cache has no weights of 'org/down': model.safetensors ")
    assert len(Hub.asked) <= 2
    Hub.asked.clear()


def test_without_a_connection_what_was_fetched_still_loads(hub, fingerprints):
    """Last: the server stops. Nothing is asked for again that was there, or known not to be."""
    hub("org/tiny")
    hub("org/tiny", "v1")
    hub.stop()
    assert hub("org/tiny") == ["tiny", fingerprints[0], True]
    assert hub("org/tiny", "v1") == ["tiny", fingerprints[1], False]


# --- the cache alone ---


@pytest.fixture
def cache(folders, tmp_path, monkeypatch):
    """Puts a checkpoint's files into an empty hub cache, as the hub's client lays them out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def put(folder, repo="org/tiny", branch="main", commit=NEW, leave_out=()):
        home = tmp_path / f"models--{repo.replace('/', '--')}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / branch).write_text(commit)
        return shutil.copytree(folder, home / "snapshots" / commit, ignore=shutil.ignore_patterns(*leave_out))

    return put


def test_from_the_cache(cache, folders, fingerprints):
    cache(folders[0])
    cache(folders[1], branch="v1", commit=OLD)
    cache(folders[0], repo="gpt2")
    model = cutaway.load("org/tiny", device="cpu")
    assert (model.name, model.fingerprint) == ("tiny", fingerprints[0])
    assert model.run("Aritra").tokens.rows() == [[32, 799, 430]]
    assert model.origin == "cutaway.load('org/tiny')"
    model = cutaway.load("org/tiny", revision="v1", device="cpu")
    assert (model.fingerprint, model.has_tokenizer) == (fingerprints[1], False)
    assert model.origin == "cutaway.load('org/tiny', revision='v1')"
    assert cutaway.load("gpt2", device="cpu").name == "gpt2"


def fails(repo, message, **options):
    with pytest.raises(CheckpointError, match=message) as caught:
        cutaway.load(repo, device="cpu", **options)
    assert "\n" not in str(caught.value)


def test_a_cache_that_lacks_something(cache, folders, fingerprints):
    nowhere = "is not a folder here, the hub's cache does not have it, and HF_HUB_OFFLINE forbids asking the hub: "
    fails("org/tiny", f"^'org/tiny' {nowhere}without a network give a folder, or load\\(\\) for the bundled model$")
    fails("org/no--such", r"^'org/no--such' cannot be fetched from the hub: .+; without a network give a folder")
    cache(folders[0], leave_out=["*.safetensors"])
    fails("org/tiny", r"^the hub's cache has no weights of 'org/tiny': model\.safetensors .* was expected$")
    fails("org/tiny", nowhere, revision="v1")
    cache(folders[1], repo="org/shards", leave_out=["model-00002*"])
    fails("org/shards", r"lacks model-00002-of-\d+\.safetensors, which model\.safetensors\.index\.json names$")
    cache(folders[0], repo="org/wordless", leave_out=["vocab.json"])
    model = cutaway.load("org/wordless", device="cpu")
    assert (model.fingerprint, model.has_tokenizer) == (fingerprints[0], False)


def test_a_folder_goes_before_the_hub(cache, folders, fingerprints, monkeypatch, tmp_path):
    cache(folders[0], repo="mine")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders[1], "mine")
    assert cutaway.load("mine", device="cpu").fingerprint == fingerprints[1]
    fails("mine", "^'mine' is a folder, and revision='main' is for a hub id: leave it out$", revision="main")


def test_a_transformers_model_from_the_cache_has_its_tokenizer(cache, folders):
    from transformers import GPT2LMHeadModel

    cache(folders[0], repo="gpt2")
    model = cutaway.load(GPT2LMHeadModel.from_pretrained("gpt2"), device="cpu")
    assert model.name == "gpt2"
    assert model.run("Aritra").tokens.rows() == [[32, 799, 430]]
    assert model.run(torch.tensor([[1, 2]])).logits.shape == (1, 2, 50257)


TRANSFORMER_LENS = {  # its names for GPT-2s on the hub, in version 4.3
    "distilgpt2": "distillgpt2 distill-gpt2 distil-gpt2 gpt2-xs",
    "gpt2": "gpt2-small",
    "stanford-crfm/alias-gpt2-small-x21": "stanford-gpt2-small-a gpt2-mistral-small-a gpt2-stanford-small-a",
    "stanford-crfm/battlestar-gpt2-small-x49": "stanford-gpt2-small-b gpt2-mistral-small-b",
    "stanford-crfm/caprica-gpt2-small-x81": "stanford-gpt2-small-c gpt2-mistral-small-c gpt2-stanford-small-c",
    "stanford-crfm/darkmatter-gpt2-small-x343": "stanford-gpt2-small-d gpt2-mistral-small-d",
    "stanford-crfm/expanse-gpt2-small-x777": "stanford-gpt2-small-e gpt2-mistral-small-e expanse-gpt2-small-x777",
    "stanford-crfm/arwen-gpt2-medium-x21": "stanford-gpt2-medium-a gpt2-medium-small-a gpt2-stanford-medium-a",
    "stanford-crfm/beren-gpt2-medium-x49": "stanford-gpt2-medium-b gpt2-medium-small-b gpt2-stanford-medium-b",
    "stanford-crfm/celebrimbor-gpt2-medium-x81": "stanford-gpt2-medium-c gpt2-medium-small-c",
    "stanford-crfm/durin-gpt2-medium-x343": "stanford-gpt2-medium-d gpt2-medium-small-d gpt2-stanford-medium-d",
    "stanford-crfm/eowyn-gpt2-medium-x777": "eowyn-gpt2-medium-x777 stanford-gpt2-medium-e gpt2-stanford-medium-e",
}


@pytest.mark.slow
@pytest.mark.parametrize("repo", TRANSFORMER_LENS)
def test_the_names_that_transformer_lens_gives(cache, folders, fingerprints, repo):
    cache(folders[0], repo=repo)
    for name in TRANSFORMER_LENS[repo].split():
        for spelled in (name, name.upper()):
            model = cutaway.load(spelled, device="cpu")
            assert (model.name, model.fingerprint) == (spelled, fingerprints[0])


def test_what_is_not_there_is_shown_as_it_was_asked_for(cache):
    fails(
        "GPT2-small", r"^'GPT2-small' \(gpt2\) is not a folder here, the hub's cache does not have it, and HF_HUB_OFF"
    )


def test_an_adapter_on_the_hub(cache, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "gpt2"}')
    cache(tmp_path / "adapter", repo="org/lora")
    fails("org/lora", r"is a PEFT adapter of 'gpt2', and not a model: .*\.merge_and_unload\(\)\)$")
