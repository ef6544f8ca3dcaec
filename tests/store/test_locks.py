import os
import signal
import time

import pytest

from fkd.errors import StoreError, StoreLocked
from fkd.store import StoreWriter, repair_store, writer


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def told():
    """A pipe by which a child says that it has come so far: (read, write)."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_second_run_is_refused_at_once(lab, tmp_path):
    config = lab.Job().config
    with StoreWriter.open(tmp_path / "s", config):
        start = time.monotonic()
        with pytest.raises(StoreLocked, match=str(tmp_path / "s")):
            StoreWriter.open(tmp_path / "s", config)
        assert time.monotonic() - start < 1
    StoreWriter.open(tmp_path / "s", config).close()


def test_a_store_in_use_is_not_repaired(lab, tmp_path):
    with StoreWriter.open(tmp_path / "s", lab.Job().config), pytest.raises(StoreLocked):
        repair_store(tmp_path / "s")


def test_the_lock_is_gone_with_its_holder(lab, tmp_path, told):
    config = lab.Job().config

    def hold():
        writer = StoreWriter.open(tmp_path / "s", config)
        os.write(told[1], b"held")
        time.sleep(60)
        writer.close()

    child = lab.fork(hold)
    assert os.read(told[0], 4) == b"held"
    with pytest.raises(StoreLocked):
        StoreWriter.open(tmp_path / "s", config)
    os.kill(child, signal.SIGKILL)
    assert wait(child) == -signal.SIGKILL
    StoreWriter.open(tmp_path / "s", config).close()


def test_children_of_a_dead_writer_do_not_keep_its_lock(lab, tmp_path, told):
    """Data loader workers outlive a killed labeling process for some seconds."""
    config = lab.Job().config

    def hold():
        writer = StoreWriter.open(tmp_path / "s", config)
        worker = lab.fork(lambda: time.sleep(60))
        os.write(told[1], worker.to_bytes(4, "little"))
        time.sleep(60)
        writer.close()

    child = lab.fork(hold)
    worker = int.from_bytes(os.read(told[0], 4), "little")
    with pytest.raises(StoreLocked):
        StoreWriter.open(tmp_path / "s", config)
    os.kill(child, signal.SIGKILL)
    wait(child)
    try:
        StoreWriter.open(tmp_path / "s", config).close()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_helper_waits_for_the_leader_to_prepare(lab, job, finished, tmp_path):
    helper = lab.fork(lambda: job.run(tmp_path / "s", 1, 2))
    time.sleep(0.1)
    assert not (tmp_path / "s").exists()
    job.run(tmp_path / "s", 0, 2)
    assert wait(helper) == 0
    assert lab.folder_digest(tmp_path / "s") == lab.folder_digest(finished)


def test_a_helper_that_comes_after_the_end_has_nothing_to_do(job, store):
    """The leader needs no helper where all shards were committed by an earlier run."""
    with StoreWriter.open(store, job.config, rank=1, world_size=2) as late:
        assert late.pending() == []


def test_a_helper_without_a_leader_gives_up(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_PATIENCE", 0.1)
    StoreWriter.open(tmp_path / "s", lab.Job().config).close()
    with pytest.raises(StoreError, match="process 0 did not open"):
        StoreWriter.open(tmp_path / "s", lab.Job().config, rank=1, world_size=2)


def test_a_new_run_waits_for_the_helpers_of_a_dead_leader_to_end(lab, tmp_path):
    config = lab.Job().config
    leader = StoreWriter.open(tmp_path / "s", config, world_size=2)
    helper = StoreWriter.open(tmp_path / "s", config, rank=1, world_size=2)
    leader.close()
    with pytest.raises(StoreLocked):
        StoreWriter.open(tmp_path / "s", config)
    helper.close()
    StoreWriter.open(tmp_path / "s", config).close()


def test_a_helper_with_other_settings_is_refused(lab, tmp_path):
    with (
        StoreWriter.open(tmp_path / "s", lab.Job().config, world_size=2),
        pytest.raises(StoreError, match="num_crops"),
    ):
        StoreWriter.open(tmp_path / "s", lab.Job(num_crops=5).config, rank=1, world_size=2)
