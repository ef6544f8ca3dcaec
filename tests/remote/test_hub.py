"""The hub, by its own client against a stand-in on loopback: push, pull, opening, errors."""

import logging
import pickle
import shutil
from functools import partial

import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants

from fkd.cli import main
from fkd.data.multicrop import MultiCropDataset
from fkd.errors import ConfigError, DamagedStore, NotThere, RemoteError, StoreMismatch
from fkd.labeling.config import parse_shards
from fkd.remote.addresses import parse_address
from fkd.remote.cards import make_card
from fkd.remote.contents import read_folder
from fkd.remote.pull import pull
from fkd.remote.push import push
from fkd.store import LabelStore, verify_store
from fkd.store.hub import parse_hub_address
from fkd.store.manifest import shard_name
from tests.remote.conftest import serving
from tests.remote.hub import READ, WRITE, Hub, HubHandler
from tests.remote.test_pull import files_of

FIRST = shard_name(0)
ADDRESS = parse_address("ann/pets")
OPEN = "hf://datasets/ann/pets"
KEY = "datasets/ann/pets"

# The hub's client hands its uploads to its HTTP library in a way that this calls outdated.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"
)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub, and a user who may write to it."""
    made = Hub()
    with serving(partial(HubHandler, hub=made)) as url:
        made.url = url
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", WRITE)
        huggingface_hub.close_session()
        yield made
        huggingface_hub.close_session()


@pytest.fixture
def pushed(hub, label_store) -> Hub:
    push(label_store.path, ADDRESS)
    return hub


def files_at(hub: Hub, key=KEY, revision="main") -> dict[str, bytes]:
    files = hub.repositories[key].files(revision)[1]
    return {name: data for name, data in files.items() if name != ".gitattributes"}


def front_of(card: bytes) -> dict:
    _, header, _ = card.decode().split("---\n", 2)
    return yaml.safe_load(header)


def test_a_store_becomes_a_data_set_with_a_card_in_one_commit(hub, label_store):
    seen = []
    done = push(label_store.path, ADDRESS, progress=lambda at, total: seen.append((at, total)))
    files = files_at(hub)
    card = files.pop("README.md").decode()
    assert files == files_of(label_store.path)
    assert seen[-1][0] == seen[-1][1] == done.num_bytes
    assert "/commit/" in done.place
    assert len(hub.repositories[KEY].commits) == 2  # the first is of the hub
    front = front_of(card.encode())
    assert front["license"] == "unknown"
    assert front["task_categories"] == ["image-classification"]
    for part in (label_store.root_hash, "`ms:2`", "| crops per image (M) | 6 |", OPEN, "`color`"):
        assert part in card
    assert f"{done.num_bytes:,} bytes, {label_store.num_bytes / 90:.1f} per crop" in card
    assert not hub.repositories[KEY].private


def test_what_the_hub_has_is_not_sent_again(pushed, label_store):
    pushed.uploads.clear()
    commits = len(pushed.repositories[KEY].commits)
    assert push(label_store.path, ADDRESS).root_hash == label_store.root_hash
    assert pushed.uploads == []
    assert len(pushed.repositories[KEY].commits) == commits


def test_a_push_that_was_stopped_resumes(hub, label_store):
    hub.status["/commit/"] = 503
    with pytest.raises(RemoteError, match="status 503; try again later"):
        push(label_store.path, ADDRESS)
    assert "manifest.json" not in files_at(hub)
    hub.status.clear()
    hub.uploads.clear()
    push(label_store.path, ADDRESS)
    assert hub.uploads == []
    assert files_at(hub).keys() > files_of(label_store.path).keys()


def test_private_repositories_branches_and_folders(hub, label_store, tmp_path):
    address = parse_address("hf://datasets/ann/pets/stores/first")
    push(label_store.path, address, private=True, revision="v1")
    assert hub.repositories[KEY].private
    assert "stores/first/manifest.json" in files_at(hub, revision="v1")
    assert "stores/first/manifest.json" not in files_at(hub)
    pull(address, tmp_path / "here", revision="v1")
    assert files_of(tmp_path / "here") == files_of(label_store.path)
    store = LabelStore.open("hf://datasets/ann/pets@v1/stores/first")
    assert store.root_hash == label_store.root_hash


def test_a_store_is_fetched_in_parts_with_the_same_bytes(pushed, label_store, tmp_path):
    done = pull(ADDRESS, tmp_path / "here", shards=parse_shards("0:1"))
    assert list(done.shards) == [0]
    pushed.broken[shard_name(1)] = 1
    seen = []
    pull(ADDRESS, tmp_path / "here", progress=lambda at, total: seen.append(at / total))
    assert seen[-1] == 1.0
    assert files_of(tmp_path / "here") == files_of(label_store.path)
    pushed.broken[FIRST] = 9
    with pytest.raises(RemoteError, match=f"data set ann/pets/{FIRST} has other bytes"):
        pull(ADDRESS, tmp_path / "there")
    assert not (tmp_path / "there" / "manifest.json").exists()


def test_a_store_opens_by_its_address(pushed, label_store, image_source):
    store = LabelStore.open(OPEN)
    assert store.root_hash == label_store.root_hash
    assert (store.path / FIRST).read_bytes() == (label_store.path / FIRST).read_bytes()
    assert pickle.loads(pickle.dumps(store)).root_hash == store.root_hash
    assert verify_store(OPEN) == []
    dataset = MultiCropDataset(image_source, OPEN, crops_per_image=2, size=16)
    assert len(dataset) == len(image_source)


def test_without_a_network_what_was_opened_opens_again(pushed, label_store, monkeypatch, tmp_path):
    LabelStore.open(OPEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert LabelStore.open(OPEN).root_hash == label_store.root_hash
    with pytest.raises(RemoteError, match="does not answer, and it is not in the hub's cache"):
        LabelStore.open("hf://datasets/ann/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert LabelStore.open(OPEN).root_hash == label_store.root_hash
    for transfer in (
        lambda: pull(ADDRESS, tmp_path / "here"),
        lambda: push(label_store.path, ADDRESS),
    ):
        with pytest.raises(RemoteError, match="does not answer; check the network"):
            transfer()


def test_the_first_opening_compares_all_bytes(pushed, label_store):
    pushed.broken[FIRST] = 1
    assert verify_store(LabelStore.open(OPEN).path) == []  # fetched again
    shutil.rmtree(constants.HF_HUB_CACHE)
    shutil.rmtree(constants.HF_ASSETS_CACHE)
    pushed.broken[FIRST] = 9
    with pytest.raises(DamagedStore, match=f"{FIRST} of data set ann/pets differs"):
        LabelStore.open(OPEN)


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://datasets/ann",
        "hf://datasets/a/b/../../c",
        "hf://datasets/a/b@",
        "hf:/x",
        "hf://datasets/a/b@refs/x",
    ],
)
def test_addresses_of_no_repository_are_refused(text):
    with pytest.raises(ConfigError, match="is no repository of the hub"):
        LabelStore.open(text)


NO_ADDRESSES = [
    *(
        "s3:/bucket/labels",
        "s3:bucket/labels",
        "s3//bucket/labels",
        "s3/bucket",
        "http:/host/labels",
    ),
    *("localhost:5000/labels", "https://huggingface.co/datasets/ann/pets", "hf.co/ann/pets"),
    *("datasets/ann/pets", "models/ann/student", "here/pets", "here/pets/", "here/pets@v1"),
]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_looks_like_an_address_becomes_no_folder(text, tmp_path, monkeypatch):
    """Nor is a folder taken for a repository: both would send labels to where nobody looks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ConfigError, match=r"url: .*; write "):
        parse_address(text)
    assert parse_address(f"./{text}").kind == "folder"


