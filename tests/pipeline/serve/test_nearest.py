from pathlib import Path

import numpy as np
from headstart.features.images.scan import ImageFile, inspect_image
from headstart.pipeline.serve.nearest import Example, Nearest
from PIL import Image


def test_a_file_that_comes_back_has_a_thumbnail_again(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (300, 200)).save(file)
    (image,) = (one for one in inspect_image(str(file)) if isinstance(one, ImageFile))
    nearest = Nearest([Example(str(file), image.digest, "cat")], np.ones((1, 2)), None)
    data = file.read_bytes()
    file.unlink()
    assert nearest.thumbnail(image.digest) is None
    file.write_bytes(data)
    assert nearest.thumbnail(image.digest)
    assert nearest.thumbnail("0" * 64) is None
