"""One step of a bank of Kalman filters over scalars (see `kalman_algebra`): init, predict, update, estimate.

The same estimator as `ssrtrack.filters.bank.Bank`, whose docstring names the sources: M motion models mixed by an IMM
in continuous time, two-component measurement noise, a chi-square gate that reopens. What differs is form, not result:

* covariances are updated in Joseph form, also by sigma points (the spread of δx − K δz plus K R Kᵀ), so they stay
  positive definite in float32;
* mixtures are merged relative to the first model's mean, so that large coordinates cost no digits;
* azimuths are angles from the predicted direction, by one atan2 of the rotated offset: nothing is ever wrapped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, pi

from ssrtrack.kernels.kalman_algebra import (
    Matrix,
    Scalar,
    Vector,
    identity,
    is_number,
    largest,
    log_sum_exp,
    maximum,
    minus,
    mixture,
    plus,
    symmetric,
    times,
    total,
    weighted_spread,
    where,
    zeros,
)
from ssrtrack.kernels.kalman_form import Form, Parameters
from ssrtrack.kernels.kalman_motion import KINDS, ahead, entry, sigma_points

STAY_FLOOR = 1e-10  # least probability of staying: a model never entered dies out in a long gap, and 0/0 would mix it
SHRINK = 2.0**-32  # of an innovation's covariance: its determinant must not exceed float32 after a gap of hours
LOG_FLOOR = -60.0  # a model less likely than e⁻⁶⁰ takes part in the mixing as if it were that likely


@dataclass(frozen=True)
class State:
    """One track under M models: means, covariances, log-probabilities; plots gated in a row, 1 if begun anew."""

    mean: list[Vector]
    covariance: list[Matrix]
    log_probability: Vector
    gated: Scalar
    restarted: Scalar


@dataclass(frozen=True)
class Plot:
    """Position (m), its covariance (m²); a variance of 0 says there is no plot. polar is None or its 15 columns."""

    z: Vector
    R: Matrix
    valid: Scalar
    polar: Vector | None


Moments = tuple[Vector, Matrix]


def init(form: Form, p: Parameters, plot: Plot) -> State:
    """Position from the plot, velocity 0 ± the prior, the rest from each model's prior."""
    means, covariances = [], []
    for j, kind in enumerate(form.kinds):
        entry_mean, entry_variance = entry(kind, p.models[j])
        P = zeros(KINDS[kind].size)
        for a in range(2):
            for b in range(2):
                P[a][b] = plot.R[a][b]
            P[2 + a][2 + a] = p.speed_variance
        for i, variance in enumerate(entry_variance):
            P[4 + i][4 + i] = variance
        means.append([*plot.z, 0.0, 0.0, *entry_mean])
        covariances.append(P)
    return State(means, covariances, list(p.log_start), 0.0, 0.0)


def predict(form: Form, p: Parameters, state: State, dt: Scalar) -> State:
    """Mix, then move every model by dt seconds."""
    if len(form.kinds) > 1:
        state = _mixed(form, p, state, dt)
    moved = [
        ahead(kind, p.models[j], form.engine, state.mean[j], state.covariance[j], dt)
        for j, kind in enumerate(form.kinds)
    ]
    return replace(state, mean=[m[0] for m in moved], covariance=[m[1] for m in moved], restarted=0.0)


def chain(p: Parameters, dt: Scalar) -> Matrix:
    """Transition probabilities Π(dt) = I + Σ_k A_k (e^(λ_k dt) − 1) from the chain's spectrum."""
    models = len(p.log_start)
    raised = [(dt * rate).expm1() for rate in p.chain_rate]
    rows = identity(models)
    for i in range(models):
        for j in range(models):
            share = total([times(p.chain_share[k][i][j], e) for k, e in enumerate(raised)])
            rows[i][j] = maximum(plus(rows[i][j], share), STAY_FLOOR if i == j else 0.0)
    return rows


def _mixed(form: Form, p: Parameters, state: State, dt: Scalar) -> State:
    rows, models = chain(p, dt), len(form.kinds)
    top = largest(state.log_probability)
    share = [maximum(value - top, LOG_FLOOR).exp() for value in state.log_probability]
    moving = dt > 0.0
    references = [state.mean[0][a] for a in range(4)]
    offsets = [[minus(m[a], references[a]) if i else 0.0 for a in range(4)] for i, m in enumerate(state.mean)]
    spreads = [weighted_spread([1.0], [offsets[i]], _corner(state.covariance[i])) for i in range(models)]
    log_probability, means, covariances = [], [], []
    for j, kind in enumerate(form.kinds):
        joint = [times(share[i], rows[i][j]) for i in range(models)]
        whole = total(joint)
        # A step of 0 s mixes nothing; there the floor must not show.
        log_probability.append(where(moving, top + whole.log(), state.log_probability[j]))
        per_whole = 1.0 / whole
        weights = [v * per_whole for v in joint]
        entered = entry(kind, p.models[j])
        mean, covariance = _entering(state, j, weights, offsets, spreads, entered)
        means.append([*(plus(references[a], mean[a]) for a in range(4)), *mean[4:]])
        covariances.append(covariance)
    return replace(state, mean=means, covariance=covariances, log_probability=log_probability)


