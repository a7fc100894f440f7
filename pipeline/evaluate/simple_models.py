"""Compare an accuracy with simple models on the same images. If few images were scored, advise cross-validation."""

from collections.abc import Sequence

import numpy as np
from headstart.features.digests import HexDigests
from headstart.pipeline.data.copies import unit_names
from headstart.pipeline.data.examples import Example, Examples
from headstart.pipeline.evaluate.taken import Taken
from headstart.pipeline.featured import FeaturedExamples
from headstart.pipeline.runs import Run
from headstart.pipeline.scoring.folds import rarest
from headstart.pipeline.scoring.simple_models import SimpleModels, score_simple_models

_FEW = 100  # scored images; with fewer, an accuracy of 0.9 has an interval of over 0.12
_FOLDS, _FEWEST_FOLDS = 10, 3


def simple_models_of(run: Run, cached: FeaturedExamples, examples: Sequence[Example]) -> SimpleModels:
    """Score two simple models on `examples`, which are examples of `cached`.

    One model always predicts the largest class. The other is logistic regression, fitted to the run's training images.
    If the store lacks features of these images, logistic regression is left out. The data of `cached` may be other
    data than the run's own.
    """
    class_names, scored = run.class_names(), cached.labelled(examples)
    labels = np.array([example.label for example in examples])
    trained = run.labelled("train")
    digests = [digest for digest, _ in trained]
    if any(store.missing(digests) for store in cached.stores.values()):
        note = "logistic regression is left out: the store lacks features of the run's training images"
        return SimpleModels.of(labels, class_names, None, note)
    known, trained_on = Examples.of(cached.examples), set(digests)
    of_train = known[np.array([digest in trained_on for digest in HexDigests(known.digests)], bool)]
    unit_of = dict(zip(HexDigests(of_train.digests), unit_names(of_train), strict=True))  # in whichever split they are
    groups = [unit_of.get(digest, digest) for digest in digests]
    return score_simple_models(
        (np.array([label for _, label in trained]), groups),
        lambda rows: cached.features([digests[row] for row in rows]),
        scored.features,
        labels,
        class_names,
    )


def advised_folds(run: Run, cached: FeaturedExamples, taken: Taken) -> str:
    """Return a line that advises cross-validation, or an empty string.

    The string is empty in each of these cases:
    - The scored images are not the val or test split of the run's own data.
    - At least 100 images were scored.
    - A class has too few images for three folds.
    """
    if taken.elsewhere or taken.split not in ("val", "test") or len(taken.examples) >= _FEW:
        return ""
    labels = np.array([example.label for example in cached.examples])
    folds = min(_FOLDS, rarest(labels, unit_names(cached.examples))[1])
    if folds < _FEWEST_FOLDS:
        return ""
    return (
        f"{len(taken.examples)} images say little: `headstart evaluate {run.path} --folds {folds}` scores heads on all "
        f"{len(cached.examples)}, each by a head that has not seen it"
    )
