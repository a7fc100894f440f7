"""Thumbnails within a page."""

import base64
import io
from collections.abc import Iterable

from headstart.features.images.scan import ImageFile
from headstart.features.images.thumbnails import thumbnails
from headstart.features.terminal import progress
from headstart.pipeline.pages.html import escaped
from PIL.Image import Image

_SIDE = 160  # pixels of the longer side
_QUALITY = 75  # of JPEG


class Pictures:
    """The thumbnails of images, one per digest."""

    def __init__(self, images: Iterable[ImageFile]) -> None:
        self._urls: dict[str, str] = {}
        distinct = list({image.digest: image for image in images}.values())
        with progress("making thumbnails", len(distinct)) as advance:
            for image, small in zip(distinct, thumbnails(distinct, "RGB", _SIDE, keep_shape=True), strict=True):
                if small:
                    self._urls[image.digest] = jpeg_url(small)
                advance(1)

    def html(self, image: ImageFile, alt: str = "") -> str:
        """Return the thumbnail of `image` as HTML. The title of the thumbnail is the path of `image`.

        If `image` has no thumbnail, return HTML with the text "no picture".
        """
        url, path = self._urls.get(image.digest), escaped(image.path)
        if not url:
            return f"<span class=none title='{path}'>no picture</span>"
        return picture(url, alt, path)


def picture(url: str, alt: str, title: str = "") -> str:
    """Return HTML that shows the picture at `url`, a `data:` URL.

    `title` must be escaped for HTML already. `alt` is escaped here.
    """
    return f"<img src='{url}' alt='{escaped(alt)}' title='{title}'>"


def jpeg_url(picture: Image) -> str:
    """Encode an RGB picture as JPEG. Return the JPEG as a `data:` URL."""
    picture.save(data := io.BytesIO(), "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
