"""`Quotas`: every call of a key with limits is granted or refused, and settled when it is over. No clock, no I/O.

In: keys, the model a call asks for, tokens it may take, the time. Out: `Grant`, or `Refused` saying which limit,
and when to come back. Calls and tokens a minute are buckets that hold a minute's worth and refill steadily: never
more than the limit at once, nor more than twice the limit in any minute.

Each worker grants from its shares of these limits and of calls at once (see `callers.share`), which all workers and
gateways divide among each other. Budgets are the caller's over all workers (see `callers.spending`): calls stop when
what is spent and what is in flight reach the budget.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import translate
from math import ceil, inf
from typing import Literal, TypeVar
from uuid import UUID

from gateway.callers.keys import Key, KeyLimits
from gateway.callers.share import Places, Share
from gateway.callers.spending import DAY_S, Spending, Spent, as_date, day_of, month_of

Limit = Literal["models", "requests", "tokens", "parallel", "budget"]
Shared = Literal["requests", "tokens", "parallel"]
SOON_S = 1.0  # when a place may be free again, which nobody knows
LONG_S = 60.0  # OpenAI's clients, which try all 429s again, are told not to where it takes longer
_NUSD_PER_USD = 10**9
_AnyShare = TypeVar("_AnyShare", bound=Share)


class Refused(Exception):
    """A call that its key's limits do not allow now; the message says why. `retry_after_s` None = never as it is."""

    def __init__(
        self, limit: Limit, message: str, retry_after_s: float | None, headers: dict[str, str]
    ) -> None:
        super().__init__(message)
        self.limit, self.message = limit, message
        self.retry_after_s, self.headers = retry_after_s, headers


class Quotas:
    """One worker's shares of all callers' limits, out of `workers` equal ones until more is heard."""

    def __init__(self, spending: Spending, workers: int = 1) -> None:
        self.on_short: Callable[[], None] = lambda: None  # called when a share runs low
        self.least_workers = workers  # those of this gateway
        self._spending, self._workers = spending, workers
        self._callers: dict[str, _Caller] = {}
        self._pools: dict[tuple[str, str], tuple[float, float]] = {}

    def admit(self, key: Key, model: str, tokens: int, now: float, nusd: int = 0) -> Grant:
        """Leave for one call that asks for `model` and may take so many tokens, input and output, and nano-dollars.

        `now` is Unix seconds. A call that is granted must be settled, whatever becomes of it. Raises `Refused`.
        """
        caller = self._callers.get(key.name)
        if caller is None:
            caller = self._callers[key.name] = _Caller(key.name, self._spending)
        if caller.limits is not key.limits:
            caller.adopt(key.limits, self._workers, now, self._tell_short)
            self._join_pools(caller, now)
        return _FREE if caller.is_free else caller.admit(model, tokens, now, nusd)

    def _tell_short(self) -> None:
        self.on_short()

    def shares(self) -> Iterator[tuple[str, Shared, Share]]:
        """All that were ever used here, with the caller's name and the limit."""
        for caller in self._callers.values():
            for kind, share in caller.shares.items():
                yield caller.name, kind, share

    def share_with(self, workers: int) -> None:
        """So many there are now over all gateways, this one included; those of this gateway count in any case."""
        workers = max(workers, self.least_workers)
        if workers != self._workers:
            self._workers = workers
            for _, _, share in self.shares():
                share.share_with(workers)

    def hear(self, pools: Mapping[tuple[str, str], tuple[float, float]], now: float, *, is_all: bool) -> None:
        """What is left, and what of it nobody holds, of limits in use anywhere, by caller and limit."""
        self._pools = dict(pools) if is_all else {**self._pools, **pools}
        for name, _ in pools:
            if (caller := self._callers.get(name)) is not None:
                self._join_pools(caller, now)

    def _join_pools(self, caller: _Caller, now: float) -> None:
        for kind, share in caller.shares.items():
            pool = self._pools.get((caller.name, kind))
            if pool is not None and not share.is_pooled:
                share.join(*pool, now)


