"""The classifiers by name: their scikit-learn pipelines, and their defaults with reasons."""

from __future__ import annotations

from featstore.config import check_classifier
from featstore.errors import FitError
from featstore.fitting.estimators import Classifier, import_estimator, imported_on_call
from featstore.fitting.grids import gammas, logarithmic

LogisticRegression = imported_on_call("sklearn.linear_model", "LogisticRegression")
RidgeClassifier = imported_on_call("sklearn.linear_model", "RidgeClassifier")
SGDClassifier = imported_on_call("sklearn.linear_model", "SGDClassifier")
LinearDiscriminantAnalysis = imported_on_call(
    "sklearn.discriminant_analysis", "LinearDiscriminantAnalysis"
)
KNeighborsClassifier = imported_on_call("sklearn.neighbors", "KNeighborsClassifier")
MLPClassifier = imported_on_call("sklearn.neural_network", "MLPClassifier")
SVC = imported_on_call("sklearn.svm", "SVC")
LinearSVC = imported_on_call("sklearn.svm", "LinearSVC")
DeepBeliefNetwork = imported_on_call("featstore.fitting.solvers.dbn", "DeepBeliefNetwork")
SimilarityNeighbors = imported_on_call(
    "featstore.fitting.solvers.similarity", "SimilarityNeighbors"
)
TripletClassifier = imported_on_call("featstore.fitting.solvers.triplet", "TripletClassifier")


def _rounded(name: str, value: float) -> dict[str, float]:
    return {name: float(f"{value:.3g}")}


