import subprocess
import sys

import pytest
import torchvision.models

from featstore.errors import BackboneError
from featstore.models.names import MODEL_NAMES, NETWORK_NAMES, check_model


def test_the_names_are_those_of_torchvision():
    theirs = torchvision.models.list_models(module=torchvision.models)
    assert set(NETWORK_NAMES) == {*theirs, "resnet50_v1"}
    assert len(set(MODEL_NAMES)) == len(MODEL_NAMES)


def test_a_wrong_name_is_answered_without_torch():
    code = (
        "import sys\nfrom featstore.models.names import check_model\n"
        "try: check_model('resnet05')\nexcept Exception as error: print(error)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Did you mean resnet50" in done.stdout
    assert done.stdout.endswith("False\n")


def test_every_model_has_a_name():
    assert [check_model(name) for name in MODEL_NAMES] == list(MODEL_NAMES)
    with pytest.raises(BackboneError, match="There is no network 'cnn'"):
        check_model("cnn")