def test_folders_and_repositories_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "labels").mkdir(parents=True)
    for text in ("new", "here", "here/labels", "./ann/pets", "../ann/pets", "new/a/b", "/a/b"):
        assert parse_address(text).kind == "folder"
    for text in ("ann/pets", "ann/pets/", "ann/pets@v1", "hf://ann/pets"):
        assert parse_address(text).kind == "hub"
    assert parse_address("S3://bucket/Labels/").url == "s3://bucket/Labels"
    of_files = "https://huggingface.co/datasets/ann/pets/resolve/main"
    assert parse_address(of_files).kind == "web"


def test_addresses_are_read_like_paths():
    plain = parse_hub_address("hf://datasets/ann/pets@v1/a/b")
    assert (plain.repository, plain.kind) == ("ann/pets", "dataset")
    assert (plain.revision, plain.folder) == ("v1", "a/b")
    assert parse_hub_address("hf:/datasets/ann/pets@v1/a/b/") == plain
    assert parse_hub_address("ann/pets").kind is None
    of_request = parse_hub_address("hf://datasets/ann/pets@refs/pr/1/a")
    assert (of_request.revision, of_request.folder) == ("refs/pr/1", "a")
    with pytest.raises(ConfigError, match="is the repository of a model"):
        LabelStore.open("hf://ann/student")


