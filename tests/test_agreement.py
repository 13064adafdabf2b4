"""Rank correlations against counting by hand and by brute force; pieces of two tokenizers by hand."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from attnviz.agreement import agreement, kendall, matching, spearman
from attnviz.errors import BadInput
from attnviz.testing import sample_finding
from attnviz.types import Attribution, Finding, Span, Tokens


def brute_kendall(x, y):
    """Concordant and discordant pairs, counted."""
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in itertools.combinations(range(len(x)), 2)]
    untied = [sum(pair[side] != 0 for pair in signs) for side in (0, 1)]
    size = math.sqrt(untied[0] * untied[1])
    return sum(a * b for a, b in signs) / size if size else math.nan


def brute_spearman(x, y):
    """Pearson's correlation of mean ranks, from the definition."""
    ranks = [[sum(w < v for w in z) + (sum(w == v for w in z) + 1) / 2 for v in z] for z in (x, y)]
    if len(x) == 0 or any(len(set(r)) == 1 for r in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def test_correlations_of_a_case_done_by_hand():
    x, y = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert spearman(x, y) == pytest.approx(1 - 6 * 2 / (4 * 15))  # Σd² = 2
    assert kendall(x, y) == pytest.approx((5 - 1) / 6)  # one of six pairs is turned round
    assert kendall(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / math.sqrt(2 * 3))
    assert (spearman(x, -x), kendall(x, -x)) == (-1, -1)
    assert (spearman(x, x**3), kendall(x, x**3)) == (1, 1)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 33, 100])
@pytest.mark.parametrize("values", [2, 5, 10**6])
def test_correlations_by_brute_force(count, values):
    rng = np.random.default_rng(count)
    for _ in range(5):
        x, y = rng.integers(0, values, (2, count)) / 7 - 1
        assert kendall(x, y) == pytest.approx(brute_kendall(x, y), abs=1e-12, nan_ok=True)
        assert spearman(x, y) == pytest.approx(brute_spearman(x, y), abs=1e-12, nan_ok=True)


# ---- two attributions


def tokens(*labels, text=None, offsets=None):
    """Tokens side by side; a label in <> stands for no characters."""
    found, at = [], 0
    for label in labels:
        size = 0 if label.startswith("<") else len(label)
        found.append((at, at + size) if size else (-1, -1))
        at += size
    return Tokens(
        ids=np.array([sum(map(ord, label)) for label in labels]),
        labels=labels,
        offsets=np.array(offsets or found).reshape(-1, 2),
        special=np.array([label.startswith("<") for label in labels]),
        text="".join(label for label in labels if not label.startswith("<")) if text is None else text,
    )


def attribution(read, rows, targets, *, signed=True, sources=None):
    spans = tuple(Span(i, i + 1, int(read.ids[i]), label) for i, label in enumerate(read.labels))
    sources = spans if sources is None else sources
    scores = np.zeros((len(rows), len(sources)), np.float32)
    for row, values in zip(scores, rows, strict=True):
        row[: len(values)] = values
    result = Attribution(
        method="by_hand",
        target_function="logit",
        targets=tuple(t if isinstance(t, Span) else spans[t] for t in targets),
        sources=sources,
        scores=scores,
        normalized=scores,
        unit="logits",
        signed=signed,
    )
    return Finding(analysis="by_hand", title="By hand", params={}, model="none", tokens=read, result=result)


READ = tokens("<s>", "a", "b", "c", "d")


def test_same_tokens_are_compared_by_position_and_only_what_comes_before_the_target():
    one = attribution(READ, [[1, 2, 3, 4], [4, 3, 2]], [4, 3])
    two = attribution(READ, [[9, 1, 2], [1, 2, 4, 3], [0, 0]], [3, 4, 2])
    found = agreement(one, two)
    assert found.targets == ((0, 1), (1, 0))
    assert found.ranked.tolist() == [4, 3]
    assert found.spearman == pytest.approx([0.8, brute_spearman([4, 3, 2], [9, 1, 2])])
    assert found.kendall == pytest.approx([4 / 6, brute_kendall([4, 3, 2], [9, 1, 2])])
    assert "matched by position" in found.info[1]
    assert len(found.info) == 2  # every target of the first has a counterpart
    assert matching(READ, READ) is None


