"""The report, read by a parser of HTML: what it says, and that names stay names."""

import json
import os

import pytest

from fkd.viewing.report import ReportConfig, render_report
from tests.viewing.folders import ENVIRONMENT, lines_of, training_line, write_run
from tests.viewing.pages import MARKUP, SHOWN_TURNED, TURNED, WITH_SLASH, Page


def read(*folders, **config) -> Page:
    page = Page(render_report([str(f) for f in folders], ReportConfig(**config)))
    page.require_harmless()
    return page


def column(table, name):
    at = table[0].index(name)
    return [row[at] for row in table[1:]]


def test_the_results_of_each_run(tmp_path):
    folders = [
        write_run(tmp_path / "a", lines_of((20.0, 40.0)), epochs=2),
        write_run(tmp_path / "b", lines_of((30.0, 25.5)), epochs=3, finished=False),
    ]
    page = read(*folders, title="Students", notes="One\ntwo.\n\nThree.")
    results = page.tables[0]
    assert column(results, "run") == ["a", "b (not finished)"]
    assert column(results, "val top-1") == ["40.00", "25.50"]
    assert column(results, "best val top-1") == ["40.00", "30.00"]
    assert column(results, "at epoch") == ["2", "1"]
    assert column(results, "time") == ["0:00:21", "0:00:21"]
    assert column(results, "images/s") == ["100", "100"]
    assert column(results, "epochs") == ["2", "3"]
    assert "The run is not finished: its last line is of epoch 2 of 3." in page.text
    assert "Students" in page.texts
    assert page.texts.index("One") < page.texts.index("Three.")
    settings = next(t for t in page.tables if t[0][0] == "setting")
    assert settings[1:] == [["epochs", "2", "3"]]


def test_tables_have_captions_and_scopes_and_charts_descriptions(tmp_path):
    page = read(write_run(tmp_path / "a"), write_run(tmp_path / "b", epochs=9))
    assert page.count("caption") == page.count("table") > 2
    heads = [attributes for tag, attributes in page.elements if tag == "th"]
    assert {attributes.get("scope") for attributes in heads} == {"col", "row"}
    charts = [a for tag, a in page.elements if tag == "svg" and a.get("role") == "img"]
    titles = ["val top-1", "loss", "learning rate", "val top-5"]
    assert [a["aria-label"].partition(" over ")[0] for a in charts] == titles
    assert ("html", {"lang": "en"}) in page.elements


def test_seeds_are_averaged_and_share_a_color(tmp_path):
    folders = [write_run(tmp_path / f"m4-seed{s}", lines_of((40.0 + s,)), seed=s) for s in range(3)]
    page = read(*folders, write_run(tmp_path / "m1", crops_per_image=1))
    means = page.tables[1]
    assert means[1][:3] == ["m4", "3", "41.00 ± 1.00"]
    assert "m4, 3 seeds" in page.text
    styles = [a["data-style"] for tag, a in page.elements if tag == "g"][:4]
    assert styles == ["0", "0", "0", "1"]


def test_the_store_of_a_run_is_described_if_it_is_the_same(tmp_path, label_store):
    def run(name, root_hash, store=str(label_store.path)):
        about = ENVIRONMENT | {"data": {"store_root_hash": root_hash}}
        return write_run(tmp_path / name, environment=about, method="fkd", store=store)

    page = read(
        run("same", label_store.root_hash),
        run("another", "0" * 64),
        run("gone", "1" * 64, store="/nowhere/labels"),
    )
    assert "teacher color" in page.text
    assert "codec ms:2, values as u16" in page.text
    assert label_store.root_hash in page.text
    assert "Another store is at this path now" in page.text
    assert "It is not at this path from here" in page.text
    assert "1" * 64 in page.text


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"step": 1, "epoch": 1.0, "val_knn": 3.0}],
        [{"step": 5, "box_ap": 0.2}, {"step": 9, "mask_ap": 0.3}],
        [training_line(i, i / 100, 2.0 + i % 3) for i in range(3_000)],
        [{"epoch": 1.0, "loss": -1e-9}],
    ],
)
def test_runs_of_all_kinds_have_a_page(tmp_path, lines):
    odd = write_run(tmp_path / "odd", lines, finished=False, tail='{"step": 3')
    page = read(odd, write_run(tmp_path / "usual"))
    assert len(page.tables[0]) == 3
    assert len(render_report([str(odd)])) < 100_000


def test_a_run_of_which_nothing_is_known_has_a_page(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metrics.jsonl").write_text("torn")
    page = read(tmp_path / "a")
    assert "config.yaml is missing" in page.text


def test_figures_are_shown(tmp_path):
    (tmp_path / "x.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "eval.json").write_text(json.dumps([{"model": "a", "top1": 1.5}]))
    figures = [str(tmp_path / name) for name in ("x.svg", "eval.json")]
    page = read(write_run(tmp_path / "a"), figures=figures)
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == ["figure x"]
    assert ["model", "top1"] in [table[0] for table in page.tables]


def write_hostile_runs(folder) -> list[str]:
    """Runs whose names, settings, metrics, notes and results want to break out of the page."""
    folders = []
    for number, name in enumerate((*MARKUP, TURNED)):
        folders.append(write_run(folder / name, method=WITH_SLASH[number % 2], epochs=number + 2))
    first = folders[0]
    settings = {"student": {WITH_SLASH[0]: MARKUP[1]}, "store": WITH_SLASH[1], MARKUP[0]: MARKUP[0]}
    folders.append(write_run(folder / "settings", **settings))
    lines = [{"step": 1, "epoch": 1.0, WITH_SLASH[0]: 3.0, MARKUP[0]: 4.0}]
    folders.append(write_run(folder / "metrics", lines, environment={WITH_SLASH[1]: MARKUP[1]}))
    (first / "env.json").write_text(f'{{"{MARKUP[0]}": {{}}')  # its error becomes a note
    return [str(path) for path in folders]


def hostile_config(folder) -> ReportConfig:
    figure = folder / f"{MARKUP[0]}.json"
    figure.write_text(json.dumps({WITH_SLASH[0]: MARKUP[1], "x": [{MARKUP[0]: WITH_SLASH[1]}]}))
    return ReportConfig(title=WITH_SLASH[1], notes=WITH_SLASH[0], figures=[str(figure)])


def test_markup_in_names_and_settings_is_text(tmp_path):
    runs = write_hostile_runs(tmp_path)
    page = Page(render_report(runs, hostile_config(tmp_path)))
    page.require_harmless()
    assert page.count("img") == 0
    assert page.count("style") == 1
    names = column(page.tables[0], "run")
    assert names == [*MARKUP, SHOWN_TURNED, "settings", "metrics"]
    for text in (*WITH_SLASH, *MARKUP):
        assert text in page.text
    assert TURNED not in page.text


def test_a_name_that_is_not_utf8_is_spelled_out(tmp_path):
    folder = write_run(tmp_path / os.fsdecode(b"caf\xe9"))
    page = read(folder)
    assert column(page.tables[0], "run") == ["caf\\udce9"]
    assert render_report([str(folder)]).encode()  # as it is written