def test_another_store_is_refused_and_replaced_on_request(
    pushed, label_store, image_source, make_store, tmp_path
):
    other = make_store(tmp_path / "other", image_source, num_crops=3)
    with pytest.raises(StoreMismatch, match="or --replace") as caught:
        push(other.path, ADDRESS)
    assert label_store.root_hash in str(caught.value)
    assert other.root_hash in str(caught.value)
    push(other.path, ADDRESS, replace=True)
    files = files_at(pushed)
    assert other.root_hash in files.pop("README.md").decode()
    assert files == files_of(other.path)


MADE_BY = {
    "label": ({}, None, "fkd label --images.root photos/train --teacher.name color --num_crops 6"),
    "imported": (
        {"origin": "imported"},
        None,
        "fkd import-labels --format FORMAT --labels FILES --images.root photos/train --out labels",
    ),
    "imported maps": (
        {"origin": "imported"},
        (2, 3),
        "fkd import-labels --format relabel --labels FILES",
    ),
    "maps": ({}, (2, 3), "fkd label-maps --images.root photos/train --teacher.name color --out"),
    "converted": (
        {"origin": "imported", "converted_from": {}},
        None,
        "fkd convert LABELS --num_crops 6 --codec ms:2",
    ),
}


@pytest.mark.parametrize("kind", MADE_BY)
def test_a_card_says_how_the_labels_were_made(kind, label_store, monkeypatch):
    """Labels that others have made are not made by `fkd label`."""
    members, grid, command = MADE_BY[kind]
    config = label_store.config | members
    monkeypatch.setattr(LabelStore, "config", property(lambda store: config))
    monkeypatch.setattr(LabelStore, "grid", property(lambda store: grid))
    card = make_card(label_store.path, read_folder(label_store.path), ADDRESS.hub)
    assert f"\n{command}" in card
    assert ("imported" in card) == ("origin" in members)


def test_cards_of_people_are_left_alone(pushed, label_store, tmp_path):
    pushed.repositories[KEY].files("main")[1]["README.md"] = b"---\n---\nmine"
    push(label_store.path, ADDRESS)
    assert files_at(pushed)["README.md"] == b"---\n---\nmine"
    copy = tmp_path / "copy"
    shutil.copytree(label_store.path, copy)
    (copy / "README.md").write_bytes(b"---\nlicense: mit\n---\nof the folder")
    push(copy, ADDRESS)
    assert files_at(pushed)["README.md"].endswith(b"of the folder")


