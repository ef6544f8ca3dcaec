import numpy as np
import pytest

from fkd.labels.codecs import decode
from fkd.store import LabelStore
from fkd.store.agreement import compare_labels


def dense(store: LabelStore, rows: np.ndarray) -> np.ndarray:
    return decode(store.codec, store.read(rows).label, store.num_classes).double().numpy()


@pytest.mark.parametrize(
    ("one", "other"), [("ms:2", "ms:2"), ("ms:3", "ms:2"), ("mr:2", "mr:2"), ("full", "ms:2")]
)
def test_labels_are_compared_as_their_definition_says(lab, tmp_path, one, other):
    """Also where the sparse form is used, which never forms the other classes."""
    jobs = {"a": lab.Job(codec=one), "b": lab.Job(codec=other, value_dtype="f16")}
    for name, job in jobs.items():
        job.run(tmp_path / name)
    before, after = (LabelStore.open(tmp_path / name) for name in jobs)
    rows = np.flatnonzero(before.labeled(np.arange(20)))
    p, q = dense(before, rows), dense(after, rows)
    terms = np.where(p > 0, p * np.log(np.maximum(p, 1e-12) / np.maximum(q, 1e-12)), 0)
    seen = []
    report = compare_labels(before, after, seen.append)
    assert report.num == len(p) == 54
    assert report.mean_kl == pytest.approx(terms.sum(1).mean(), rel=1e-4, abs=1e-7)
    assert report.max_kl == pytest.approx(terms.sum(1).max(), rel=1e-4, abs=1e-7)
    assert report.top1_agreement == (p.argmax(1) == q.argmax(1)).mean()
    assert sum(seen) == 20
