"""How the standing of an endpoint's devices follows from decisions and the passing of time.

Used where nobody else keeps these books: with a recorded series, in benchmarks and rehearsals. The oldest loan comes
back first, so that what is lent for a short rise and fall of demand was lent long ago.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from orchestrator.policy.lending.values import Decision, Emergency, Keep, Lend, Loan, Recall, Return, Standing, Terms


def settle(standing: Standing, *, now_s: float) -> Standing:
    """What has come back serves."""
    back = sum(one.replicas for one in standing.returns if one.serves_at_s <= now_s)
    waiting = tuple(one for one in standing.returns if one.serves_at_s > now_s)
    return replace(standing, serving=standing.serving + back, returns=waiting)


def apply(standing: Standing, decision: Decision, terms: Terms, *, now_s: float) -> Standing:
    """The standing after a decision was carried out as foreseen. Holds: no device comes into being or is lost."""
    match decision:
        case Lend(replicas=replicas):
            assert replicas <= standing.serving, f"{replicas} of {standing.serving} serving replicas are lent"
            loans = (*standing.loans, Loan(now_s, replicas))
            return replace(standing, serving=standing.serving - replicas, loans=loans)
        case Recall(replicas=replicas):
            return _called_back(standing, replicas, terms.times.lead_s, now_s)
        case Emergency(replicas=replicas):
            within_s = terms.times.emergency_s
            hurried = tuple(
                replace(one, serves_at_s=min(one.serves_at_s, now_s + within_s), left=True) for one in standing.returns
            )
            return _called_back(replace(standing, returns=hurried), replicas, within_s, now_s)
        case Keep():
            return standing
    assert_never(decision)


def _called_back(standing: Standing, replicas: int, within_s: float, now_s: float) -> Standing:
    loans, left = [], replicas
    for loan in sorted(standing.loans):
        taken = min(left, loan.replicas)
        left -= taken
        if taken < loan.replicas:
            loans.append(Loan(loan.since_s, loan.replicas - taken))
    assert left == 0, f"{replicas} replicas are called back of {standing.lent} that are lent"
    if not replicas:
        return standing
    # Nobody watches the drain here: training is taken to let go as foreseen.
    coming = Return(serves_at_s=now_s + within_s, replicas=replicas, called_s=now_s, left=True)
    return replace(standing, loans=tuple(loans), returns=(*standing.returns, coming))
