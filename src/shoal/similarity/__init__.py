"""How alike two representations are: pure functions and sums, nothing about models or hooks."""

from shoal.similarity.angular import angular_distance, cosine_sums, row_cosines
from shoal.similarity.cka import Estimator, centred_grams, linear_cka, unbiased_linear_cka
from shoal.similarity.reference import ReferenceSums
from shoal.similarity.streaming import SimilaritySettings, SimilaritySums

__all__ = [
    "Estimator",
    "ReferenceSums",
    "SimilaritySettings",
    "SimilaritySums",
    "angular_distance",
    "centred_grams",
    "cosine_sums",
    "linear_cka",
    "row_cosines",
    "unbiased_linear_cka",
]