class Grant:
    """A call's leave to run, and what it holds until it is settled."""

    __slots__ = ("_caller", "_day", "_nusd", "_requests_stood", "_tokens", "_tokens_stood", "_tokens_taken")

    def __init__(self, caller: _Caller | None, tokens: int = 0, nusd: int = 0, now: float = 0.0) -> None:
        """Takes what `caller` has found to be there; None = a key without limits, of which nothing is kept."""
        self._caller, self._tokens_taken, self._nusd = caller, tokens, nusd
        self._requests_stood = self._tokens_stood = self._tokens = None
        if caller is None:
            return
        self._day = day_of(now)
        caller.running += 1
        caller.reserved_nusd += nusd
        if caller.places is not None:
            caller.places.level -= 1.0
        if caller.requests is not None:
            caller.requests.level -= 1.0
            self._requests_stood = caller.requests, *caller.requests.stands()
        self._tokens = caller.tokens
        if self._tokens is not None:
            self._tokens.level -= tokens
            self._tokens_stood = self._tokens, *self._tokens.stands()

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`, for the limits there are, as they stood when the call was granted."""
        requests = {} if self._requests_stood is None else _headers("requests", *self._requests_stood)
        tokens = {} if self._tokens_stood is None else _headers("tokens", *self._tokens_stood)
        return requests | tokens

    def settle(self, tokens: int | None = 0, nusd: int = 0, exchange: UUID | None = None) -> None:
        """The call is over. The first time counts, further ones are harmless.

        Give what it used in truth: nothing where no upstream began; `tokens` None where nobody knows, which leaves the
        reservation used. `exchange` is its key in the ledger: settle right after it was recorded. The call itself stays
        counted in its minute.
        """
        caller, self._caller = self._caller, None
        if caller is None:
            return
        caller.running -= 1
        if caller.places is not None:
            caller.places.give_back(1.0)
        caller.reserved_nusd -= self._nusd
        if self._tokens is not None and tokens is not None:
            self._tokens.give_back(self._tokens_taken - tokens)
        if nusd and exchange is not None and caller.has_budget:
            caller.spending.add(caller.name, nusd, self._day, exchange)


_FREE = Grant(None)


def _headers(name: str, share: Share, left: int, full_in_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{name}": str(share.limit),
        f"x-ratelimit-remaining-{name}": str(left),
        f"x-ratelimit-reset-{name}": duration(full_in_s),
    }


def _resized(
    share: _AnyShare | None, limit: int | None, make: Callable[[int], _AnyShare]
) -> _AnyShare | None:
    if share is None or limit is None:
        return None if limit is None else make(limit)
    share.resize(limit)
    return share


class _Caller:
    """One key's state. What is in flight stays when its limits change."""

    def __init__(self, name: str, spending: Spending) -> None:
        self.name, self.spending = name, spending
        self.limits = KeyLimits()
        self.requests: Share | None = None
        self.tokens: Share | None = None
        self.places: Places | None = None
        self.running = self.reserved_nusd = 0

    @property
    def shares(self) -> dict[Shared, Share]:
        all_three: dict[Shared, Share | None] = {
            "requests": self.requests,
            "tokens": self.tokens,
            "parallel": self.places,
        }
        return {kind: share for kind, share in all_three.items() if share is not None}

    def adopt(self, limits: KeyLimits, workers: int, now: float, on_short: Callable[[], None]) -> None:
        self.limits = limits
        self.is_free = limits == KeyLimits()
        self.has_budget = (limits.daily_nusd, limits.monthly_nusd) != (None, None)
        self._daily = inf if limits.daily_nusd is None else limits.daily_nusd
        self._monthly = inf if limits.monthly_nusd is None else limits.monthly_nusd
        patterns = "|".join(translate(pattern) for pattern in limits.allowed_models)
        self._allows = re.compile(patterns).match if patterns else None

        had_places, of = self.places is not None, (workers, now, on_short)
        self.requests = _resized(self.requests, limits.rpm, lambda limit: Share(limit, *of))
        self.tokens = _resized(self.tokens, limits.tpm, lambda limit: Share(limit, *of))
        self.places = _resized(self.places, limits.parallel, lambda limit: Places(limit, *of))
        if self.places is not None and not had_places:
            self.places.give_back(-self.running)

    def admit(self, model: str, tokens: int, now: float, nusd: int) -> Grant:
        """Nothing is taken unless all limits agree."""
        if self._allows is not None and self._allows(model) is None:
            raise self._refusal("models", f"this key may not use the model '{model}'", None)
        if self.has_budget:
            spent, reserved = self.spending.of(self.name, now), self.reserved_nusd
            if spent.today + reserved >= self._daily or spent.this_month + reserved >= self._monthly:
                raise self._over_budget(spent, now)
        if self.places is not None:
            self.places.refill(now)
            if not self.places.has_room(1.0):
                message = f"this key may have {self.places.limit} calls running at once, and they are"
                raise self._refusal("parallel", message, SOON_S)
        if self.requests is not None:
            self.requests.refill(now)
            if not self.requests.has_room(1.0):
                raise self._empty("requests", self.requests, 1.0, "a call")
        if self.tokens is not None:
            self.tokens.refill(now)
            self._check_tokens(self.tokens, tokens)
        return Grant(self, tokens, nusd, now)

    def _check_tokens(self, share: Share, tokens: int) -> None:
        if tokens > share.limit:
            message = (
                f"this call may take {tokens} tokens, and the key has {share.limit} a minute; shorten it"
            )
            raise self._refusal("tokens", f"{message}, or lower its output limit", None)
        if not share.has_room(tokens):
            raise self._empty("tokens", share, tokens, f"{tokens} tokens")

    def _over_budget(self, spent: Spent, now: float) -> Refused:
        day = day_of(now)
        name, budget, used, ends = "day", self._daily, spent.today, day + 1
        if used + self.reserved_nusd < budget:
            name, budget, used = "month", self._monthly, spent.this_month
            ends = month_of(month_of(day) + 31)
        if used < budget:
            return self._refusal(
                "budget", f"calls in flight may use up this key's budget of the {name}", SOON_S
            )
        message = f"this key has spent {used / _NUSD_PER_USD:g} of {budget / _NUSD_PER_USD:g} USD"
        message += f" this {name}; the next {name} begins on {as_date(ends)} (UTC)"
        return self._refusal("budget", message, ends * DAY_S - now)

    def _empty(self, limit: Limit, share: Share, needed: float, what: str) -> Refused:
        wait_s = share.wait_s(needed)
        message = f"this key has {share.limit} {limit} a minute and no room for {what} now; try again in "
        return self._refusal(limit, message + duration(wait_s), wait_s)

    def _refusal(self, limit: Limit, message: str, retry_after_s: float | None) -> Refused:
        flows = {"requests": self.requests, "tokens": self.tokens}
        headers: dict[str, str] = {}
        for name, share in flows.items():
            if share is not None:
                headers |= _headers(name, share, *share.stands())
        if retry_after_s is None or retry_after_s > LONG_S:
            headers["x-should-retry"] = "false"
        return Refused(limit, message, retry_after_s, headers)


def duration(seconds: float) -> str:
    """As OpenAI writes it, rounded up: `12ms`, `7s`, `6m0s`, `1h0m5s`."""
    if seconds <= 0.999:
        return f"{max(0, ceil(seconds * 1e3))}ms"
    minutes, rest_s = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest_s}s"
