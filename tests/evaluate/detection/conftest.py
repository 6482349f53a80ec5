"""Annotated images that every detector's tests share."""

import pytest

from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.coco import read_coco
from tests.evaluate import folders


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedImages:
    """Eleven images with two outlined rectangles each."""
    root = folders.squares(tmp_path_factory.mktemp("squares") / "coco")
    file = root / "annotations" / "instances_train2017.json"
    return read_coco(file, root / "train2017", "squares", outlines=True)
