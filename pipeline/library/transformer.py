"""A scikit-learn transformer from paths of images to features, which come from the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from headstart.features.config import ExtractionConfig, FeatureConfig
from headstart.features.errors import OptionError
from headstart.features.frozen.network import Network, fingerprints_of, resolved_config
from headstart.pipeline.library.arguments import received
from headstart.pipeline.library.options import feature_configs, made, require_known, require_no_rejects
from headstart.pipeline.library.table import features_of_files
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

_ANY_BITS = "16"  # the setting `bits` in fingerprints; one value, so that fingerprints do not depend on the images


class HeadstartFeatures(TransformerMixin, BaseEstimator):
    """Maps paths of images to the features of a frozen network, in any scikit-learn pipeline or search.

    Features that the store lacks are extracted first. So each image passes through the network once, even if many folds
    and searches use the image. Nothing is learnt from the images: `fit` only keeps the settings and the number of
    features. If a search varies `cut` or `backbone`, the store holds the features for each value.

    Args:
        backbone, cut, weights, store: options of `headstart features`. None stands for the default of the command line.
            The features of several cuts are put side by side.
        precision, image_size, resize: further options of `headstart features`.
        options: a dict of any other options of `headstart features`, such as `{"max_pixels": 10_000_000}`.

    Attributes:
        n_features_out_: the number of features of an image.
        config_: the settings of the features at `fit`. Defaults are replaced by the values that were used.
        fingerprints_: a dict from the name of each cut to the key of the cut's fingerprint at `fit`.
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
        """Extract the features of the images `X` into the store, and keep the settings and the number of features.

        `X` holds paths of images: [N] or [N, 1]. `y` is not used. Raises OptionError if an option or `X` has a wrong
        form, and DataError if an image can't be used. For other errors, see `headstart.features`.
        """
        self.fit_transform(X)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of the images `X`, float32 [N, D], in the order of `X`.

        Raises OptionError if the features would differ from the features at `fit`. For other errors, see `fit`.
        """
        check_is_fitted(self)
        return self._features(X, self.config_, made(ExtractionConfig, self._given()), self._require_same)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> np.ndarray:
        """Fit to the images `X`, and return their features, float32 [N, D]. For arguments and errors, see `fit`."""
        given = self._given()
        require_known(given, FeatureConfig, ExtractionConfig)
        config, extraction = feature_configs(given)
        _require_a_row_per_image(config)
        seen: list[Network] = []
        found = self._features(X, config, extraction, seen.extend)
        self.config_, self.fingerprints_ = resolved_config(config, seen), fingerprints_of(seen, _ANY_BITS)
        self.n_features_out_ = found.shape[1]
        return found

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the features, such as `headstartfeatures0`, as an array of text [D].

        `input_features` is not used.
        """
        check_is_fitted(self)
        return np.array([f"headstartfeatures{number}" for number in range(self.n_features_out_)], dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, True, False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _given(self) -> dict[str, Any]:
        own = self.get_params(deep=False)
        options = {} if own["options"] is None else own["options"]
        if not isinstance(options, Mapping):
            raise OptionError(f"options must be a dict of options. Received: {received(options)}")
        require_no_rejects(options)
        return {**options, **{name: value for name, value in own.items() if name != "options" and value is not None}}

    def _require_same(self, networks: list[Network]) -> None:
        """Raise an OptionError if `networks` would give other features than the networks that `fit` used."""
        now = fingerprints_of(networks, _ANY_BITS)
        if changed := [name for name, key in self.fingerprints_.items() if now.get(name) != key]:
            raise OptionError(
                f"HeadstartFeatures: the features at {changed[0]} differ from those at fit, for the weights or the "
                "version of headstart changed; fit again"
            )

    @staticmethod
    def _features(
        X: Any, config: FeatureConfig, extraction: ExtractionConfig, require: Callable[[list[Network]], None]
    ) -> np.ndarray:
        found = features_of_files(_paths(X), config, extraction, require).X
        return found.reshape(len(found), -1)


def _require_a_row_per_image(config: FeatureConfig) -> None:
    """Raise an OptionError if `config` allows several rows per image, or rows that depend on other images."""
    for name, value, unfit in (
        ("pages", config.pages, config.pages == "all"),
        ("views", config.views, config.views > 0),
        ("bits", config.bits, config.bits == "folder"),
    ):
        if unfit:
            raise OptionError(f"{name}={value}: HeadstartFeatures gives a row per image, by itself; leave {name} out")


def _paths(X: Any) -> list[Any]:
    """Return `X`, of shape [N] or [N, 1], as a list.

    Raises OptionError for a single path, a sparse matrix or another shape.
    """
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