def _entering(
    state: State, j: int, weights: Vector, offsets: list[Vector], spreads: list[Matrix], entered: tuple[Vector, Vector]
) -> Moments:
    """Moments (relative to the reference) of the mixture that enters model j; what others lack comes from its prior."""
    mean = [total([times(w, o[a]) for w, o in zip(weights, offsets, strict=True)]) for a in range(4)]

    def shared(a: int, b: int) -> Scalar:
        spread = total([times(w, s[a][b]) for w, s in zip(weights, spreads, strict=True)])
        return minus(spread, times(mean[a], mean[b]))

    shared_covariance = symmetric(4, shared)
    extra = len(entered[0])
    if not extra:
        return mean, shared_covariance
    own, stay = state.covariance[j], weights[j]
    change = total([w for i, w in enumerate(weights) if i != j])
    apart = [minus(state.mean[j][4 + e], entered[0][e]) for e in range(extra)]

    def covariance(a: int, b: int) -> Scalar:
        if b < 4:
            return shared_covariance[a][b]
        if a < 4:
            return stay * plus(own[a][b], minus(offsets[j][a], mean[a]) * apart[b - 4])
        prior = change * entered[1][a - 4] if a == b else 0.0
        return plus(stay * own[a][b] + stay * change * (apart[a - 4] * apart[b - 4]), prior)

    return [*mean, *(plus(entered[0][e], stay * apart[e]) for e in range(extra))], symmetric(4 + extra, covariance)


def _corner(P: Matrix) -> Matrix:
    return [row[:4] for row in P[:4]]


def update(form: Form, p: Parameters, state: State, plot: Plot) -> tuple[State, Scalar]:
    """The state after the plot where there is one, and the plot's log-likelihood (0 without one)."""
    results = [_one_model(form, p, x, P, plot) for x, P in zip(state.mean, state.covariance, strict=True)]
    after = State([r[0] for r in results], [r[1] for r in results], state.log_probability, 0.0, 0.0)
    log_likelihood = results[0][2]
    if len(results) > 1:
        logs = [value + r[2] for value, r in zip(state.log_probability, results, strict=True)]
        log_likelihood, _ = log_sum_exp(logs)
        after = replace(after, log_probability=[value - log_likelihood for value in logs])
    taken = plot.valid
    if form.gate:
        nearest = results[0][3]
        for r in results[1:]:
            nearest = where(r[3] < nearest, r[3], nearest)
        far = nearest > p.gate_threshold
        gated = where(far, state.gated + 1.0, 0.0)
        again = far & (gated > p.reopen_after)
        after = choose(far, replace(state, gated=gated), after)
        after = choose(again, replace(init(form, p, plot), restarted=1.0), after)
        log_likelihood = where(far, 0.0, log_likelihood)
    return choose(taken, after, state), where(taken, log_likelihood, 0.0)


def choose(condition: Scalar, a: State, b: State) -> State:
    """State a where the condition holds, else b."""

    def vector(x: Vector, y: Vector) -> Vector:
        return [_where(condition, u, v) for u, v in zip(x, y, strict=True)]

    means = [vector(x, y) for x, y in zip(a.mean, b.mean, strict=True)]
    covariances = [
        symmetric(len(x), lambda i, j, x=x, y=y: _where(condition, x[i][j], y[i][j]))
        for x, y in zip(a.covariance, b.covariance, strict=True)
    ]
    log_probability = vector(a.log_probability, b.log_probability)
    gated, restarted = _where(condition, a.gated, b.gated), _where(condition, a.restarted, b.restarted)
    return State(means, covariances, log_probability, gated, restarted)


