"""One step backward of the smoother over scalars (see `kalman_algebra`): the state given all later plots.

The method of `ssrtrack.filters.smoother`, which derives it: for each pair (model i at this plot, model j up to the
next) one Rauch-Tung-Striebel step, the pairs weighed by what the later plots say, and merged per i. Pairs are combined
through Cholesky factors, so that their covariances are sums of squares.
"""

from dataclasses import dataclass

from ssrtrack.kernels.kalman_algebra import (
    Matrix,
    Scalar,
    Vector,
    cholesky,
    dot,
    eigen,
    identity,
    log_sum_exp,
    maximum,
    minus,
    mixture,
    plus,
    product,
    solve_lower,
    solve_upper,
    symmetric,
    times,
    times_vector,
    total,
    transposed,
    weighted_spread,
    zeros,
)
from ssrtrack.kernels.kalman_form import Form, Parameters
from ssrtrack.kernels.kalman_motion import KINDS, ahead, entry
from ssrtrack.kernels.kalman_step import State, chain, choose

# Of a smoothed variance in the predicted one. After a gap of hours rounding makes smaller ones 0 or negative, which
# must not read as "the later plots say nothing".
LEAST_SHARE = 1e-12


@dataclass(frozen=True)
class _Pair:
    """Model i's state as it enters j: predicted moments x (n), P, the factor L of P, and the F that made them.

    shared (n × n_i): covariance of the entering state with model i's own.
    """

    x: Vector
    P: Matrix
    L: Matrix
    F: Matrix
    shared: Matrix


def back(form: Form, p: Parameters, here: State, later: State, dt: Scalar) -> State:
    """Smoothed state at a plot from the filtered one there and the smoothed one dt seconds later.

    A track that began anew with the later plot (`later.restarted`) keeps its filtered state.
    """
    models = len(form.kinds)
    pairs = [[_pair(form, p, here, i, j, dt) for j in range(models)] for i in range(models)]
    if models == 1:
        mean, covariance = _rts(here.mean[0], here.covariance[0], pairs[0][0], later.mean[0], later.covariance[0])
        smoothed = State([mean], [covariance], here.log_probability, here.gated, here.restarted)
    else:
        smoothed = _merged(form, p, here, later, pairs, dt)
    return choose(later.restarted > 0.0, here, smoothed) if form.gate else smoothed


def _pair(form: Form, p: Parameters, here: State, i: int, j: int, dt: Scalar) -> _Pair:
    kind, own = form.kinds[j], here.covariance[i]
    n = KINDS[kind].size
    if i == j:
        x, P, shared = here.mean[i], own, own
    else:
        mean, variance = entry(kind, p.models[j])
        x = [*here.mean[i][:4], *mean]

        def entered(a: int, b: int) -> Scalar:
            if b < 4:
                return own[a][b]
            return variance[a - 4] if a == b else 0.0

        P = symmetric(n, entered)
        shared = [own[a] if a < 4 else [0.0] * len(own) for a in range(n)]
    moved, spread, F = ahead(kind, p.models[j], form.engine, x, P, dt)
    return _Pair(moved, spread, cholesky(spread), F, shared)


def _rts(x: Vector, P: Matrix, pair: _Pair, end_x: Vector, end_P: Matrix) -> tuple[Vector, Matrix]:
    """Model i's state given that of the pair at the next plot."""
    lead = product(pair.F, pair.shared)
    # G = sharedᵀ Fᵀ P⁻¹, (n_i × n), row by row.
    G = [solve_upper(pair.L, solve_lower(pair.L, column)) for column in transposed(lead)]
    apart = [minus(a, b) for a, b in zip(end_x, pair.x, strict=True)]
    mean = [plus(v, dot(g, apart)) for v, g in zip(x, G, strict=True)]
    # P − G P⁻ Gᵀ, the state's covariance if the next one were known, plus G Pˢ Gᵀ.
    left = [[dot(g, column) for column in transposed(end_P)] for g in G]

    def entry_of(a: int, b: int) -> Scalar:
        known = minus(P[a][b], total([times(G[a][k], lead[k][b]) for k in range(len(lead))]))
        return plus(known, dot(left[a], G[b]))

    return mean, symmetric(len(x), entry_of)