CLASSIFIERS = {
    classifier.name: classifier
    for classifier in (
        # Linear classifiers are penalised in proportion to the number of features, which is about
        # the squared length of a standardised row. docs/fitting.md compares the defaults with other
        # values on all sets at hand.
        Classifier(
            "logreg",
            LogisticRegression,
            {"max_iter": 1000},
            sized=lambda n, p: _rounded("C", 100 / p),
            space=lambda p: {"C": logarithmic(-5, 0.5, 12)},
            streams=True,
        ),
        # dual="auto" solves the primal when rows exceed columns, as LinearSVC's manual advises.
        Classifier(
            "linear-svm",
            LinearSVC,
            {"dual": "auto"},
            sized=lambda n, p: _rounded("C", 7 / p),
            space=lambda p: {"C": logarithmic(-6, -0.5, 12)},
            streams=True,
        ),
        # On NWPU-RESISC45 (doi:10.1109/JPROC.2017.2675998), 12 classes of 70 training images,
        # ResNet-50 v1's fc1000 and pool5, 5-fold cross-validation: C=10 gives 84.9 % and 85.7 %,
        # scikit-learn's C=1 83.8 % and 84.4 %. On all sets at hand C=10 loses 0.5 points to the
        # best value, C=3 0.6 and C=1 4.5.
        Classifier(
            "svm",
            SVC,
            {"kernel": "rbf", "C": 10.0},
            space=lambda p: {"C": [1.0, 3.0, 10.0, 30.0], "gamma": gammas(p)},
            predicts_slowly=True,
        ),
        Classifier(
            "mlp",
            MLPClassifier,
            {"hidden_layer_sizes": (256,)},
            {"early_stopping": True},
            space=lambda p: {
                "hidden_layer_sizes": [(64,), (256,)],
                "alpha": [1e-4, 1e-2, 1.0],
            },
            by_epochs=True,
            streams=True,
        ),
        # Logistic loss for probabilities; hinge, scikit-learn's default, has none.
        Classifier(
            "sgd",
            SGDClassifier,
            {"loss": "log_loss"},
            {"early_stopping": True},
            space=lambda p: {"alpha": logarithmic(-5, 0, 6)},
            by_epochs=True,
            streams=True,
        ),
        # DeepSat's classifier (Basu et al. 2015, doi:10.1145/2820783.2820816), whose rates, epochs
        # and batches are not known. On deepsat's features of 840 of these images, 5-fold
        # cross-validation: 69.9 %, and 68.7 % without the machines.
        Classifier(
            "dbn",
            DeepBeliefNetwork,
            {},
            {"early_stopping": True, "batch_size": "auto", "rbm_batch_size": 100},
            space=lambda p: {
                "hidden_layer_sizes": [(50, 50), (100, 100), (50, 50, 50)],
                "learning_rate_init": [1e-3, 1e-2],
            },
            scaled=False,
            ranged=True,
            by_epochs=True,
        ),
        # The head that the paper trains, with Figures 4 and 5: weights from features to classes
        # and nothing between. The same cross-validation: alpha=1 gives 85.8 % and 87.1 %,
        # scikit-learn's 0.0001 84.4 % and 85.6 %.
        Classifier(
            "softmax",
            MLPClassifier,
            {"hidden_layer_sizes": (), "max_iter": 250, "alpha": 1.0},
            {"early_stopping": True},
            space=lambda p: {"alpha": logarithmic(-2, 2, 5)},
            by_epochs=True,
            streams=True,
        ),
        # scikit-learn's alpha=1 nearly interpolates where features are about as many as rows.
        Classifier(
            "ridge",
            RidgeClassifier,
            sized=lambda n, p: _rounded("alpha", 0.2 * p),
            space=lambda p: {"alpha": logarithmic(0, 4.5, 10)},
            streams=True,
        ),
        Classifier(
            "lda",
            LinearDiscriminantAnalysis,
            {"solver": "lsqr", "shrinkage": 0.4},
            sized=lambda n, p: _rounded("shrinkage", 0.4 * min(1, p / n)),
            space=lambda p: {
                "shrinkage": [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95]
            },
            streams=True,
        ),
        # k=5 on raw features, as Corley et al. 2023 (arXiv:2305.13456) have it: standardising
        # takes UC Merced from 90.7 % to 77 %. They vote by their distance, which is better on most
        # sets at hand. Trees do not help beyond some tens of dimensions.
        Classifier(
            "knn",
            KNeighborsClassifier,
            {"n_neighbors": 5, "weights": "distance", "algorithm": "brute"},
            space=lambda p: {
                "n_neighbors": [1, 3, 5, 9, 15],
                "metric": ["euclidean", "cosine"],
                "weights": ["uniform", "distance"],
            },
            scaled=False,
            predicts_slowly=True,
        ),
        # The nearest-neighbor evaluation of DINO (arXiv:2104.14294): 10, 20, 100 or 200 neighbors.
        # On most sets at hand, 10 neighbors give the best accuracy.
        Classifier(
            "similarity-knn",
            SimilarityNeighbors,
            {"n_neighbors": 10},
            space=lambda p: {"n_neighbors": [5, 10, 20, 100], "temperature": [0.02, 0.07, 0.2]},
            scaled=False,
            predicts_slowly=True,
        ),
        # Triplets on stored features, after Liu and Huang 2018 (JSTARS 11(1):220-237). Three of
        # five folds of the 840 images: the nearest class mean is right for 86.1 % (pool5), knn for
        # 83.7 %. Hinges of 0.2 and 0.5 differ from the soft margin by 0.6 points at most.
        Classifier(
            "triplet",
            TripletClassifier,
            space=lambda p: {"n_components": [32, 128], "n_iter": [200, 500, 1000]},
        ),
        # The RBF kernel by 1,000 of the rows (Williams and Seeger 2001): an SVM for sizes that
        # the exact one does not end on. The same cross-validation: C=3 gives 87.1 % and 87.0 %.
        Classifier(
            "nystroem-svm",
            LinearSVC,
            {"C": 3.0, "n_components": 1000, "dual": "auto"},
            space=lambda p: {"C": logarithmic(-2, 2, 9), "gamma": gammas(p)},
            mapped=True,
        ),
    )
}


def find_classifier(name: str) -> Classifier:
    """Return one of :data:`CLASSIFIERS`, or the user's own as ``package.module:function``.

    The function, or class, is called without arguments and gives a scikit-learn classifier.
    """
    check_classifier(name)
    if ":" in name:
        from sklearn.base import is_classifier

        return import_estimator(name, is_classifier, "classifier")
    if name not in CLASSIFIERS:
        raise FitError(
            f"The images have one class each, which {name} can't predict. Choose "
            f"{', '.join(CLASSIFIERS)}, or package.module:function for one of your own."
        )
    return CLASSIFIERS[name]