def test_without_signs_the_order_is_that_of_absolute_values():
    one = attribution(READ, [[-4, 3, -2, 1]], [4])
    two = attribution(READ, [[4, 3, 2, 1]], [4], signed=False)
    assert agreement(one, one).spearman.tolist() == [1]
    assert agreement(one, two).spearman.tolist() == [1]
    assert "absolute scores" in agreement(one, two).info[0]
    assert agreement(one, attribution(READ, [[4, 3, 2, 1]], [4])).spearman[0] == pytest.approx(-0.4)  # Σd² = 14


def test_nothing_to_order_is_no_number():
    one = attribution(READ, [[1], [5, 5, 5, 5]], [1, 4])
    found = agreement(one, attribution(READ, [[2], [1, 2, 3, 4]], [1, 4]))
    assert found.ranked.tolist() == [1, 4]
    assert np.isnan(found.spearman).all()
    assert np.isnan(found.kendall).all()


def test_other_tokenizers_are_compared_over_common_pieces_of_text():
    text = "the cat sat down"
    one = tokens("<s>", "the", " cat", " sat", " down", text=text)  # the space goes with what follows
    two = tokens(  # … here it is left out, and "sat" is cut in two; a token of white space
        *("th", "e", "cat", " ", "s", "at", "down"),
        text=text,
        offsets=[(0, 2), (2, 3), (4, 7), (7, 8), (8, 9), (9, 11), (12, 16)],
    )
    first = attribution(one, [[50, 3, 1, 2]], [4])
    second = attribution(two, [[1, 4, 2, -3, 1, 2]], [6])  # the 1 + 4, cat − 3 (its space) + 2, sat 1 + 2
    found = agreement(first, second)
    assert found.targets == ((0, 0),)
    assert found.ranked.tolist() == [3]  # the | cat | sat; <s> has no characters
    assert found.spearman == pytest.approx([brute_spearman([3, 1, 2], [5, -1, 3])]) == [1]
    assert matching(one, two).tolist() == [-1, 0, 2, 4, 6, 7]
    assert matching(two, one).tolist() == [1, 1, 2, 3, 3, 3, 4, 5]  # the space alone lies in “ sat”
    assert "characters" in found.info[1]


def test_targets_that_are_cut_differently_are_left_out_and_counted():
    text = "ab cd"
    one, two = tokens("ab", " cd", text=text), tokens("ab", " c", "d", text=text)
    found = agreement(attribution(one, [[1]], [1]), attribution(two, [[1], [1, 2]], [1, 2]))
    assert found.targets == ()
    assert found.info[-1] == "Targets without a counterpart are not compared: 1 of the first, 2 of the second."


def test_what_would_come_next_is_compared_where_it_is_the_same():
    following = [Span(5, 6, 7, label) for label in ("x", "y")]
    one, two, other = (attribution(READ, [[1, 2, 3, 4, 5]], [span]) for span in (following[0], *following))
    assert agreement(one, two).ranked.tolist() == [5]
    assert agreement(one, other).targets == ()


def test_groups_of_tokens_are_compared_with_the_tokens_in_them():
    words = (Span(0, 1, 0, "<s>"), Span(1, 3, -1, "ab"), Span(3, 4, 0, "c"))
    one = attribution(READ, [[1, 2, 3]], [4], sources=words)
    two = attribution(READ, [[1, 9, -1, 3]], [4])
    found = agreement(one, two)
    assert found.ranked.tolist() == [3]
    assert found.spearman == pytest.approx([0.5])  # 1, 8, 3 against 1, 2, 3


def test_two_texts_and_other_results_are_refused():
    one = attribution(READ, [[1]], [1])
    with pytest.raises(BadInput, match="two different texts"):
        agreement(one, attribution(tokens("x", "y"), [[1]], [1]))
    with pytest.raises(BadInput, match="expected two attributions, got a result of kind 'token_scores'"):
        agreement(one, sample_finding("token_scores"))
    same = dataclasses.replace(one, tokens=dataclasses.replace(READ, offsets=np.full((5, 2), -1)))
    assert agreement(one, same).targets == ((0, 0),)  # the same tokens need no offsets
