"""`Quotas`: every call of a key with limits is granted or refused, and settled when it is over. No clock, no I/O.

In: keys, the model a call asks for, tokens it may take, the time. Out: `Grant`, or `Refused` saying which limit,
and when to come back. Calls and tokens a minute are buckets that hold a minute's worth and refill steadily: never
more than the limit at once, nor more than twice the limit in any minute.

Each worker grants its share, limit ÷ workers, at least one call. Budgets are the caller's over all workers (see
`callers.spending`): calls stop when what is spent and what is in flight reach the budget.
"""

from __future__ import annotations

import re
from fnmatch import translate
from math import ceil, inf
from typing import Literal
from uuid import UUID

from gateway.callers.keys import Key, KeyLimits
from gateway.callers.spending import DAY_S, Spending, Spent, as_date, day_of, month_of

Limit = Literal["models", "requests", "tokens", "parallel", "budget"]
MINUTE_S = 60.0
SOON_S = 1.0  # when a place may be free again, which nobody knows
LONG_S = 60.0  # OpenAI's clients, which try all 429s again, are told not to where it takes longer
_NUSD_PER_USD = 10**9


class Refused(Exception):
    """A call that its key's limits do not allow now; the message says why. `retry_after_s` None = never as it is."""

    def __init__(
        self, limit: Limit, message: str, retry_after_s: float | None, headers: dict[str, str]
    ) -> None:
        super().__init__(message)
        self.limit, self.message = limit, message
        self.retry_after_s, self.headers = retry_after_s, headers


class Quotas:
    """One worker's share of all callers' limits, out of `workers` equal ones."""

    def __init__(self, spending: Spending, workers: int = 1) -> None:
        self._spending, self._workers = spending, workers
        self._callers: dict[str, _Caller] = {}

    def admit(self, key: Key, model: str, tokens: int, now: float, nusd: int = 0) -> Grant:
        """Leave for one call that asks for `model` and may take so many tokens, input and output, and nano-dollars.

        `now` is Unix seconds. A call that is granted must be settled, whatever becomes of it. Raises `Refused`.
        """
        caller = self._callers.get(key.name)
        if caller is None:
            caller = self._callers[key.name] = _Caller(key.name, self._spending, self._workers)
        if caller.limits is not key.limits:
            caller.adopt(key.limits, now)
        return _FREE if caller.is_free else caller.admit(model, tokens, now, nusd)


