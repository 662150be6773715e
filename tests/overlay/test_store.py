"""The store with images that have no layers, which takes no privileges; those with layers are in tests/kernel."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydock.overlay import manifest as documents
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Exists, Invalid, NotFound
from pydock.overlay.image import ARCHITECTURE, Image, directory_image
from pydock.overlay.manifest import ImageConfig
from pydock.overlay.reference import Reference
from pydock.overlay.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


def add(store: Store, name: str, *, command: tuple[str, ...] = ()) -> Image:
    with store.intake() as intake:
        return intake.finish(Reference.parse(name), ImageConfig(command=command))


def blobs(store: Store) -> int:
    return len(list((store.directory / "blobs" / "sha256").iterdir()))


def test_an_empty_store_is_an_oci_layout(store: Store) -> None:
    assert json.loads((store.directory / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.directory / "index.json").read_text())
    assert (index["schemaVersion"], index["manifests"]) == (2, [])
    assert (store.directory / "blobs").is_dir()
    assert store.references() == ()


def test_an_image_is_found_by_any_form_of_its_name(store: Store) -> None:
    made = add(store, "app", command=("sh",))
    assert store.references() == ("app:latest",)
    assert store.image("docker.io/library/app:latest") == made == store.image("app")
    assert made.reference == "app:latest"
    assert made.config == ImageConfig(command=("sh",))
    assert (made.os, made.architecture, made.size) == ("linux", ARCHITECTURE, 0)


def test_the_index_names_the_full_reference(store: Store) -> None:
    made = add(store, "app")
    (entry,) = json.loads((store.directory / "index.json").read_text())["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == "docker.io/library/app:latest"
    assert entry["digest"] == made.digest
    manifest = json.loads(store.manifest(made))
    assert manifest["config"]["digest"] == made.id
    assert json.loads(store.config_file(made))["architecture"] == ARCHITECTURE


def test_a_new_store_on_the_same_directory_has_the_same_images(store: Store) -> None:
    made = add(store, "app")
    assert Store(store.directory).image("app") == made


def test_a_missing_image_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no such image: app:latest"):
        store.image("app")
    with pytest.raises(NotFound):
        store.untag("app")
    with pytest.raises(NotFound):
        store.tag("app", "other")
    with pytest.raises(NotFound):
        store.rename("app", "other")


def test_a_bad_name_is_invalid(store: Store) -> None:
    with pytest.raises(Invalid):
        store.image("../etc")


def test_the_last_tag_takes_the_image_with_it(store: Store) -> None:
    made = add(store, "app")
    store.tag("app", "team/app:2")
    assert store.references() == ("app:latest", "team/app:2")
    assert store.image("team/app:2").id == made.id
    store.untag("app")
    assert store.image("team/app:2").id == made.id
    store.untag("team/app:2")
    assert (store.references(), blobs(store)) == ((), 0)


def test_what_two_images_share_stays_with_the_other(store: Store) -> None:
    with store.intake() as intake:
        first = intake.finish(Reference.parse("a"), ImageConfig(), created="2020-01-01T00:00:00Z")
    with store.intake() as intake:
        manifest = store.manifest(first) + b"\n"
        second = intake.finish_with(Reference.parse("b"), store.config_file(first), manifest)
    assert (second.id, second.digest) == (first.id, str(Digest.of(manifest)))
    store.untag("a")
    assert store.image("b").id == first.id
    assert blobs(store) == 2


def test_rename_moves_the_tag(store: Store) -> None:
    made = add(store, "app")
    assert store.rename("app", "other:1").id == made.id
    assert store.references() == ("other:1",)
    assert store.rename("other:1", "other:1").id == made.id


def test_rename_to_a_name_that_is_taken_is_refused(store: Store) -> None:
    add(store, "a")
    add(store, "b")
    with pytest.raises(Exists, match="b:latest is an image already"):
        store.rename("a", "b")
    assert store.references() == ("a:latest", "b:latest")


def test_a_retagged_image_stays_until_it_is_collected(store: Store) -> None:
    add(store, "a", command=("old",))
    add(store, "a", command=("new",))
    assert store.image("a").config.command == ("new",)
    assert blobs(store) == 4
    store.collect()
    assert blobs(store) == 2


def test_an_intake_given_up_leaves_nothing(store: Store) -> None:
    with pytest.raises(Invalid), store.intake() as intake:
        intake.finish_with(Reference.parse("a"), b"{}")
    assert (store.references(), blobs(store), list((store.directory / "tmp").iterdir())) == ((), 0, [])


def test_documents_that_do_not_fit_are_invalid(store: Store) -> None:
    config = documents.encode(
        documents.ConfigFile("amd64", "linux", documents.RootFs(diff_ids=(str(Digest.of(b"other")),)))
    )
    with pytest.raises(Invalid, match="other layers"), store.intake() as intake:
        intake.finish_with(Reference.parse("a"), config)
    fine = documents.encode(documents.ConfigFile("amd64", "linux", documents.RootFs()))
    manifest = documents.encode(
        documents.Manifest(config=documents.Descriptor(documents.CONFIG, str(Digest.of(b"")), 0))
    )
    with pytest.raises(Invalid, match="another config"), store.intake() as intake:
        intake.finish_with(Reference.parse("a"), fine, manifest)
    assert blobs(store) == 0


def test_an_image_has_its_name_since_it_got_it(store: Store) -> None:
    begin = time.time_ns()
    add(store, "a")
    first = store.tagged("a")
    assert begin <= first <= time.time_ns()
    store.tag("a", "b")
    assert first < store.tagged("b")
    add(store, "other")
    assert store.tagged("a") == store.tagged("docker.io/library/a:latest") == first
    store.tag("b", "a")  # the same image again
    assert Store(store.directory).tagged("a") == first
    store.rename("b", "c")
    moved = store.tagged("c")
    store.tag("other", "c")
    assert first < moved < store.tagged("c")
    with pytest.raises(NotFound):
        store.tagged("b")


def test_a_name_that_another_tool_gave_is_as_old_as_the_manifest(store: Store) -> None:
    made = add(store, "a")
    path = store.directory / "index.json"
    index = json.loads(path.read_text())
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "docker.io/library/a:latest"}
    path.write_text(json.dumps(index))
    os.utime(store.blobs.path(Digest.parse(made.digest)), ns=(5, 5))
    again = Store(store.directory)
    assert again.tagged("a") == 5
    again.tag("a", "b")
    assert (again.tagged("a"), again.tagged("b") > 5) == (5, True)


def test_entries_of_other_tools_are_kept_and_no_images_of_ours(store: Store) -> None:
    made = add(store, "a")
    index = json.loads((store.directory / "index.json").read_text())
    (entry,) = index["manifests"]
    foreign = {**entry, "annotations": {"org.opencontainers.image.ref.name": "NOT A NAME"}}
    index["manifests"].append(foreign)
    (store.directory / "index.json").write_text(json.dumps(index))
    again = Store(store.directory)
    assert again.references() == ("a:latest",)
    again.untag("a")
    assert json.loads((store.directory / "index.json").read_text())["manifests"] == [foreign]
    assert again.blobs.has(Digest.parse(made.digest))


def test_recover_clears_away_what_was_half_made(store: Store) -> None:
    made = add(store, "a")
    images = store.directory
    (images / "tmp" / "layer-x" / "tree" / "etc").mkdir(parents=True)
    (images / "tmp" / "blob-y").write_bytes(b"half")
    (images / "tmp" / "document-z").write_bytes(b"{")
    (images / "layers" / f"sha256-{'0' * 64}.json").write_text("{}")
    (images / "layers" / f"sha256-{'1' * 64}").mkdir()
    store.blobs.put(b"renamed, but in no index yet")
    again = Store(images)
    again.recover()
    again.empty_trash()
    assert again.image("a") == made
    assert blobs(again) == 2
    assert sum((list((images / name).iterdir()) for name in ("tmp", "layers", "trash")), []) == []


def test_recover_keeps_layers_that_somebody_uses(store: Store) -> None:
    used = Digest.of(b"used")
    store.layers.path(used).mkdir()
    store.recover(keep=frozenset((str(used),)))
    assert store.layers.has(used)
    store.recover()
    assert not store.layers.has(used)


def test_a_damaged_document_is_invalid_and_does_not_stand_in_the_way_of_its_removal(store: Store) -> None:
    made = add(store, "a")
    store.blobs.path(Digest.parse(made.digest)).write_bytes(b"{")
    again = Store(store.directory)
    with pytest.raises(Invalid):
        again.image("a")
    again.untag("a")
    again.collect()
    assert blobs(again) == 0


def test_the_store_is_for_root_alone(store: Store) -> None:
    assert {os.stat(store.directory / name).st_mode & 0o777 for name in (".", "layers", "tmp", "trash")} == {0o700}


def test_a_directory_serves_as_an_image(tmp_path: Path) -> None:
    tree = tmp_path / "a:b,c\\d"
    tree.mkdir()
    image = directory_image(tree)
    assert (image.reference, image.directory, image.config) == (str(tree), tree, ImageConfig())
    assert Store(tmp_path / "images").layer_paths(image) == (tree,)


def test_what_is_no_directory_serves_as_no_image(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotFound, match="no such directory"):
        directory_image(tmp_path / "nothing")
    with pytest.raises(Invalid, match="is not a directory"):
        directory_image(tmp_path / "file")
    with pytest.raises(Invalid, match="not an absolute path"):
        directory_image(Path("relative"))


BEFORE = '"boot":"00000000-0000-0000-0000-000000000000"'


def lose_power(store: Store) -> None:
    """Make the ledger look like one of an earlier boot."""
    ledger = store.directory / "unsettled.json"
    now = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ledger.write_text(ledger.read_text().replace(f'"boot":"{now}"', BEFORE))


def test_what_has_not_settled_is_checked_after_a_loss_of_power(store: Store) -> None:
    add(store, "fine", command=("fine",))
    damaged = add(store, "damaged", command=("damaged",))
    store.blobs.path(Digest.parse(damaged.id)).write_bytes(b"")
    lose_power(store)
    again = Store(store.directory)
    assert again.recover() == ("damaged:latest",)
    assert again.references() == ("fine:latest",)
    assert blobs(again) == 2
    assert Store(store.directory).recover() == ()


def test_what_has_settled_is_not_checked(store: Store) -> None:
    image = add(store, "app")
    assert image.digest.removeprefix("sha256:") in (store.directory / "unsettled.json").read_text()
    store.settle()
    assert json.loads((store.directory / "unsettled.json").read_text())["names"] == []
    lose_power(store)
    assert Store(store.directory).recover() == ()


def test_a_kill_is_no_loss_of_power(store: Store) -> None:
    add(store, "app")
    again = Store(store.directory)
    assert again.recover() == ()
    assert len(json.loads((store.directory / "unsettled.json").read_text())["names"]) == 2


def test_an_index_that_lost_its_bytes_is_the_one_that_settled_last(store: Store) -> None:
    add(store, "old")
    store.settle()
    add(store, "new", command=("new",))
    (store.directory / "index.json").write_bytes(b"")
    lose_power(store)
    again = Store(store.directory)
    again.recover()
    assert again.references() == ("old:latest",)
    assert json.loads((store.directory / "index.json").read_text())["manifests"]


def test_without_a_ledger_s_bytes_everything_is_checked(store: Store) -> None:
    add(store, "fine")
    damaged = add(store, "damaged", command=("damaged",))
    store.settle()
    (store.directory / "unsettled.json").write_bytes(b"")
    store.blobs.path(Digest.parse(damaged.digest)).write_bytes(b"")
    assert Store(store.directory).recover() == ("damaged:latest",)


def test_the_trash_can_be_emptied_by_several_at_once(store: Store) -> None:
    trash = store.directory / "trash"
    for number in range(300):
        (trash / f"layer-{number}" / "below").mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(store.empty_trash) for _ in range(4)]:
            done.result()
    assert list(trash.iterdir()) == []
