"""The benchmarks' arithmetic and table. Nothing here takes a time."""

import dataclasses
import json

import pytest
from benchmarks import __main__ as command
from benchmarks import table, timing

TIMES = {"ours": [1.0, 2.0, 4.0, 1.0, 2.0], "theirs": [2.0, 2.0, 12.0, 5.0, 3.0]}  # theirs / ours: 2, 1, 3, 5, 1.5
MACHINE = {"cpu": "Abacus, 2 cores", "threads": "2", "python": "3", "date": "2026-01-01", "torch": "2"} | dict.fromkeys(
    ("transformers", "transformer-lens", "nnsight"), "1"
)


def test_a_ratio_is_taken_within_each_round_and_the_median_is_of_ratios():
    row = timing.faster("it", TIMES, "ours", "theirs")
    assert (row.ratio, row.low, row.high) == (2.0, 1.0, 5.0)
    assert (row.ours, row.theirs) == (2.0, 3.0)  # whose own ratio is 1.5
    assert row.peer == "theirs"
    assert row.met is None


def test_a_cost_is_the_ratio_the_other_way_round():
    row = timing.cost("it", TIMES, "ours", "theirs")
    assert (row.ratio, row.low, row.high) == (0.5, 0.2, 1.0)


@pytest.mark.parametrize(
    ("compare", "goal", "met"),
    [
        (timing.faster, 2.0, True),
        (timing.faster, 2.01, False),
        (timing.cost, 0.5, True),
        (timing.cost, 0.49, False),
    ],
)
def test_a_goal_is_met_from_above_or_from_below(compare, goal, met):
    assert compare("it", TIMES, "ours", "theirs", goal=goal).met is met


def test_rounds_interleave_start_at_another_job_each_and_leave_the_warm_up_out():
    calls = []
    times = timing.interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=4)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert [len(seconds) for seconds in times.values()] == [4, 4, 4]
    assert all(value >= 0 for seconds in times.values() for value in seconds)


def test_a_round_does_not_pay_for_freeing_the_last_ones_result(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])

    class Slow:
        def __del__(self):
            clock[0] += 100

    def job():
        clock[0] += 1
        return Slow()

    assert timing.interleaved({"it": job}, rounds=3) == {"it": [1.0, 1.0, 1.0]}


def row(**changes):
    return dataclasses.replace(timing.faster("it", TIMES, "ours", "theirs", goal=2.0), **changes)


def test_a_line_says_what_beside_what_the_ratio_its_spread_and_the_goal():
    line = "| it | 2.00 s | 3.00 s | theirs | **2.00 x faster** (1.00 to 5.00) | 2 x: met |"
    assert table.line(row()) == line
    assert table.line(row(goal=3.0)).endswith("| 3 x: missed |")
    assert table.line(row(goal=None)).endswith("|  |")
    cost = table.line(row(kind="cost", ratio=1.04, ours=0.0314, goal=1.1))
    assert "| 31 ms |" in cost
    assert cost.endswith("| **1.04 x the time** (1.00 to 5.00) | at most 1.1 x: met |")
    assert table.HEAD[0].count("|") == table.HEAD[1].count("|") == line.count("|")


def test_saving_a_topic_leaves_the_others_and_replaces_its_own(tmp_path):
    path = tmp_path / "results.json"
    table.save(path, "forward", [row(what="one"), row(what="two")], MACHINE, 7)
    table.save(path, "other", [row(what="three")], MACHINE, 5)
    results = table.save(path, "forward", [row(what="four")], MACHINE, 6)
    assert results == json.loads(path.read_text())
    assert [kept["what"] for topic in results.values() for kept in topic["rows"]] == ["four", "three"]
    assert results["forward"]["rounds"] == 6
    assert [timing.Row(**kept) for kept in results["other"]["rows"]] == [row(what="three")]


def test_the_page_names_the_machine_once_where_all_topics_share_it():
    def topic(rounds):
        return {"machine": MACHINE, "rounds": rounds, "rows": [dataclasses.asdict(row())]}

    assert table.page({"a": topic(7), "b": topic(7)}).count("Abacus") == 1
    assert table.page({"a": topic(7), "b": topic(5)}).count("Abacus") == 2


def test_the_readme_changes_between_the_markers_only_and_settles():
    text = f"# Title\n\nBefore\n\n{table.START}\nold\n{table.END}\n\nAfter\n"
    once = table.between_markers(text, "| new |")
    assert once == f"# Title\n\nBefore\n\n{table.START}\n\n| new |\n\n{table.END}\n\nAfter\n"
    assert table.between_markers(once, "| new |") == once


@pytest.mark.parametrize("text", ["# Title\n", f"{table.START}\n", f"{table.END}\n{table.START}\n"])
def test_a_readme_without_both_markers_in_order_is_left_alone(text):
    assert table.between_markers(text, "| new |") is None


def test_a_run_writes_results_and_readme_and_touches_nothing_else(tmp_path, monkeypatch, capsys):
    class Topic:
        """A topic."""

        @staticmethod
        def rows(rounds):
            yield row(what=f"in {rounds} rounds")

    monkeypatch.setattr(command.importlib, "import_module", lambda _name: Topic)
    readme, output = tmp_path / "README.md", tmp_path / "results.json"
    readme.write_text(f"Before\n{table.START}\n{table.END}\nAfter\n")
    for _ in range(2):
        command.run("forward", 7, MACHINE, output, readme)
    text = readme.read_text()
    assert text.startswith(f"Before\n{table.START}\n")
    assert text.endswith(f"{table.END}\nAfter\n")
    assert text.count("in 7 rounds") == 1
    assert "in 7 rounds" in capsys.readouterr().out

    before = output.read_text(), text
    command.run("forward", 2, MACHINE, None, readme)  # --quick
    assert (output.read_text(), readme.read_text()) == before
    command.run("forward", 3, MACHINE, output, None)  # --output
    assert "in 3 rounds" in output.read_text()
    assert readme.read_text() == text


@pytest.mark.parametrize("arguments", [["backward"], ["--rounds", "0"]])
def test_a_mistake_is_named(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == 2
    assert arguments[-1] in capsys.readouterr().err
