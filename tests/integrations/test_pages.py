"""The scripts of docs/integrations*, as printed but small: in one process and in two.

Three passes with 2 of 6 stored crops: every crop of every image is seen exactly once, if the passes
advance and every image is read once in each.
"""

from collections import Counter

import pytest

from tests.integrations.scripts import run, run_together, script_of

# Lightning's, of its own imports and for loaders without worker processes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]

NUM_IMAGES, NUM_CROPS = 15, 6
_DATA = {"crops_per_image=4": "crops_per_image=2", "size=224": "size=32"}
_LOADER = {"batch_size=64": "batch_size=4", "num_workers=4, persistent_workers=True, ": ""}
_TINY = {'"resnet18"': '"test_resnet"'}
SMALL = {
    "integrations/timm.md": _DATA | _LOADER | _TINY | {"num_passes = 25": "num_passes = 3"},
    "integrations/lightning.md": {
        "crops_per_image=4": "crops_per_image=2, size=32",
        **_LOADER,
        **_TINY,
        "max_epochs=25": 'max_epochs=3, accelerator="cpu", logger=False, '
        "enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False",
        "trainer.fit(Student(store.num_classes), loader)": "model = Student(store.num_classes)\n"
        "trainer.fit(model, loader)",
    },
    "integrations/huggingface.md": {
        **_DATA,
        "num_labels=store.num_classes": "num_labels=store.num_classes, embedding_size=8, "
        'hidden_sizes=[8], depths=[1], layer_type="basic"',
        "num_train_epochs=25": "num_train_epochs=3, use_cpu=True, save_strategy='no', "
        "disable_tqdm=True, logging_strategy='no'",
        "per_device_train_batch_size=64": "per_device_train_batch_size=4",
        "    dataloader_num_workers=4,\n": "",
    },
    "integrations/accelerate.md": {
        "crops_per_image=4": "crops_per_image=2, size=32",
        **_LOADER,
        **_TINY,
        "Accelerator()": "Accelerator(cpu=True)",
        "range(first_epoch, 25)": "range(first_epoch, 3)",
    },
}
_TIMM_TOGETHER = {
    **_DATA,
    **_TINY,
    "batch_size=64, shuffle=True, num_workers=4, persistent_workers=True, ": "batch_size=4, "
    "sampler=torch.utils.data.DistributedSampler(dataset), ",
    "num_passes = 25": "num_passes = 3",
    "store = ": "torch.distributed.init_process_group()\nstore = ",
    "step = 0": "task.prepare_distributed()\nstep = 0",
}
TOGETHER = SMALL | {
    "integrations/timm.md": _TIMM_TOGETHER,
    "integrations/lightning.md": {
        name: word.replace('"cpu"', '"cpu", devices=2, strategy="ddp"')
        for name, word in SMALL["integrations/lightning.md"].items()
    },
}
_PLAIN = {
    "crops_per_image=4": "crops_per_image=2, size=32",
    "batch_size=64": "batch_size=4",
    "range(25)": "range(3)",
    **_TINY,
}


@pytest.mark.parametrize("page", SMALL)
def test_every_crop_is_seen_once(page, folder):
    seen = Counter(map(tuple, run(script_of(page, SMALL[page]), folder)["read"]))
    assert len(seen) == NUM_IMAGES * NUM_CROPS
    assert set(seen.values()) == {1}


@pytest.mark.parametrize(
    ("page", "number", "words"),
    [*((page, 0, words) for page, words in TOGETHER.items()), ("integrations.md", 1, _PLAIN)],
)
def test_two_processes_share_the_images_and_learn_the_same(page, number, words, folder):
    """15 images and two processes: each pass repeats one image, 2 crops of it."""
    first, second = run_together(script_of(page, words, number), folder)
    assert first["weights"] == second["weights"]
    seen = Counter(map(tuple, first["read"] + second["read"]))
    assert len(seen) == NUM_IMAGES * NUM_CROPS
    assert sum(seen.values()) <= (NUM_IMAGES + 1) * NUM_CROPS
    assert len(first["read"]) == len(second["read"])