def _where(condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
    return a if a is b or (is_number(a, 0.0) and is_number(b, 0.0)) else where(condition, a, b)


def _one_model(form: Form, p: Parameters, x: Vector, P: Matrix, plot: Plot) -> tuple[Vector, Matrix, Scalar, Scalar]:
    """Posterior mean and covariance, log-likelihood and distance yᵀ S⁻¹ y of one model's plot."""
    seen = _observed(form, x, P, plot)
    mean, covariance, log_core, distance = _gained(x, P, seen, 1.0)
    if not form.tail:
        return mean, covariance, log_core, distance
    # The plot's noise is (1 − ε) N(0, R) + ε N(0, κ²R): two updates, weighed by what each made of the plot.
    wide_mean, wide_covariance, log_wide, distance = _gained(x, P, seen, p.tail_factor)
    whole, (core, wide) = log_sum_exp([log_core + p.log_core_weight, log_wide + p.log_tail_weight])
    apart = [minus(b, a) for a, b in zip(mean, wide_mean, strict=True)]

    def merged(i: int, j: int) -> Scalar:
        between = core * wide * (apart[i] * apart[j])
        return core * covariance[i][j] + wide * wide_covariance[i][j] + between

    return [a + wide * d for a, d in zip(mean, apart, strict=True)], symmetric(len(x), merged), whole, distance


@dataclass(frozen=True)
class _Seen:
    """Innovation y, its covariance without noise, the cross-covariance P Hᵀ (n × 2), R, and whose spread it came from.

    Either H (2 × 2, by x and y) or pairs (weight, δx, δz) of sigma points.
    """

    y: Vector
    spread: Matrix
    cross: Matrix
    R: Matrix
    H: Matrix | None
    points: list[tuple[float, Vector, Vector]]


def _observed(form: Form, x: Vector, P: Matrix, plot: Plot) -> _Seen:
    if form.observation == "position":
        y = [minus(plot.z[a], x[a]) for a in range(2)]
        return _Seen(y, [row[:2] for row in P[:2]], [row[:2] for row in P], plot.R, identity(2), [])
    return _polar(form, x, P, plot)


def _polar(form: Form, x: Vector, P: Matrix, plot: Plot) -> _Seen:
    """Slant range and azimuth at the plot's radar; the columns are `kalman_form.POLAR_COLUMNS`."""
    assert plot.polar is not None  # given with every polar form
    slant, sin, cos, range_variance, azimuth_variance, height_variance, *rest = plot.polar
    turn, place = [rest[0:2], rest[2:4], rest[4:6]], rest[6:9]
    here = [turn[a][0] * x[0] + turn[a][1] * x[1] + place[a] for a in range(3)]
    ground2 = here[0] * here[0] + here[1] * here[1]
    expected = (ground2 + here[2] * here[2]).sqrt()
    slope = here[2] / expected
    R = [[range_variance + slope * slope * height_variance, 0.0], [0.0, azimuth_variance]]
    bearing = (sin * here[1] - cos * here[0]).atan2(cos * here[1] + sin * here[0])
    if form.engine == "extended":
        local = [[here[0] / expected, here[1] / expected, slope], [here[1] / ground2, -here[0] / ground2, 0.0]]
        H = [[total([times(row[c], turn[c][a]) for c in range(3)]) for a in range(2)] for row in local]
        cross = [[H[m][0] * row[0] + H[m][1] * row[1] for m in range(2)] for row in P]
        spread = symmetric(2, lambda a, b: H[a][0] * cross[0][b] + H[a][1] * cross[1][b])
        return _Seen([slant - expected, bearing], spread, cross, R, H, [])
    offsets, weights = sigma_points(form.engine, P)
    seen = []
    for o in offsets:
        # From the mean's range and bearing by the offset alone, so that float32 keeps what differs.
        moved = [plus(times(turn[a][0], o[0]), times(turn[a][1], o[1])) for a in range(3)]
        if all(is_number(v, 0.0) for v in moved):
            seen.append([0.0, 0.0])
            continue
        at = [plus(here[a], moved[a]) for a in range(3)]
        reach = (at[0] * at[0] + at[1] * at[1] + at[2] * at[2]).sqrt()
        longer = total([times(moved[a], here[a] + at[a]) for a in range(3)])
        aside = minus(times(moved[0], here[1]), times(moved[1], here[0]))
        seen.append([longer / (reach + expected), aside.atan2(at[1] * here[1] + at[0] * here[0])])
    centre = [total([times(w, s[m]) for w, s in zip(weights, seen, strict=True)]) for m in range(2)]
    apart = [[minus(s[m], centre[m]) for m in range(2)] for s in seen]
    spread = weighted_spread(weights, apart, zeros(2))
    cross = [
        [
            total([times(times(w, o[i]), d[m]) for w, o, d in zip(weights, offsets, apart, strict=True)])
            for m in range(2)
        ]
        for i in range(len(x))
    ]
    y = [slant - expected - centre[0], bearing - centre[1]]
    return _Seen(y, spread, cross, R, None, list(zip(weights, offsets, apart, strict=True)))


def _gained(x: Vector, P: Matrix, seen: _Seen, factor: Scalar) -> tuple[Vector, Matrix, Scalar, Scalar]:
    """Kalman update with noise factor·R, in Joseph form."""
    R = [[times(v, factor) for v in row] for row in seen.R]
    s00, s01, s11 = (SHRINK * plus(seen.spread[a][b], R[a][b]) for a, b in ((0, 0), (0, 1), (1, 1)))
    determinant = s00 * s11 - s01 * s01
    scale = SHRINK / determinant
    inverse = [[s11 * scale, -s01 * scale], [-s01 * scale, s00 * scale]]
    K = [[row[0] * inverse[0][m] + row[1] * inverse[1][m] for m in range(2)] for row in seen.cross]
    y = seen.y
    white = [inverse[m][0] * y[0] + inverse[m][1] * y[1] for m in range(2)]
    distance = white[0] * y[0] + white[1] * y[1]
    log_likelihood = -0.5 * (distance + determinant.log()) - log(2.0 * pi / SHRINK)
    mean = [x[i] + K[i][0] * y[0] + K[i][1] * y[1] for i in range(len(x))]
    return mean, _joseph(P, K, R, seen), log_likelihood, distance


def _joseph(P: Matrix, K: Matrix, R: Matrix, seen: _Seen) -> Matrix:
    size = len(P)
    noise = [[plus(times(k[0], R[0][m]), times(k[1], R[1][m])) for m in range(2)] for k in K]
    if seen.H is None:
        weights = [w for w, _, _ in seen.points]
        left = [[minus(o[i], K[i][0] * d[0] + K[i][1] * d[1]) for i in range(size)] for _, o, d in seen.points]
        start = symmetric(size, lambda i, j: noise[i][0] * K[j][0] + noise[i][1] * K[j][1])
        return weighted_spread(weights, left, start)
    # (I − K H) P first, then (…)(I − K H)ᵀ + K R Kᵀ; H sees x and y only.
    cross = seen.cross
    half = [[P[i][j] - (K[i][0] * cross[j][0] + K[i][1] * cross[j][1]) for j in range(size)] for i in range(size)]
    H = seen.H
    kept = [[plus(times(row[0], H[m][0]), times(row[1], H[m][1])) for m in range(2)] for row in half]

    def entry_of(i: int, j: int) -> Scalar:
        rest = (noise[i][0] - kept[i][0]) * K[j][0] + (noise[i][1] - kept[i][1]) * K[j][1]
        return half[i][j] + rest

    return symmetric(size, entry_of)


def estimate(form: Form, state: State) -> Moments:
    """Mean and covariance of x, y, vx, vy over all models."""
    if len(form.kinds) == 1:
        return state.mean[0][:4], _corner(state.covariance[0])
    parts = [(x[:4], _corner(P)) for x, P in zip(state.mean, state.covariance, strict=True)]
    return mixture([value.exp() for value in state.log_probability], parts)


def packed(form: Form, state: State) -> Vector:
    """The state's scalars in a row: per model mean and upper covariance; log-probabilities; gated, restarted."""
    out: Vector = []
    for x, P in zip(state.mean, state.covariance, strict=True):
        out += [*x, *upper(P)]
    if len(form.kinds) > 1:
        out += state.log_probability
    return out + ([state.gated, state.restarted] if form.gate else [])


def unpacked(form: Form, values: Sequence[Scalar]) -> State:
    """The state of a row made by `packed`."""
    means, covariances, at = [], [], 0
    for kind in form.kinds:
        n = KINDS[kind].size
        means.append(list(values[at : at + n]))
        covariances.append(from_upper(n, values[at + n :]))
        at += n + n * (n + 1) // 2
    models = len(form.kinds)
    log_probability: Vector = [0.0]
    if models > 1:
        log_probability, at = list(values[at : at + models]), at + models
    gated, restarted = (values[at], values[at + 1]) if form.gate else (0.0, 0.0)
    return State(means, covariances, log_probability, gated, restarted)


def upper(P: Matrix) -> Vector:
    """The upper triangle, row by row."""
    return [P[i][j] for i in range(len(P)) for j in range(i, len(P))]


def from_upper(size: int, values: Sequence[Scalar]) -> Matrix:
    """The symmetric matrix of an upper triangle."""
    row = iter(values)
    return symmetric(size, lambda i, j: next(row))
