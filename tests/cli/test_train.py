import json

import pytest
from makers import write_images

from featstore.cli.main import _run
from featstore.training import epochs


@pytest.fixture
def call(tmp_path, monkeypatch, blank_pictures):
    write_images(tmp_path / "mine", size=16)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return _run(["train", *words, "mine", "--epochs", "2", "--batch-size", "4"])

    return run


def test_the_summary_names_the_score_the_rate_the_files_and_the_next_command(
    call, capsys, monkeypatch
):
    run_epoch = epochs.Trainer.run_epoch
    monkeypatch.setattr(epochs.Trainer, "run_epoch", interrupt_the_second(run_epoch))
    assert call("satcnn") == 130
    monkeypatch.setattr(epochs.Trainer, "run_epoch", run_epoch)
    assert "1 of 2 epochs are kept in trained/satcnn-mine.checkpoint.pth" in capsys.readouterr().err
    assert call("satcnn", "--store", "here") == 0
    first, second, files, following = capsys.readouterr().out.splitlines()
    assert first.startswith("satcnn on mine, 3 bands at 16 px: ")
    assert "of 3 held-out training images are right, in epoch " in first
    assert "images/s on cpu" in second
    assert files == "Weights, record, epochs and curves: trained/satcnn-mine.pth"
    assert following == (
        "Next: featstore extract --model satcnn --weights trained/satcnn-mine.pth "
        "--dataset folder --root mine --store here"
    )
    assert _run(following.split()[2:]) == 0

    assert call("satcnn", "--store", "here", "--json") == 0
    result = json.loads(capsys.readouterr().out.partition("{")[2].join(["{", ""]))
    assert result["is_new"] is False
    assert result["settings"]["epochs"] == 2
    assert result["next"] in following
    assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2]


def interrupt_the_second(run_epoch):
    def run(self, epoch, progress):
        if epoch == 2:
            raise KeyboardInterrupt
        return run_epoch(self, epoch, progress)

    return run


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["satcnn", "--loss", "hinge"], 1, "loss is a setting of triplet networks"),
        (["resnet50"], 2, "'resnet50' is not one of 'satcnn', 'triplet'"),
        (["satcnn", "--dataset", "sat4"], 2, "Give either a folder of images, a table or"),
        (["triplet", "--backbone", "resnet05"], 1, "Did you mean resnet50"),
    ],
)
def test_wrong_usage_is_told_before_an_image_is_read(call, capsys, words, code, message):
    assert call(*words) == code
    assert message in " ".join(capsys.readouterr().err.split())