def _merged(form: Form, p: Parameters, here: State, later: State, pairs: list[list[_Pair]], dt: Scalar) -> State:
    models = len(form.kinds)
    rows = chain(p, dt)
    # Floored like the filter's mixing: a pair that cannot be keeps a weight that does not count.
    log_rows = [[maximum(rows[i][j], 1e-30).log() for j in range(models)] for i in range(models)]
    prior = [[here.log_probability[i] + log_rows[i][j] for j in range(models)] for i in range(models)]
    ends: list[list[tuple[Vector, Matrix]]] = [[] for _ in range(models)]
    weight: list[Vector] = [[] for _ in range(models)]
    for j in range(models):
        column = [pairs[i][j] for i in range(models)]
        found = _pair_ends([prior[i][j] for i in range(models)], column, later.mean[j], later.covariance[j])
        whole, _ = log_sum_exp([log_weight for _, _, log_weight in found])
        for i, (x, P, log_weight) in enumerate(found):
            ends[i].append(_rts(here.mean[i], here.covariance[i], column[i], x, P))
            weight[i].append(log_weight + (later.log_probability[j] - whole))
    means, covariances, log_probability = [], [], []
    for i in range(models):
        whole, shares = log_sum_exp(weight[i])
        mean, covariance = mixture(shares, ends[i])
        means.append(mean)
        covariances.append(covariance)
        log_probability.append(whole)
    return State(means, covariances, log_probability, here.gated, here.restarted)


def _pair_ends(
    log_prior: Vector, pairs: list[_Pair], smoothed_x: Vector, smoothed_P: Matrix
) -> list[tuple[Vector, Matrix, Scalar]]:
    """Each pair's moments at the next plot given all plots, and its log-weight up to a constant.

    In coordinates u that make the merged prediction N(0, I), the later plots say exp(h·u − uᵀ Λ u / 2), with
    Λ = max(A⁻¹ − I, 0) for the smoothed covariance A there.
    """
    _, shares = log_sum_exp(log_prior)
    centre, spread = mixture(shares, [(pair.x, pair.P) for pair in pairs])
    root = cholesky(spread)
    n = len(centre)
    half = transposed([solve_lower(root, row) for row in smoothed_P])
    inner = [solve_lower(root, row) for row in half]
    information = information_gained(symmetric(n, lambda a, b: (inner[a][b] + inner[b][a]) * 0.5))
    shift = solve_lower(root, [minus(a, b) for a, b in zip(smoothed_x, centre, strict=True)])
    tilt = [plus(s, v) for s, v in zip(shift, times_vector(information, shift), strict=True)]
    return [_tilted(log_prior[i], pair, centre, root, information, tilt) for i, pair in enumerate(pairs)]


def _tilted(
    log_prior: Scalar, pair: _Pair, centre: Vector, root: Matrix, information: Matrix, tilt: Vector
) -> tuple[Vector, Matrix, Scalar]:
    """A pair's prediction times what the later plots say: moments and log-weight."""
    n = len(centre)
    u = solve_lower(root, [minus(a, b) for a, b in zip(pair.x, centre, strict=True)])
    # C Cᵀ is the pair's covariance in these coordinates, so C (I + Cᵀ Λ C)⁻¹ Cᵀ the one after.
    C = transposed([solve_lower(root, column) for column in transposed(pair.L)])
    right = product(information, C)
    unit = identity(n)
    N = cholesky(symmetric(n, lambda a, b: plus(unit[a][b], total([times(C[k][a], right[k][b]) for k in range(n)]))))
    W = transposed([solve_lower(N, row) for row in C])
    told = times_vector(information, u)
    pull = [minus(t, v) for t, v in zip(tilt, told, strict=True)]
    pulled = times_vector(W, pull)
    moved = times_vector(transposed(W), pulled)
    volume: Scalar = 1.0
    for a in range(n):
        volume = times(volume, N[a][a])
    exponent = dot(tilt, u) - 0.5 * dot(told, u) + 0.5 * dot(pulled, pulled)
    end = [
        plus(c, v)
        for c, v in zip(centre, times_vector(root, [plus(a, b) for a, b in zip(u, moved, strict=True)]), strict=True)
    ]
    factor = product(root, transposed(W))
    covariance = weighted_spread([1.0] * n, transposed(factor), zeros(n))
    return end, covariance, log_prior + exponent - volume.log()


def information_gained(A: Matrix) -> Matrix:
    """max(A⁻¹ − I, 0) of a symmetric positive definite A: later plots cannot add uncertainty.

    Where merging made it seem so (an eigenvalue of A above 1), they say nothing along that direction.
    """
    values, V = eigen(A)
    gained = [maximum(1.0 / maximum(value, LEAST_SHARE) - 1.0, 0.0) for value in values]
    return weighted_spread(gained, transposed(V), zeros(len(A)))
