"""Stored embeddings against an online teacher, at the smallest size: rows run, resume, count."""

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.claims.run_self_supervised import main
from benchmarks.claims.self_supervised import SslClaimsConfig, all_rows, run_comparison
from fkd.data.sources import ImagesConfig
from fkd.evaluation.probe import NeighborsConfig
from fkd.methods import SslConfig
from fkd.training.config import StudentConfig


def test_every_row_is_trained_and_probed_and_a_second_start_repeats_nothing(
    make_images, tmp_path, teacher
):
    images = ImagesConfig(root=str(make_images(tmp_path / "train", per_class=8)))
    config = SslClaimsConfig(
        images=images,
        val=ImagesConfig(root=str(make_images(tmp_path / "val", per_class=3, seed=1))),
        teacher=replace(teacher, output="features", input_size=32),
        student=StudentConfig(name="test_resnet", input_size=32),
        out=str(tmp_path / "out"),
        epochs=2,
        max_images=None,
        batch_size=8,
        crops_per_image=2,
        losses=(SslConfig(), SslConfig(loss="bank", bank_size=8)),
        knn=NeighborsConfig(k=3),
        seeds=2,
        num_workers=0,
        device="cpu",
    )
    said = []
    text = run_comparison(config, said.append)
    names = [row.name for row in all_rows(config)]
    assert names == ["s2bnn dims", "fkd-ssl dims", "fkd-ssl bank", "fkd-ssl dims m2"]
    results = json.loads((tmp_path / "out" / "self-supervised.json").read_text())
    for name in names:
        assert results["rows"][name]["n"] == len(results["runs"][name]) == 2
        assert f"| {name} | 2 | " in text
    assert results["rows"]["s2bnn dims"]["relative_time"] == 1.0
    assert "| the teacher | 1 | " in text
    assert "| random weights | 2 | " in text
    assert results["labeling_seconds"] > 0
    again = run_comparison(config, said.append)
    assert again.partition("labels:")[0].strip() == text.partition("labels:")[0].strip()


def test_the_settings_of_cifar10_are_read(monkeypatch):
    read = []
    module = "benchmarks.claims.self_supervised.run_comparison"
    monkeypatch.setattr(module, lambda config, say: read.append(config) or "")
    main(["--config", str(Path(__file__).parents[2] / "benchmarks/claims/cifar10-ssl.yaml")])
    assert read[0].epochs == 16
    assert [loss.loss for loss in read[0].losses] == ["dims", "cosine", "bank"]