class Grant:
    """A call's leave to run, and what it holds until it is settled."""

    __slots__ = (
        *("_caller", "_day", "_nusd", "_requests", "_requests_left"),
        *("_tokens", "_tokens_left", "_tokens_taken"),
    )

    def __init__(self, caller: _Caller | None, tokens: int = 0, nusd: int = 0, now: float = 0.0) -> None:
        """Takes what `caller` has found to be there; None = a key without limits, of which nothing is kept."""
        self._caller, self._tokens_taken, self._nusd = caller, tokens, nusd
        self._requests = self._tokens = None
        if caller is None:
            return
        self._day = day_of(now)
        caller.running += 1
        caller.reserved_nusd += nusd
        self._requests, self._tokens = caller.requests, caller.tokens
        if self._requests is not None:
            self._requests.level -= 1.0
            self._requests_left = self._requests.level
        if self._tokens is not None:
            self._tokens.level -= tokens
            self._tokens_left = self._tokens.level

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*`, for the limits there are, as they stood when the call was granted."""
        requests = {} if self._requests is None else self._requests.headers("requests", self._requests_left)
        tokens = {} if self._tokens is None else self._tokens.headers("tokens", self._tokens_left)
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
        caller.reserved_nusd -= self._nusd
        if self._tokens is not None and tokens is not None:
            self._tokens.give_back(self._tokens_taken - tokens)
        if nusd and exchange is not None and caller.has_budget:
            caller.spending.add(caller.name, nusd, self._day, exchange)


_FREE = Grant(None)


class _Bucket:
    """Holds up to `size`, refills by `per_s`. Below 0 after a call that used more than it had reserved."""

    __slots__ = ("_at", "_workers", "level", "limit", "per_s", "size")

    def __init__(self, limit: int, workers: int, now: float) -> None:
        self._at, self._workers, self.level = now, workers, inf
        self.resize(limit)

    def resize(self, limit: int) -> None:
        """What is in it stays, as far as it fits."""
        self.limit = limit
        self.per_s = limit / self._workers / MINUTE_S
        self.size = max(1.0, limit / self._workers)
        self.level = min(self.level, self.size)

    def refill(self, now: float) -> None:
        """A clock that was set back refills nothing until it goes on."""
        if now > self._at:
            self.level = min(self.size, self.level + (now - self._at) * self.per_s)
        self._at = now

    def give_back(self, amount: int) -> None:
        """Takes some more where `amount` is negative."""
        self.level = min(self.size, self.level + amount)

    def wait_s(self, needed: float) -> float:
        return (needed - self.level) / self.per_s

    def headers(self, name: str, level: float) -> dict[str, str]:
        """In figures of the whole limit, as if all workers' shares stood as this one does."""
        return {
            f"x-ratelimit-limit-{name}": str(self.limit),
            f"x-ratelimit-remaining-{name}": str(min(self.limit, max(0, int(level)) * self._workers)),
            f"x-ratelimit-reset-{name}": duration((self.size - level) / self.per_s),
        }


class _Caller:
    """One key's state. What is in flight stays when its limits change."""

    def __init__(self, name: str, spending: Spending, workers: int) -> None:
        self.name, self.spending, self._workers = name, spending, workers
        self.limits = KeyLimits()
        self.requests: _Bucket | None = None
        self.tokens: _Bucket | None = None
        self.running = self.reserved_nusd = 0

    def adopt(self, limits: KeyLimits, now: float) -> None:
        self.limits = limits
        self.is_free = limits == KeyLimits()
        self.has_budget = (limits.daily_nusd, limits.monthly_nusd) != (None, None)
        self._daily = inf if limits.daily_nusd is None else limits.daily_nusd
        self._monthly = inf if limits.monthly_nusd is None else limits.monthly_nusd
        self._parallel = None if limits.parallel is None else max(1, limits.parallel // self._workers)
        patterns = "|".join(translate(pattern) for pattern in limits.allowed_models)
        self._allows = re.compile(patterns).match if patterns else None
        self.requests = self._bucket(self.requests, limits.rpm, now)
        self.tokens = self._bucket(self.tokens, limits.tpm, now)

    def _bucket(self, bucket: _Bucket | None, limit: int | None, now: float) -> _Bucket | None:
        if limit is None:
            return None
        if bucket is None:
            return _Bucket(limit, self._workers, now)
        bucket.resize(limit)
        return bucket

    def admit(self, model: str, tokens: int, now: float, nusd: int) -> Grant:
        """Nothing is taken unless all limits agree."""
        if self._allows is not None and self._allows(model) is None:
            raise self._refusal("models", f"this key may not use the model '{model}'", None)
        if self.has_budget:
            spent, reserved = self.spending.of(self.name, now), self.reserved_nusd
            if spent.today + reserved >= self._daily or spent.this_month + reserved >= self._monthly:
                raise self._over_budget(spent, now)
        if self._parallel is not None and self.running >= self._parallel:
            message = f"this key has {self.running} calls running and may not have more"
            raise self._refusal("parallel", message, SOON_S)
        if self.requests is not None:
            self.requests.refill(now)
            if self.requests.level < 1.0:
                raise self._empty("requests", self.requests, 1.0, "a call")
        if self.tokens is not None:
            self.tokens.refill(now)
            self._check_tokens(self.tokens, tokens)
        return Grant(self, tokens, nusd, now)

    def _check_tokens(self, bucket: _Bucket, tokens: int) -> None:
        if tokens > bucket.limit:
            message = (
                f"this call may take {tokens} tokens, and the key has {bucket.limit} a minute; shorten it"
            )
            raise self._refusal("tokens", f"{message}, or lower its output limit", None)
        needed = min(tokens, bucket.size)  # a share may be too small for a call that the whole limit allows
        if bucket.level < needed:
            raise self._empty("tokens", bucket, needed, f"{tokens} tokens")

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

    def _empty(self, limit: Limit, bucket: _Bucket, needed: float, what: str) -> Refused:
        wait_s = bucket.wait_s(needed)
        message = f"this key has {bucket.limit} {limit} a minute and no room for {what} now; try again in "
        return self._refusal(limit, message + duration(wait_s), wait_s)

    def _refusal(self, limit: Limit, message: str, retry_after_s: float | None) -> Refused:
        requests = {} if self.requests is None else self.requests.headers("requests", self.requests.level)
        tokens = {} if self.tokens is None else self.tokens.headers("tokens", self.tokens.level)
        headers = requests | tokens
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
