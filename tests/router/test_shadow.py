"""Which calls a policy also sends to a target on trial: a share of them, whatever else was drawn for them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from router.decide import decide
from router.fleet import Fleet
from router.outcome import Outcome
from router.policy import Shadow
from tests.router.calls import catalog, policy, query, seen


def test_a_share_of_the_calls_also_of_those_that_explore() -> None:
    rules = replace(policy(candidates=("a", "b"), shadow=Shadow("c", 0.3)), explore=0.2)
    fleet, random = Fleet(), Random(5)
    made = [
        decide(query(), catalog("a", "b", "c"), rules, fleet, 100.0, random.random()) for _ in range(4_000)
    ]
    for explored in (True, False):
        drawn = [decision.shadow for decision in made if decision.explored == explored]
        assert 0.25 < drawn.count("c") / len(drawn) < 0.35
        assert set(drawn) == {"c", None}


def test_a_call_that_names_its_target_goes_nowhere_else() -> None:
    rules = policy(shadow=Shadow("c", 1.0))
    for asked in (query(model="a"), query(target="a")):
        assert decide(asked, catalog("a", "c"), rules, Fleet(), 100.0, 0.5).shadow is None
    assert decide(query(), catalog("a", "c"), rules, Fleet(), 100.0, 0.5).shadow == "c"


def test_a_shadow_teaches_but_no_breaker_listens() -> None:
    fleet = Fleet()
    seen(fleet, "c", 100.0, times=5, result="http_error", http_status=500, is_shadow=True)
    assert fleet.health("c").breaker.state(100.0) == "admitting"
    assert fleet.health("c").in_flight == 0
    outlook = fleet.health("c").outlook("general", 100.0)
    assert outlook.success_share < 0.9
    seen(fleet, "a", 100.0, times=3, result="connect_error")
    fleet.start("a")
    fleet.observe(Outcome("a", "general", "ok", 1.0, is_shadow=True), 100.0)
    assert fleet.health("a").breaker.state(100.0) == "shedding"
