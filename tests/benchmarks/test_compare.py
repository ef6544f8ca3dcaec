"""Two checkouts in turns, with measurements that are given."""

from pathlib import Path

import pytest

from benchmarks import compare


def test_checkouts_take_turns_in_going_first(monkeypatch, tmp_path):
    calls = []

    def run(source, images, work, rows):
        calls.append(source)
        return dict.fromkeys(rows, float(len(calls)))

    monkeypatch.setattr(compare, "_run", run)
    speeds = compare.measure_in_turns({"old": "o", "new": "n"}, tmp_path, ["loader"], repeats=4)
    assert "".join(calls) == "no" + "on" + "no" + "on" + "no"
    assert speeds == {
        "old": {"loader": [3.0, 6.0, 7.0, 10.0]},
        "new": {"loader": [4.0, 5.0, 8.0, 9.0]},
    }


def test_a_line_is_medians_their_ratio_and_the_spread_of_ratios():
    line = compare.format_row("step", [100.0, 200.0, 300.0], [110.0, 220.0, 330.0])
    assert line.split() == ["step", "200.0", "220.0", "1.100", "0.0%", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{src}", "{src}", "--rows", "speed"], "choose from loader"),
        (["nowhere", "{src}"], "has no package fkd"),
    ],
)
def test_mistakes_are_named_before_anything_runs(arguments, message, capsys):
    src = str(Path(compare.__file__).parents[1] / "src")
    with pytest.raises(SystemExit):
        compare.main([argument.format(src=src) for argument in arguments])
    assert message in capsys.readouterr().err
