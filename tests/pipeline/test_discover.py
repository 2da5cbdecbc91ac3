import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.reference.discovery import hubness_by_loops, match_by_loops, neighbours_by_loops, pairs_by_loops
from torchvision.ops import roi_align

from orl import files, provenance, tables
from orl.config import DiscoverConfig, RunConfig
from orl.datasets.decode import load_image
from orl.datasets.image_table import ImageTable
from orl.discovery.nearest_neighbours import unit_vectors
from orl.discovery.proposal_filter import filter_proposals
from orl.discovery.roi_texture import has_texture
from orl.networks.backbones import build_backbone, pool, read_backbone_file, save_backbone
from orl.networks.mlp import byol_mlp, load_projector, save_projector
from orl.pipeline import discover as module
from orl.pipeline.discover import discover
from orl.pipeline.preflight import preflight
from orl.rundir import RunDir
from orl.views.augment import normalise
from orl.views.crops import centre_crop, cut_boxes

NUM_IMAGES = 7
TABLES = ("embeddings", "neighbours", "proposals", "rois", "roi_embeddings", "correspondences")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    """Images of coloured rectangles; the last one is of one colour."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(NUM_IMAGES):
        pixels = np.full((72, 96, 3), generator.integers(0, 256, 3), dtype=np.uint8)
        for _ in range(0 if index == NUM_IMAGES - 1 else 5):
            left, top = generator.integers(0, 60), generator.integers(0, 40)
            pixels[top : top + 32, left : left + 36] = generator.integers(0, 256, 3)
        Image.fromarray(pixels).save(root / f"{index}.png")
    names = tuple(f"{index}.png" for index in range(NUM_IMAGES))
    return ImageTable(root=root, names=names, sizes_wh=((96, 72),) * NUM_IMAGES, digests=names)


def new_config(out: Path, **changes: object) -> RunConfig:
    options = {"num_neighbours": 3, "embed_px": 32, "roi_embed_px": 32, "min_side": 0.2, "top_fraction": 0.25}
    config = DiscoverConfig(**(options | {"shard_size": 2} | changes))
    return RunConfig(images=Path("images"), out=out, workers=0, device="cpu", discover=config)


def run_stage2(config: RunConfig, images: ImageTable) -> bool:
    return discover(preflight(replace(config, images=images.root), ("discover",)), images)


def stage_1(out: Path, seed: int = 0) -> None:
    """Write the files of a finished stage 1, with random weights."""
    torch.manual_seed(seed)
    run = RunDir(out)
    save_backbone(build_backbone("resnet10"), run.backbone("stage1"))
    save_projector(byol_mlp(512, 16, 8), run.projector("stage1"))


def contents(out: Path) -> dict[str, np.ndarray]:
    found = {}
    for name in TABLES:
        table = tables.load(RunDir(out).table(name))
        found |= {f"{name}.{column}": table.column(column) for column in table.column_names}
    return found


def assert_same(one: Path, other: Path) -> None:
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def rebuilt_by(config: RunConfig, images: ImageTable) -> list[str]:
    """The tables whose files a discovery makes again."""

    def times() -> dict[str, int]:
        return {name: (RunDir(config.out).table(name) / "00000.arrow").stat().st_mtime_ns for name in TABLES}

    before = times()
    run_stage2(config, images)
    return [name for name, time in times().items() if time != before[name]]


@pytest.fixture(scope="module")
def complete(images: ImageTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 2 that went through in one shard."""
    out = tmp_path_factory.mktemp("complete")
    stage_1(out)
    assert run_stage2(new_config(out, shard_size=100), images)
    return out


def test_rois_are_the_filtered_proposals_of_each_image(images: ImageTable, complete: Path) -> None:
    run = RunDir(complete)
    proposals, rois = tables.load(run.table("proposals")), tables.load(run.table("rois"))
    for image in range(NUM_IMAGES):
        found = proposals.column("box")[proposals.column("image_id") == image]
        expected = filter_proposals(np.array(found), (96, 72), min_side_px=0.2 * 72)
        np.testing.assert_array_equal(rois.column("box")[rois.column("image_id") == image], expected)


def test_an_image_of_one_colour_is_its_own_roi(complete: Path) -> None:
    rois = tables.load(RunDir(complete).table("rois"))
    assert rois.column("box")[rois.column("image_id") == NUM_IMAGES - 1].tolist() == [[0, 0, 96, 72]]


