"""`cutaway predict` in a new process, beside a script that does the same with transformers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import models
from benchmarks.timing import Job, Row, faster, interleaved

PROMPT = "The people of the United"
SCRIPT = Path(__file__).with_name("transformers_predict.py")


def rows(rounds: int) -> Iterator[Row]:
    from cutaway.model.checkpoints.checkpoint import bundled_folder

    with TemporaryDirectory() as temporary:
        for what, folder in (("GPT-2 small", models.write(Path(temporary))), ("the bundled model", bundled_folder())):
            jobs: dict[str, Job] = {
                "Cutaway": lambda folder=folder: ours(folder),
                "a transformers script": lambda folder=folder: theirs(folder),
            }
            if (mine := most_likely(folder)) != [int(line.split()[0]) for line in theirs(folder).splitlines()]:
                raise SystemExit(f"{what}: the ten most likely tokens differ:\n{mine}\n{theirs(folder)}")
            yield faster(f"`cutaway predict`, cold start, {what}", interleaved(jobs, rounds), *jobs, goal=2.0)


def ours(folder: Path, *options: str) -> str:
    return run("-m", "cutaway", "predict", "--model", str(folder), *options, PROMPT)


def theirs(folder: Path) -> str:
    return run(str(SCRIPT), str(folder), PROMPT)


def most_likely(folder: Path) -> list[int]:
    """Token ids of the ten most likely next tokens."""
    return [record["token_id"] for record in json.loads(ours(folder, "--json"))["data"]]


def run(*arguments: str) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout
