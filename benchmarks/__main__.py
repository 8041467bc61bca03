"""make bench: Cutaway's speed beside transformers, TransformerLens and nnsight.

python -m benchmarks                    everything; writes results.json and the README's table
python -m benchmarks forward            one topic; the others' results stay
python -m benchmarks --quick            two rounds, to see that it runs; writes nothing
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks import table, timing

TOPICS = (
    "forward",
    "cold_start",
    "loading",
    "lens",
    "surveys",
    "states",
    "unigram",
    "ablation",
)  # each a module with rows(rounds)
HERE = Path(__file__).parent
README = HERE.parent / "README.md"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Cutaway's speed beside its peers'.")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"which of {', '.join(TOPICS)}; default: all")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved runs of each (default 7)")
    parser.add_argument("--quick", action="store_true", help="two rounds, and write nothing unless --output says so")
    parser.add_argument("--output", type=Path, help="write results to this file, and leave the README alone")
    options = parser.parse_args()
    if unknown := set(options.topics) - set(TOPICS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; the topics are {', '.join(TOPICS)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1 was expected")

    os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of huggingface_hub
    rounds = 2 if options.quick else options.rounds
    output = options.output or (None if options.quick else HERE / "results.json")
    try:
        machine = timing.machine()
        for name in options.topics or TOPICS:
            run(name, rounds, machine, output, README if options.output is None else None)
    except ModuleNotFoundError as error:
        sys.exit(f"benchmarks: {error}: `make bench` sets up an environment that has it")


def run(name: str, rounds: int, machine: dict[str, str], output: Path | None, readme: Path | None) -> None:
    """Run one topic, print its rows as they come, and keep them."""
    topic = importlib.import_module(f"benchmarks.{name}")
    print(f"\n{topic.__doc__.strip()}\n", *table.HEAD, sep="\n", flush=True)
    rows = []
    for row in topic.rows(rounds):
        rows.append(row)
        print(table.line(row), flush=True)
    if output is None:
        return
    results = table.save(output, name, rows, machine, rounds)
    written = table.between_markers(readme.read_text(encoding="utf-8"), table.page(results)) if readme else None
    if readme and written:
        readme.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    main()
