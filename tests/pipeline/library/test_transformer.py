"""`HeadstartFeatures`: in pipelines, searches and cross-validation, and scikit-learn's own checks of estimators."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import headstart
import numpy as np
import pytest
from headstart.features import extract
from headstart.tests.conftest import SMALL
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import Tags
from sklearn.utils.estimator_checks import parametrize_with_checks


@pytest.fixture
def files(prepared: Path) -> list[str]:
    return [str(file) for file in sorted(prepared.glob("train/*/[cd]*.jpg"))]


@pytest.fixture
def transformer(filled_store: Path) -> Any:
    return headstart.HeadstartFeatures(store=filled_store, **SMALL)


def test_it_works_in_a_pipeline_from_the_store(
    files: list[str], transformer: Any, filled_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def extracted(*_: Any) -> None:
        raise AssertionError("an image passed the network again")

    monkeypatch.setattr(extract, "extract_features", extracted)
    labels = [Path(file).parent.name for file in files]
    pipeline = make_pipeline(transformer, LogisticRegression(max_iter=1000))
    pipeline.fit(files, labels)
    copy = pickle.loads(pickle.dumps(pipeline))
    assert (copy.predict(files) == pipeline.predict(np.array(files))).all()
    assert len(cross_val_score(pipeline, files, labels, cv=2)) == 2
    search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=2).fit(files, labels)
    assert search.best_score_ > 0
    wanted = headstart.features(files, store=filled_store, **SMALL).X
    assert np.array_equal(transformer.fit_transform(files), wanted)
    assert np.array_equal(transformer.transform(np.array(files)[:, np.newaxis]), wanted)
    assert len(transformer.get_feature_names_out()) == transformer.n_features_out_ == 576


def test_its_parameters(transformer: Any) -> None:
    other = clone(transformer).set_params(cut=("top_activation",), options={"max_pixels": 10**6})
    assert other.get_params()["image_size"] == 64
    assert transformer.cut is None
    with pytest.raises(headstart.OptionError, match="did you mean max_pixels"):
        clone(transformer).set_params(options={"max_pixel": 1}).fit(["a.jpg"])
    with pytest.raises(headstart.OptionError, match="max_rejects: each file of a sequence must be usable"):
        clone(transformer).set_params(options={"max_rejects": 0.5}).fit(["a.jpg"])
    with pytest.raises(headstart.OptionError, match="options must be a dict"):
        clone(transformer).set_params(options=[1]).fit(["a.jpg"])


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ("a.jpg", "must be a sequence of paths, not one path"),
        ([0.5], "must be paths of images. Received: float"),
        (np.zeros((3, 2)), r"\[N\] or \[N, 1\]. Received: shape \[3, 2\]"),
        (csr_matrix(np.zeros((3, 1))), "not a sparse matrix"),
        ([], "names no file"),
        (["absent.jpg"], "absent.jpg: vanished"),
        ([""], "data is empty"),
    ],
)
def test_errors(X: Any, said: str, transformer: Any) -> None:  # noqa: N803
    with pytest.raises(headstart.HeadstartError, match=said):
        transformer.fit(X)


@pytest.mark.parametrize(("name", "value"), [("pages", "all"), ("views", 2), ("bits", "folder")])
def test_options_by_which_rows_depend_on_other_images(name: str, value: Any, transformer: Any) -> None:
    with pytest.raises(headstart.OptionError, match=f"{name}={value}: .*a row per image"):
        transformer.set_params(options={name: value}).fit(["a.jpg"])


def test_features_are_those_of_fit(files: list[str], transformer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = transformer.fit(files[:3]).transform(files[3:5])
    monkeypatch.setenv("HEADSTART_BACKBONE", "inception_v3")
    monkeypatch.setenv("HEADSTART_RESCALE", "none")
    assert np.array_equal(transformer.transform(files[3:5]), wanted)
    transformer.fingerprints_ = dict.fromkeys(transformer.fingerprints_, "another")
    with pytest.raises(headstart.OptionError, match="differ from those at fit"):
        transformer.transform(files[3:5])


class _OfTables(headstart.HeadstartFeatures):
    """The same estimator; scikit-learn gives it all checks, as if it took tables of numbers."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


_NUMBERS = "its X is numbers, and X must be paths of images"
_DOES_NOT_APPLY = dict.fromkeys(
    (
        "check_complex_data",
        "check_dict_unchanged",
        "check_dont_overwrite_parameters",
        "check_dtype_object",
        "check_estimator_sparse_array",
        "check_estimators_dtypes",
        "check_estimators_empty_data_messages",
        "check_estimators_fit_returns_self",
        "check_estimators_nan_inf",
        "check_estimators_overwrite_params",
        "check_estimators_pickle",
        "check_f_contiguous_array_estimator",
        "check_fit2d_1feature",
        "check_fit2d_1sample",
        "check_fit2d_predict1d",
        "check_fit_check_is_fitted",
        "check_fit_idempotent",
        "check_fit_score_takes_y",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_n_features_in",
        "check_n_features_in_after_fitting",
        "check_pipeline_consistency",
        "check_positive_only_tag_during_fit",
        "check_readonly_memmap_input",
        "check_transformer_data_not_an_array",
        "check_transformer_general",
        "check_transformer_preserve_dtypes",
    ),
    _NUMBERS,
)


@parametrize_with_checks([_OfTables()], expected_failed_checks=lambda _: _DOES_NOT_APPLY)
def test_the_checks_of_scikit_learn(
    estimator: Any, check: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_BACKBONE", "efficientnet_lite0")
    check(estimator)


def test_what_those_checks_ask_of_numbers_holds_for_paths(files: list[str], transformer: Any) -> None:
    before = list(files), dict(vars(transformer))
    assert transformer.fit(files) is transformer
    assert (files, {name: value for name, value in vars(transformer).items() if not name.endswith("_")}) == before
    whole = transformer.transform(files)
    assert np.array_equal(transformer.fit(files).transform(files), whole)  # fit is idempotent
    assert np.array_equal(transformer.transform(files[::-1]), whole[::-1])  # the order of samples does not matter
    assert np.array_equal(np.concatenate([transformer.transform([file]) for file in files[:3]]), whole[:3])
    assert np.array_equal(pickle.loads(pickle.dumps(transformer)).transform(files), whole)
    assert whole.dtype == np.float32
