"""A scikit-learn transformer from paths of images to features, which come from the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError
from headstart.pipeline.library.options import feature_configs, require_known
from headstart.pipeline.library.table import features_of_files
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted


class HeadstartFeatures(TransformerMixin, BaseEstimator):
    """Maps paths of images to the features of a frozen network, in any scikit-learn pipeline or search.

    Features that the store lacks are extracted, so the network sees each image once, whatever the number of folds and
    searches. Nothing is learnt from the images: `fit` only looks up the number of features. If a search varies `cut` or
    `backbone`, the features of each value are cached separately.

    Args:
        backbone, cut, weights, store: options of `headstart features`; None is the default of the command line. The
            features of several cuts are put side by side.
        precision, image_size, resize: further options of `headstart features`.
        options: a dict of any other options of `headstart features`, such as `{"max_pixels": 10_000_000}`.

    Attributes:
        n_features_out_: the number of features of an image.
    """

    def __init__(
        self,
        *,
        backbone: str | None = None,
        cut: str | Sequence[str] | None = None,
        weights: str | None = None,
        store: str | os.PathLike[str] | None = None,
        precision: str | None = None,
        image_size: int | None = None,
        resize: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.backbone = backbone
        self.cut = cut
        self.weights = weights
        self.store = store
        self.precision = precision
        self.image_size = image_size
        self.resize = resize
        self.options = options

    def fit(self, X: Any, y: Any = None) -> HeadstartFeatures:
        """Check `X`, and look up the number of features. `X` holds paths of images: [N] or [N, 1]. `y` is not used.

        Raises OptionError if an option or `X` has a wrong form, and DataError if an image can't be used.
        """
        self.n_features_out_ = self._features(X).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of the images `X`, float32 [N, D], in the order of `X`. For errors, see `fit`."""
        check_is_fitted(self)
        return self._features(X)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> np.ndarray:
        """Return the result of `fit` followed by `transform`."""
        found = self._features(X)
        self.n_features_out_ = found.shape[1]
        return found

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the features, such as `headstartfeatures0`: str [D]. `input_features` is not used."""
        check_is_fitted(self)
        return np.array([f"headstartfeatures{number}" for number in range(self.n_features_out_)], dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, True, False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _features(self, X: Any) -> np.ndarray:
        own = self.get_params(deep=False)
        given = {**(own.pop("options") or {}), **{name: value for name, value in own.items() if value is not None}}
        require_known(given, FeatureConfig, ExtractionConfig)
        config, extraction = feature_configs(given)
        found = features_of_files(_paths(X), config, extraction).X
        return found.reshape(len(found), -1)


def _paths(X: Any) -> list[Any]:
    """Return `X`, of shape [N] or [N, 1], as a list. Raises OptionError for another shape."""
    if isinstance(X, str | os.PathLike):
        raise OptionError(f"X must be a sequence of paths, not one path. Received: {os.fspath(X)[:80]}")
    if issparse(X):
        raise OptionError("X must be a sequence of paths of images, not a sparse matrix")
    column = X if isinstance(X, list | tuple) else np.asarray(X)
    if isinstance(column, np.ndarray):
        if column.ndim == 2 and column.shape[1] == 1:
            column = column[:, 0]
        if column.ndim != 1:
            raise OptionError(f"X must hold paths of images, [N] or [N, 1]. Received: shape {list(column.shape)}")
    return [one.item() if isinstance(one, np.generic) else one for one in column]