def test_embeddings_are_the_networks_of_each_crop_alone(images: ImageTable, complete: Path) -> None:
    run = RunDir(complete)
    backbone, projector = read_backbone_file(run.backbone("stage1")), load_projector(run.projector("stage1"))
    rois = tables.load(run.table("rois"))

    def view(image: int, box: np.ndarray) -> torch.Tensor:
        return normalise(cut_boxes(load_image(images.path(int(image))), box[None], 32))

    with torch.no_grad():
        alone = [pool(backbone(view(image, box))) for image, box in zip(rois.column("image_id"), rois.column("box"))]
        centres = [normalise(centre_crop(load_image(images.path(image)), 32)) for image in range(NUM_IMAGES)]
        rows = [projector(pool(backbone(centre))) for centre in centres]
    for name, expected in (("roi_embeddings", alone), ("embeddings", rows)):
        found = torch.from_numpy(tables.load(run.table(name)).column("embedding").astype(np.float32))
        # Stored in half precision: values up to 1 in steps of 2^-11.
        torch.testing.assert_close(found, unit_vectors(torch.cat(expected).numpy()), atol=6e-4, rtol=0)


def test_neighbours_and_correspondences_equal_the_recipe_as_loops(complete: Path) -> None:
    run = RunDir(complete)
    embeddings = unit_vectors(tables.load(run.table("embeddings")).column("embedding")).double().numpy()
    neighbour_ids, _ = neighbours_by_loops(embeddings, 3)
    np.testing.assert_array_equal(tables.load(run.table("neighbours")).column("neighbour_ids"), neighbour_ids)

    rois, roi_embeddings = tables.load(run.table("rois")), tables.load(run.table("roi_embeddings"))
    vectors = unit_vectors(roi_embeddings.column("embedding")).double().numpy()
    rows = [np.flatnonzero(rois.column("image_id") == image) for image in range(NUM_IMAGES)]
    expected = [
        (image, neighbour, rows[image][i], rows[neighbour][j])
        for image in range(NUM_IMAGES)
        for neighbour in neighbour_ids[image]
        for i, j in match_by_loops(vectors[rows[image]], vectors[rows[neighbour]], 0.25)
    ]
    table = tables.load(run.table("correspondences"))
    columns = ("image_id", "neighbour_id", "roi", "neighbour_roi")
    assert list(zip(*(table.column(column).tolist() for column in columns))) == expected
    similarities = np.einsum("nd,nd->n", vectors[table.column("roi")], vectors[table.column("neighbour_roi")])
    np.testing.assert_allclose(table.column("similarity"), similarities, atol=1e-6)


@pytest.mark.parametrize(("centred", "workers"), [(False, 0), (True, 2)])
def test_map_features_are_means_of_the_map_of_each_image_alone(
    images: ImageTable, complete: Path, tmp_path: Path, centred: bool, workers: int
) -> None:
    out = tmp_path / "run"
    shutil.copytree(complete, out)
    config = new_config(out, shard_size=100, roi_features="map", roi_centred=centred, roi_map_px=64)
    run_stage2(replace(config, overwrite=True, workers=workers), images)
    run = RunDir(out)
    backbone = read_backbone_file(run.backbone("stage1")).eval()
    rois = tables.load(run.table("rois"))
    expected = []
    for image in range(NUM_IMAGES):
        pixels = np.asarray(Image.open(images.path(image)).resize((85, 64), Image.Resampling.BILINEAR))
        boxes = rois.column("box")[rois.column("image_id") == image]
        with torch.no_grad():
            feature_map = backbone(normalise(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]))
        if centred:
            feature_map = feature_map - feature_map.mean(dim=(2, 3), keepdim=True)
        scale = torch.tensor([feature_map.shape[3] / 96, feature_map.shape[2] / 72] * 2)
        on_map = torch.from_numpy(np.array(boxes)) * scale
        expected.append(roi_align(feature_map, [on_map], 7, sampling_ratio=2, aligned=True).mean(dim=(2, 3)))
    found = tables.load(run.table("roi_embeddings")).column("embedding").astype(np.float32)
    cosines = (found * unit_vectors(torch.cat(expected).numpy()).numpy()).sum(axis=1)
    # Pillow resizes columns first. The last image is its own RoI, of one colour: centred, it is left with rounding.
    assert cosines[: -1 if centred else None].min() > 0.99


