"""`set_epoch` reaches the data set through every loader that may hold it."""

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DataLoaderConfiguration
from timm.data.loader import PrefetchLoader
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from fkd import MultiCropDataset, collate_crops
from fkd.integrations.epochs import set_epoch
from fkd.store import LabelStore


def prepared(loader, **options):
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))
    return accelerator.prepare(loader)


def distributed(loader):
    dataset = loader.dataset
    sampler = DistributedSampler(dataset, num_replicas=2, rank=1)
    return DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=collate_crops)


WRAPPED = {
    "torch": lambda loader: loader,
    "distributed": distributed,
    "timm": lambda loader: PrefetchLoader(loader, device=torch.device("cpu")),
    "accelerate": prepared,
    "accelerate, seedable": lambda loader: prepared(loader, use_seedable_sampler=True),
    "accelerate, distributed": lambda loader: prepared(distributed(loader)),
    "accelerate, skipping": lambda loader: skip_first_batches(prepared(loader), 1),
}


@pytest.fixture
def read(monkeypatch):
    """Crop numbers that are read, by image."""
    seen, original = {}, LabelStore.read

    def record(self, rows, crops=None):
        if crops is not None:
            for row, numbers in zip(rows, crops, strict=True):
                seen.setdefault(int(row), []).extend(numbers.tolist())
        return original(self, rows, crops)

    monkeypatch.setattr(LabelStore, "read", record)
    return seen


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("epochs", [[0, 1, 2], [2, 1]])
def test_a_pass_has_the_crops_of_its_number(wrap, epochs, dataset, read):
    expected = {}
    for epoch in epochs:
        dataset.set_epoch(epoch)
        for image in range(len(dataset)):
            dataset[image]
        expected[epoch] = {row: sorted(numbers) for row, numbers in read.items()}
        read.clear()
    sampler = RandomSampler(dataset)
    loader = wrap(DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=collate_crops))
    for epoch in epochs:
        set_epoch(loader, epoch)
        for _ in loader:
            pass
        assert read
        for row, numbers in read.items():
            assert sorted(set(numbers)) == expected[epoch][row]
        read.clear()


def test_a_distributed_sampler_has_another_order_in_every_pass(dataset):
    loader = distributed(DataLoader(dataset, collate_fn=collate_crops))
    orders = []
    for epoch in range(3):
        set_epoch(loader, epoch)
        orders.append(tuple(loader.sampler))
    assert len(set(orders)) == 3


def test_worker_processes_that_stay_hear_of_it(image_folder, label_store):
    dataset = MultiCropDataset(image_folder, label_store, crops_per_image=2, size=16)
    loader = DataLoader(
        dataset, batch_size=15, num_workers=1, persistent_workers=True, collate_fn=collate_crops
    )
    passes = []
    for epoch in (0, 1, 0):
        set_epoch(loader, epoch)
        passes.append(next(iter(loader))[0])
    assert not passes[0].equal(passes[1])
    assert passes[0].equal(passes[2])