def test_a_run_becomes_a_model_and_comes_back(hub, run, tmp_path, capsys):
    address = parse_address("ann/student")
    push(run, address)
    files = files_at(hub, "models/ann/student")
    front = front_of(files["README.md"])
    assert (front["license"], front["library_name"]) == ("mit", "timm")
    assert "checkpoints/step-3.pt" not in files
    card = files["README.md"].decode()
    assert 'timm.create_model("hf-hub:ann/student", pretrained=True)' in card
    pull(address, tmp_path / "here")
    shutil.rmtree(run / "checkpoints")
    assert files_of(tmp_path / "here") == files_of(run)
    main(["pull", "hf://ann/student", str(tmp_path / "here")])
    assert "pulled" in capsys.readouterr().out


def test_kinds_that_do_not_fit_are_refused(hub, label_store, run):
    with pytest.raises(ConfigError, match="a store goes to a repository of a data set"):
        push(label_store.path, parse_address("hf://ann/pets"))
    with pytest.raises(ConfigError, match="a run goes to a repository of a model"):
        push(run, parse_address("hf://datasets/ann/pets"))


@pytest.mark.parametrize("license_", ["apache-2.0", "MIT", "my own", None])
def test_the_license_is_that_of_the_weights(license_, hub, label_store, monkeypatch):
    from dataclasses import replace

    facts = label_store.provenance.teachers[0]
    real = LabelStore.provenance.fget
    monkeypatch.setattr(
        LabelStore,
        "provenance",
        property(lambda self: replace(real(self), teachers=(replace(facts, license=license_),))),
    )
    push(label_store.path, ADDRESS)
    front = front_of(files_at(hub)["README.md"])
    expected = {"apache-2.0": "apache-2.0", "MIT": "mit", "my own": "other", None: "unknown"}
    assert front["license"] == expected[license_]
    assert front.get("license_name") == ("my own" if license_ == "my own" else None)


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "log in with `hf auth login`"), (READ, "your token may not do this")],
)
def test_who_may_not_write_is_told(hub, label_store, token, message, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(RemoteError, match=message) as caught:
        push(label_store.path, ADDRESS)
    assert "hf_" not in str(caught.value)
    assert hub.repositories == {}


def test_an_organization_of_others_is_told(hub, label_store):
    with pytest.raises(RemoteError, match="your token may not do this"):
        push(label_store.path, parse_address("others/pets"))


def test_what_is_missing_gated_or_private_is_told(pushed, monkeypatch, tmp_path):
    for open_it in (LabelStore.open, lambda text: pull(parse_address(text), tmp_path / "here")):
        with pytest.raises(NotThere, match=r"does not exist, or you may not see it|neither"):
            open_it("hf://datasets/ann/nothing")
        with pytest.raises(NotThere, match="no such revision"):
            open_it(f"{OPEN}@v9")
        with pytest.raises(RemoteError, match=r"no finished label store|neither manifest\.json"):
            open_it(f"{OPEN}/elsewhere")
        pushed.repositories[KEY].gated = True
        monkeypatch.setenv("HF_TOKEN", READ)
        with pytest.raises(RemoteError, match="is gated: ask for access"):
            open_it(OPEN)
        pushed.repositories[KEY].gated = False
        pushed.repositories[KEY].private = True
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(NotThere, match="log in"):
            open_it(OPEN)
        pushed.repositories[KEY].private = False
        monkeypatch.setenv("HF_TOKEN", WRITE)


def test_options_of_buckets_mean_nothing_to_the_hub(hub, label_store, tmp_path):
    with pytest.raises(ConfigError, match="mean nothing to the hub"):
        push(label_store.path, ADDRESS, options={"anon": True})
    with pytest.raises(ConfigError, match="mean nothing to the hub"):
        pull(ADDRESS, tmp_path / "x", options={"anon": True})


def test_verbs_take_an_address_for_a_store(pushed, label_store, capsys):
    main(["inspect", OPEN])
    assert label_store.root_hash[:12] in capsys.readouterr().out
    main(["verify", OPEN])
    assert "is whole" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["view", OPEN, "--images.root", "."])
    assert "out: give the file of the page" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR)