@pytest.mark.parametrize("workers", [0, 2])
def test_centred_crops_are_less_the_crop_of_their_image(
    images: ImageTable, complete: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(complete, out)
    monkeypatch.setattr("orl.embed.CPU_BATCH_SIZE", 5)  # batches end within images
    config = new_config(out, shard_size=4, roi_centred=True)
    run_stage2(replace(config, overwrite=True, workers=workers), images)
    run = RunDir(out)
    backbone, rois = read_backbone_file(run.backbone("stage1")).eval(), tables.load(run.table("rois"))
    expected = []
    for image in range(NUM_IMAGES):
        boxes = np.concatenate([[[0, 0, 96, 72]], rois.column("box")[rois.column("image_id") == image]])
        with torch.no_grad():
            features = pool(backbone(normalise(cut_boxes(load_image(images.path(image)), boxes, 32))))
        expected.append(features[1:] - features[0])
    found = tables.load(run.table("roi_embeddings")).column("embedding").astype(np.float32)
    # The last image is its own RoI.
    expected = unit_vectors(torch.cat(expected).numpy())[:-1]
    torch.testing.assert_close(torch.from_numpy(found[:-1]), expected, atol=2e-3, rtol=0)


def test_reduced_embeddings_keep_the_cosines_of_rois(images: ImageTable, complete: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(complete, out)
    config = replace(new_config(out, shard_size=3, roi_dims=24), overwrite=True)
    run_stage2(config, images)
    full, reduced = (
        unit_vectors(tables.load(RunDir(root).table("roi_embeddings")).column("embedding")) for root in (complete, out)
    )
    assert reduced.shape == (len(full), 24)
    assert (reduced @ reduced.T - full @ full.T).abs().mean() < 0.02
    # The projection is of the highest singular values: no other 24 dimensions keep more.
    basis = torch.linalg.svd(full, full_matrices=False).Vh[:24]
    kept = torch.nn.functional.normalize(full @ basis.T)
    torch.testing.assert_close(reduced @ reduced.T, kept @ kept.T, atol=2e-3, rtol=0)
    assert rebuilt_by(replace(config, overwrite=False), images) == []


def test_more_dimensions_than_there_are_are_refused(images: ImageTable, complete: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(complete, out)
    with pytest.raises(ValueError, match="embeddings have 512 numbers, which 512 do not reduce"):
        run_stage2(replace(new_config(out, shard_size=3, roi_dims=512), overwrite=True), images)


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("matching", ["whitened", "csls", "contrast"])
def test_corrected_matching_equals_the_definition_as_loops(
    images: ImageTable, complete: Path, tmp_path: Path, matching: str, mutual: bool
) -> None:
    out = tmp_path / "run"
    shutil.copytree(complete, out)
    options = {"matching": matching, "hubness_neighbours": 3, "hubness_bank": 20, "mutual_pairs": mutual}
    config = replace(new_config(out, shard_size=3, **options), overwrite=True)
    run_stage2(config, images)
    run = RunDir(out)
    image_ids = tables.load(run.table("rois")).column("image_id")
    raw = unit_vectors(tables.load(run.table("roi_embeddings")).column("embedding")).double().numpy()
    vectors = raw
    if matching != "csls":
        mean = raw.mean(axis=0)
        covariance = sum(np.outer(row - mean, row - mean) for row in raw) / len(raw)
        shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, directions = np.linalg.eigh(shrunk)
        whitened = (raw - mean) @ (directions @ np.diag(values**-0.5) @ directions.T)
        vectors = whitened / np.linalg.norm(whitened, axis=1, keepdims=True)
    hubness = np.zeros(len(raw))
    if matching != "whitened":
        bank_rows = np.sort(np.random.default_rng(0).choice(len(raw), 20, replace=False, shuffle=False))
        hubness = np.array(hubness_by_loops(vectors, image_ids, bank_rows, 3))
        found = tables.load(run.table("roi_hubness")).column("mean_similarity")
        np.testing.assert_allclose(found, hubness, atol=1e-5)
    rows = [np.flatnonzero(image_ids == image) for image in range(NUM_IMAGES)]
    expected, scores = [], []
    for image, neighbour_ids in enumerate(tables.load(run.table("neighbours")).column("neighbour_ids")):
        for neighbour in neighbour_ids:
            own, other = rows[image], rows[neighbour]
            score = vectors[own] @ vectors[other].T - (hubness[own][:, None] + hubness[other][None]) / 2
            for i, j in pairs_by_loops(score.astype(np.float32), 0.25, mutual):
                expected.append((image, neighbour, own[i], other[j]))
                scores.append(score[i, j])
    table = tables.load(run.table("correspondences"))
    columns = ("image_id", "neighbour_id", "roi", "neighbour_roi")
    assert list(zip(*(table.column(column).tolist() for column in columns))) == expected
    np.testing.assert_allclose(table.column("score"), scores, atol=1e-5)
    cosines = np.einsum("nd,nd->n", raw[table.column("roi")], raw[table.column("neighbour_roi")])
    np.testing.assert_allclose(table.column("similarity"), cosines, atol=1e-5)
    if mutual:
        assert len(set(zip(table.column("neighbour_id").tolist(), table.column("roi").tolist()))) == table.num_rows


def test_pairs_leave_out_rois_without_texture_but_for_images_that_have_no_other(
    images: ImageTable, complete: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(complete, out)
    run_stage2(replace(new_config(out, shard_size=3, textured_only=True), overwrite=True), images)
    run = RunDir(out)
    rois, textures, pairs = (tables.load(run.table(name)) for name in ("rois", "roi_textures", "correspondences"))
    measured = np.stack([textures.column("contrast"), textures.column("edges")], axis=1)
    textured, image_ids = has_texture(measured), rois.column("image_id")
    assert not textured[image_ids == NUM_IMAGES - 1].any()  # the image of one colour
    has_none = np.array([not textured[image_ids == image].any() for image in range(NUM_IMAGES)])
    assert has_none.sum() < NUM_IMAGES - 1
    for column in ("roi", "neighbour_roi"):
        used = pairs.column(column)
        assert (textured[used] | has_none[image_ids[used]]).all()
    neighbours = tables.load(run.table("neighbours")).column("neighbour_ids")
    found = set(zip(pairs.column("image_id").tolist(), pairs.column("neighbour_id").tolist()))
    assert found == {(image, int(other)) for image, own in enumerate(neighbours) for other in own}


def test_a_bank_without_enough_rois_of_other_images_is_refused(
    images: ImageTable, complete: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(complete, out)
    config = new_config(out, shard_size=3, matching="csls", hubness_neighbours=4, hubness_bank=4)
    with pytest.raises(ValueError, match=r"an RoI has [0-3] RoIs of other images .* 4 are needed; give more images"):
        run_stage2(replace(config, overwrite=True), images)


@pytest.mark.parametrize("shard_size", [1, 3])
def test_shards_of_any_size_give_the_same_tables(
    images: ImageTable, complete: Path, tmp_path: Path, shard_size: int
) -> None:
    stage_1(tmp_path)
    run_stage2(new_config(tmp_path, shard_size=shard_size), images)
    first, second = contents(tmp_path), contents(complete)
    for name, values in first.items():
        # Batches end elsewhere, and so sums are rounded elsewhere; neighbours and pairs must be the same ones.
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, second[name], atol=1e-3, err_msg=name)
        else:
            np.testing.assert_array_equal(values, second[name], err_msg=name)


@pytest.mark.parametrize("name", TABLES)
def test_a_run_killed_at_any_table_resumes_to_the_same_tables(
    images: ImageTable, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for out in (straight, broken):
        stage_1(out)
    run_stage2(new_config(straight), images)
    write = tables.write_shard
    written: list[Path] = []

    def write_until(folder: Path, index: int, columns: dict) -> None:
        if folder.name == name and index == 1:
            raise OSError("No space left on device")
        written.append(folder)
        write(folder, index, columns)

    monkeypatch.setattr(module.tables, "write_shard", write_until)
    with pytest.raises(OSError, match="No space left"):
        run_stage2(new_config(broken), images)
    monkeypatch.undo()
    kept = {path: path.stat().st_mtime_ns for path in (broken / "discover").rglob("*.arrow")}
    assert len(kept) == len(written)
    assert run_stage2(new_config(broken), images)
    assert_same(straight, broken)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "a finished shard was made again"


def test_a_finished_stage_does_nothing(images: ImageTable, complete: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in complete.rglob("*.arrow")}
    assert not run_stage2(new_config(complete, shard_size=100), images)
    assert before == {path: path.stat().st_mtime_ns for path in complete.rglob("*.arrow")}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"num_neighbours": 2}, ["neighbours", "correspondences"]),
        ({"min_side": 0.4}, ["rois", "roi_embeddings", "correspondences"]),
        ({"roi_embed_px": 40}, ["roi_embeddings", "correspondences"]),
        ({"roi_features": "map"}, ["roi_embeddings", "correspondences"]),
        ({"roi_centred": True}, ["roi_embeddings", "correspondences"]),
        ({"mutual_pairs": True}, ["correspondences"]),
        ({"top_fraction": 0.5}, ["correspondences"]),
        ({"embed_px": 40}, ["embeddings", "neighbours", "correspondences"]),
        ({"max_similarity": 0.9}, ["neighbours", "correspondences"]),
        ({"neighbour_search": "faiss"}, ["neighbours", "correspondences"]),
    ],
)
def test_a_changed_option_makes_only_its_dependent_tables_stale(
    images: ImageTable, complete: Path, tmp_path: Path, change: dict, stale: list[str]
) -> None:
    if change.get("neighbour_search") == "faiss":
        pytest.importorskip("faiss")
    out = tmp_path / "copy"
    shutil.copytree(complete, out)
    changed = new_config(out, shard_size=100, **change)
    with pytest.raises(
        provenance.StaleResultError, match=rf"{stale[0]} was made from other inputs.*{next(iter(change))}"
    ):
        run_stage2(changed, images)
    assert rebuilt_by(replace(changed, overwrite=True), images) == stale


def test_another_backbone_makes_every_embedding_stale_and_no_proposal(
    images: ImageTable, complete: Path, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(complete, out)
    stage_1(out, seed=1)
    with pytest.raises(provenance.StaleResultError, match=r"embeddings .*backbone: was"):
        run_stage2(new_config(out, shard_size=100), images)
    rebuilt = rebuilt_by(replace(new_config(out, shard_size=100), overwrite=True), images)
    assert rebuilt == ["embeddings", "neighbours", "roi_embeddings", "correspondences"]


def test_an_edited_image_makes_every_table_stale(images: ImageTable, complete: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(complete, out)
    edited = replace(images, digests=("edited", *images.digests[1:]))
    with pytest.raises(provenance.StaleResultError, match=r"embeddings .*images: was"):
        run_stage2(new_config(out, shard_size=100), edited)
    assert rebuilt_by(replace(new_config(out, shard_size=100), overwrite=True), edited) == list(TABLES)


@pytest.mark.parametrize("name", ["proposals", "correspondences"])
def test_a_full_disk_keeps_finished_shards_and_the_next_call_resumes(
    images: ImageTable, complete: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_1(tmp_path)
    fsync = files.os.fsync

    def full_disk(file: int) -> None:
        if f"{name}/.00002.arrow" in str(Path(f"/proc/self/fd/{file}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full_disk)
        with pytest.raises(OSError, match=rf"disk is full.*{name}/00002.arrow.*give the same command again"):
            run_stage2(new_config(tmp_path), images)
    folder = RunDir(tmp_path).table(name)
    assert sorted(path.name for path in folder.iterdir()) == ["00000.arrow", "00001.arrow", provenance.MANIFEST]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "discover").rglob("*.arrow")}
    assert run_stage2(new_config(tmp_path), images)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items()), "a finished shard was made again"


@pytest.mark.parametrize(
    ("weight", "message"), [(torch.nan, "holds NaN or infinity; its training diverged"), (3e38, "not finite: it has")]
)
def test_a_network_that_has_diverged_is_refused(
    images: ImageTable, tmp_path: Path, weight: float, message: str
) -> None:
    stage_1(tmp_path)
    projector = byol_mlp(512, 16, 8)
    torch.nn.init.constant_(next(projector.parameters()), weight)
    save_projector(projector, RunDir(tmp_path).projector("stage1"))
    with pytest.raises(ValueError, match=message):
        run_stage2(new_config(tmp_path), images)


def test_discovery_without_stage_1_is_refused(images: ImageTable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no backbone at .*stage1"):
        run_stage2(new_config(tmp_path), images)
