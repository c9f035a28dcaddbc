import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from makers import Listener, write_images
from PIL import Image

import featstore
from featstore.datasets import open_dataset
from featstore.errors import (
    BackboneError,
    ConfigError,
    DatasetError,
    FitError,
    StoreError,
    TrainError,
    WeightsError,
)
from featstore.models.trained import read_trained
from featstore.training import epochs
from featstore.training.train import train

QUICK = {"epochs": 2, "batch_size": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Make a tree of 27 images: 18 to train on, 9 to test on."""
    return write_images(tmp_path_factory.mktemp("images") / "mine", size=20)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Make class folders without a split."""
    root = tmp_path_factory.mktemp("images")
    made = write_images(root / "made", n=10, size=20, seed=1)
    return (made / "train").rename(root / "pool")


@pytest.fixture
def quick(tmp_path, monkeypatch, blank_pictures):
    """Train in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def run(dataset, network="satcnn", **options):
        return train(network, str(dataset), **{**QUICK, **options})

    return run


def interrupt_after(monkeypatch, n):
    """Interrupt a training in the epoch after n whole ones, in its middle."""
    step, count = epochs.Trainer._step, []

    def interrupted(self, *args):
        count.append(1)
        if len(count) > n * self.n_images // self.objective.batch_size + 1:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(epochs.Trainer, "_step", interrupted)


class TestResult:
    def test_trained_weights_are_a_backbone_like_any_other(self, quick, images, tmp_path):
        result = quick(images, epochs=4)
        assert result.path.as_posix() == "trained/satcnn-mine.pth"
        training = result.training
        assert (training.bands, training.image_size) == (("red", "green", "blue"), 20)
        assert (training.n_fit, training.held_out.n_rows) == (15, 3)
        assert training.split == "official split"
        assert training.held_out.epoch <= training.held_out.n_epochs == len(result.epochs) == 4
        lines = result.path.with_suffix(".csv").read_text().splitlines()
        assert lines[0].startswith("epoch,train_loss,held_out_loss,held_out_accuracy")
        assert len(lines) == 5
        assert result.path.with_suffix(".png").is_file()
        assert not list(result.path.parent.glob("*.checkpoint.pth"))

        words = result.extract_command("feature-store")
        assert words == (
            "featstore extract --model satcnn --weights trained/satcnn-mine.pth --dataset folder "
            f"--root {images}"
        )
        done = featstore.extract(
            "satcnn", str(images), weights=str(result.path), layers="pool,fc", precision="fp32"
        )
        assert done.n_features == {"pool": 128, "fc": 3}
        (run,) = featstore.fit(clf="logreg", layers="pool")
        assert run.record.selection.features[0].preprocess.image_size == 20
        found = featstore.predict(run, str(images / "test"))
        assert len(found) == 9

    def test_the_network_sees_in_extraction_what_it_saw_in_training(self, quick, images):
        result = quick(images)
        featstore.extract(
            "satcnn",
            str(images),
            weights=str(result.path),
            layers="fc",
            precision="fp32",
            compile="off",
        )
        scores = featstore.open_store().select(layers="fc")
        content = torch.load(result.path, weights_only=True)
        training = read_trained(result.path).training
        from featstore.models.satcnn_source import SatCnn

        network = SatCnn(3, 3).eval()
        network.load_state_dict(content["state_dict"])
        dataset = open_dataset("folder", images)
        pixels = torch.from_numpy(np.stack([dataset.read(row) for row in range(len(dataset))]))
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (training.mean, training.std))
        with torch.no_grad():
            own = network((pixels.movedim(-1, 1) / 255 - mean) / std)
        np.testing.assert_allclose(scores.numpy(), own.numpy(), rtol=2e-3, atol=2e-3)

    def test_the_same_command_gives_the_same_bytes_and_is_answered_from_the_file(
        self, quick, images
    ):
        first, second = quick(images, out="a.pth"), quick(images, out="b.pth")
        assert first.path.read_bytes() == second.path.read_bytes()
        other = quick(images, out="c.pth", random_state=1)
        assert other.path.read_bytes() != first.path.read_bytes()
        again = quick(images, out="a.pth")
        assert (first.is_new, again.is_new) == (True, False)
        assert again.epochs == first.epochs
        with pytest.raises(TrainError, match=r"a.pth holds weights .* epochs 2\. Name another"):
            quick(images, out="a.pth", epochs=3)

    def test_test_images_are_not_read(self, quick, tmp_path):
        broken = write_images(tmp_path / "broken", size=20)
        for path in (broken / "test").rglob("*.png"):
            path.write_bytes(b"no image")
        quick(broken)
        (broken / "train" / "sand" / "sand00.png").write_bytes(b"no image")
        with pytest.raises(featstore.errors.ImageError, match=r"sand00.png.* train again"):
            quick(broken, out="b.pth")

    def test_all_bands_of_files_are_learned_and_other_bands_refused(self, quick, tmp_path):
        rng = np.random.default_rng(0)
        for split, n in (("train", 3), ("test", 1)):
            for name in "ab":
                folder = tmp_path / "five" / split / name
                folder.mkdir(parents=True)
                for i in range(n):
                    write_tiff(folder / f"{i}.tif", rng.integers(0, 3000, (5, 16, 16)))
        given = {"bands": "5,1,2,4", "value_range": "0,3000"}
        result = quick(tmp_path / "five", batch_size=2, **given)
        assert len(result.training.bands) == len(result.training.mean) == 4
        assert result.training.value_range == ((0.0, 3000.0),)
        assert "--bands 5,1,2,4 --range 0,3000" in result.extract_command("s")
        asked = ("satcnn", str(tmp_path / "five"))
        right = {"weights": str(result.path), **given}
        assert featstore.extract(*asked, **right).n_images == 8
        with pytest.raises(BackboneError, match=r"on the bands b5, b1, b2, b4, and .* give b1, b2"):
            featstore.extract(*asked, **right | {"bands": "1,2"})
        with pytest.raises(ConfigError, match=r"read with 0,2000\. Give --range '0,3000'"):
            featstore.extract(*asked, **right | {"value_range": "0,2000"})


def write_tiff(path, pixels):
    from makers import write_scene

    write_scene(path, pixels.astype(np.uint16))


@pytest.mark.parametrize("network", ["satcnn", "triplet"])
def test_an_interrupted_training_ends_with_the_same_bytes(quick, images, monkeypatch, network):
    options = {"network": network, "epochs": 3}
    if network == "triplet":
        options["backbone"] = "satcnn"
    whole = quick(images, out="whole.pth", **options)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            quick(images, out="parts.pth", **options)
    assert not (whole.path.parent / "parts.pth").exists()
    heard = Listener()
    parts = quick(images, out="parts.pth", progress=heard, **options)
    # What was done before is no part of a rate.
    (phase,) = heard.named("Training")
    assert (phase.total, phase.n_done) == (1, 1)
    assert parts.path.read_bytes() == whole.path.read_bytes()
    assert parts.epochs == whole.epochs


def test_changed_images_and_settings_do_not_continue(quick, tmp_path, monkeypatch):
    changed = write_images(tmp_path / "changed", size=20)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            quick(changed)
    with pytest.raises(TrainError, match=r"checkpoint.pth is of a training with epochs 2\. G"):
        quick(changed, epochs=5)
    (changed / "train" / "sand" / "sand00.png").unlink()
    with pytest.raises(TrainError, match=r"is of a training with other images\. Give"):
        quick(changed)
    (tmp_path / "trained" / "satcnn-changed.checkpoint.pth").write_bytes(b"cut short")
    with pytest.raises(TrainError, match="Remove it to begin again"):
        quick(changed)


@pytest.mark.soak
def test_a_killed_training_ends_with_the_same_bytes(quick, images):
    whole = quick(images, out="whole.pth", epochs=3)
    code = (
        "import os, signal, sys\nfrom featstore.training import train as module\n"
        "write = module.write_state\n"
        "def kill(*args):\n    write(*args)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.write_state = kill\n"
        f"module.train('satcnn', {str(images)!r}, out='parts.pth', epochs=3, batch_size=4)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9
    assert quick(images, out="parts.pth", epochs=3).path.read_bytes() == whole.path.read_bytes()


def test_training_ends_when_the_held_out_images_improve_no_more(quick, images, monkeypatch):
    objective = "featstore.training.objectives.ClassObjective.score"
    scores = iter([0.5, 0.9, *[0.7] * 20])
    monkeypatch.setattr(objective, lambda *_: (next(scores), 1.0))
    result = quick(images, epochs=20)
    assert result.training.held_out.epoch == 2
    assert len(result.epochs) == 2 + 6


class TestLeaks:
    def test_only_the_split_of_the_training_can_be_tested(self, quick, pool, images):
        result = quick(pool, epochs=1)
        weights = {"weights": str(result.path), "precision": "fp32"}
        with pytest.raises(DatasetError, match=r"of the 9 test images trained the weights satcnn-"):
            featstore.extract("satcnn", str(pool), seed=1, **weights)
        featstore.extract("satcnn", str(pool), **weights)
        store = featstore.open_store()
        (rows,) = store.select().trained_rows
        assert rows.mask.tolist() == (store.select().splits == 0).tolist()
        featstore.fit(clf="ridge")
        with pytest.raises(FitError, match=r"trained the weights .* Leave out --split-seed"):
            featstore.fit(clf="ridge", split_seed=3)
        with pytest.raises(FitError, match=r"21 of the 21 training .* Leave out --search"):
            featstore.fit(clf="ridge", search="grid")
        with pytest.raises(FitError, match="the curve would be too high"):
            featstore.learning_curve(clf="ridge")
        # Images of other data are fine, whatever the split.
        featstore.extract("satcnn", str(images), seed=5, **weights)
        featstore.fit(clf="ridge", dataset="mine", split_seed=3)

    def test_a_copy_of_a_training_image_counts_as_in_every_fit(self, quick, tmp_path):
        copied = write_images(tmp_path / "copied", size=20)
        first = (copied / "train" / "sand" / "sand00.png").read_bytes()
        (copied / "test" / "sand" / "sand00.png").write_bytes(first)
        result = quick(copied, epochs=1)
        done = featstore.extract("satcnn", str(copied), weights=str(result.path))
        assert done.n_leaked == 1
        (run,) = featstore.fit(clf="ridge", drop_leaks=True)
        assert run.record.rows.n_dropped == 1


class TestTriplets:
    @pytest.mark.parametrize("loss", ["hinge", "log", "ratio"])
    def test_each_loss_trains_an_embedding_of_length_1(self, quick, images, loss):
        result = quick(images, "triplet", backbone="satcnn", loss=loss, batch_size=9)
        assert result.training.network == "triplet:satcnn"
        assert result.training.settings["loss"] == loss
        model = {"weights": str(result.path), "precision": "fp32"}
        done = featstore.extract("triplet:satcnn", str(images), layers="embedding,pool", **model)
        assert done.n_features == {"embedding": 128, "pool": 128}
        X = featstore.open_store().select(layers="embedding").numpy()
        np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, rtol=1e-5)

    def test_a_pretrained_backbone_begins_with_its_weights_and_keeps_its_input(
        self, quick, images, monkeypatch
    ):
        from featstore.models.torchvision_source import build_network

        begun = {}
        init = epochs.Trainer.__init__

        def keep(self, network, *args):
            begun.update({k: v.clone() for k, v in network.state_dict().items()})
            init(self, network, *args)

        monkeypatch.setattr(epochs.Trainer, "__init__", keep)
        given = {
            "backbone": "shufflenet_v2_x0_5",
            "weights": "random:3",
            "image_size": 32,
            "epochs": 1,
        }
        result = quick(images, "triplet", **given)
        original = build_network("shufflenet_v2_x0_5", 32, seed=3).state_dict()
        assert torch.equal(begun["backbone.conv1.0.weight"], original["conv1.0.weight"])
        assert begun["backbone.fc.weight"].shape == (128, 1024)
        assert result.training.mean == (0.485, 0.456, 0.406)
        assert result.training.settings["weights_sha256"].startswith("random:3")
        done = featstore.extract(
            "triplet:shufflenet_v2_x0_5", str(images), weights=str(result.path)
        )
        assert done.n_features == {"embedding": 128}
        with pytest.raises(
            WeightsError, match=r"weights of triplet:shufflenet_v2_x0_5, not of shufflenet_v2_x0_5"
        ):
            featstore.extract(
                "shufflenet_v2_x0_5", str(images), weights=str(result.path), image_size=32
            )


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"batch_size": 99}, TrainError, "A batch of 99 is larger than the 15 images"),
            ({"out": "weights.bin"}, ConfigError, "not the name of a .pth file"),
            ({"out": "file/x.pth"}, StoreError, "can't be written"),
            ({"bands": "gray"}, ConfigError, "not on their luminance"),
            ({"loss": "hinge"}, ConfigError, "loss is a setting of triplet networks, not of sat"),
            (
                {"network": "triplet", "backbone": "satcnn", "weights": "x"},
                ConfigError,
                "leave weights out",
            ),
            ({"network": "triplet", "batch_size": 3}, ConfigError, "a whole number from 4"),
            ({"network": "alexnet"}, ConfigError, "must be one of satcnn, triplet"),
            ({"network": "triplet", "backbone": "timm:x"}, BackboneError, "can't be trained by tr"),
        ],
    )
    def test_each_is_one_sentence(self, quick, images, tmp_path, options, error, message):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(error, match=message):
            quick(images, **options)
        # A failed training leaves nothing behind that the next one trips over.
        assert not list(tmp_path.glob("trained/*.pth"))

    def test_a_loss_that_is_no_number_ends_the_training(self, quick, images, monkeypatch):
        objective = "featstore.training.objectives.ClassObjective.loss"
        with monkeypatch.context() as patch:
            patch.setattr(objective, lambda self, outputs, y: outputs.sum() * torch.inf)
            with pytest.raises(TrainError, match=r"in epoch 1: the learning rate is too high"):
                quick(images, learning_rate=9.0)
        assert quick(images, learning_rate=0.01).is_new

    def test_other_files_are_not_taken_for_trained_weights(self, quick, images, tmp_path):
        with pytest.raises(WeightsError, match=r"satcnn has no weights of its own\. Train some"):
            featstore.extract("satcnn", str(images))
        torch.save({"fc.weight": torch.zeros(3, 128)}, "plain.pth")
        with pytest.raises(WeightsError, match="plain.pth has no record of featstore train"):
            featstore.extract("satcnn", str(images), weights="plain.pth")
        with pytest.raises(TrainError, match="plain.pth holds weights that featstore did not"):
            quick(images, out="plain.pth")
        done = featstore.extract("satcnn", str(images), weights="random:0")
        assert done.n_features == {"pool": 128}

    def test_an_edited_record_is_refused(self, quick, images):
        result = quick(images, epochs=1)
        content = torch.load(result.path, weights_only=True)
        record = json.loads(content["featstore"])
        for wrong in (
            {"std": [0.0, 1.0, 1.0]},
            {"bands": ["red"]},
            {"image_size": -1},
            {"mean": ["x", 1, 1]},
        ):
            torch.save(content | {"featstore": json.dumps(record | wrong)}, "edited.pth")
            with pytest.raises(WeightsError, match="a record of training that featstore does not"):
                featstore.extract("satcnn", str(images), weights="edited.pth")


def test_small_images_and_large_ones_get_a_size(tmp_path, images):
    from featstore.training.networks import plan_input

    settings = featstore.config.ExtractConfig("satcnn", "folder", root=str(images))
    assert plan_input(settings, open_dataset("folder", images), None).image_size == 20
    (tmp_path / "large" / "a").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save(tmp_path / "large" / "a" / "0.png")
    assert plan_input(settings, open_dataset("folder", tmp_path / "large"), None).image_size == 64
