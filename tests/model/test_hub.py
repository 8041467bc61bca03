"""Hub ids: from a server of our own that answers as the hub does, and from the cache alone."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
import torch

import cutaway
from cutaway.errors import CheckpointError
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


class Hub(BaseHTTPRequestHandler):
    """HEAD and GET of /owner/name/resolve/revision/file, with the headers of Hugging Face's hub."""

    folders = {}  # (repository, commit) -> folder
    branches = {"main": NEW, "v1": OLD}
    asked = []

    def do_HEAD(self):
        owner, name, _, revision, file = self.path.strip("/").split("/")
        commit = self.branches.get(revision, revision)
        if self.command == "HEAD":
            self.asked.append((revision, file))
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
    assert Hub.asked[0] == ("main", "config.json")
    files = {"model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"}  # the third is not there
    assert sorted(Hub.asked[1:]) == sorted((NEW, file) for file in files)
    assert (hub.home / "hub" / "models--org--tiny" / "snapshots" / NEW / "model.safetensors").is_file()
    assert hub("org/tiny") == ["tiny", fingerprints[0], True]
    assert Hub.asked == [("main", "config.json")]  # whether there is something newer, and no more
