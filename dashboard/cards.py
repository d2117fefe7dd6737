"""The top row: eight figures, two of them with a verdict against a line.

In: summaries. Out: HTML.
"""

from __future__ import annotations

from dashboard import figures, markup
from dashboard.charts import TIMEOUT_LINE, TTFT_LINE_S
from dashboard.markup import Content, Html
from dashboard.summary import Latency, Summary, TaskSummary


def top_row(all_calls: Summary, tasks: TaskSummary, span_s: int) -> Html:
    return markup.cards(
        [
            markup.card("calls", "Calls", figures.count(all_calls.calls), _pace(all_calls.calls, span_s)),
            _errors(all_calls),
            _ttft(all_calls.ttft),
            _speed(all_calls),
            _completion(all_calls.total),
            _timeouts(all_calls),
            _cost(all_calls),
            _task_cost(tasks),
        ]
    )


def _errors(all_calls: Summary) -> Html:
    rate = figures.share(all_calls.errors, all_calls.calls)
    return markup.card("error_rate", "Error rate", rate, f"{all_calls.errors:,} failed")


def _ttft(ttft: Latency) -> Html:
    key, label = "ttft", "TTFT p95"
    if ttft.p95 is None:
        return markup.card(key, label, figures.NONE, "no streamed calls")
    verdict = _samples(ttft)
    if not ttft.is_few:
        verdict = _verdict(ttft.p95 <= TTFT_LINE_S, f"{TTFT_LINE_S:g} s")
    return markup.card(key, label, figures.seconds(ttft.p95), f"p50 {figures.seconds(ttft.p50)}", verdict)


def _speed(all_calls: Summary) -> Html:
    rate: Content = figures.rate(all_calls.tokens_per_s)
    if rate != figures.NONE:
        rate = Html(f"{rate} <small>tokens/s</small>")
    return markup.card("tokens_per_s", "Median speed", rate, _samples(all_calls.tpot))


def _completion(total: Latency) -> Html:
    p50 = f"p50 {figures.seconds(total.p50)}"
    return markup.card("completion_p95", "Completion p95", figures.seconds(total.p95), p50, _samples(total))


def _timeouts(all_calls: Summary) -> Html:
    key, label = "timeout_rate", "Timeout rate"
    if not all_calls.calls:
        return markup.card(key, label, figures.NONE)
    rate = figures.share(all_calls.timeouts, all_calls.calls)
    verdict = _verdict(all_calls.timeouts <= TIMEOUT_LINE * all_calls.calls, f"{100 * TIMEOUT_LINE:g} %")
    return markup.card(key, label, rate, f"{all_calls.timeouts:,} late", verdict)


def _cost(all_calls: Summary) -> Html:
    unpriced = all_calls.unpriced
    note = f"{unpriced:,} calls of unknown cost" if unpriced else "all calls priced"
    return markup.card("cost", "Cost", figures.total_usd(all_calls.cost_usd, unpriced), note)


def _task_cost(tasks: TaskSummary) -> Html:
    key, label = "cost_per_task", "Cost / completed task"
    if not tasks.tasks:
        return markup.card(key, label, figures.NONE, "no tasks in this span")
    value = figures.NONE
    if tasks.completed:
        value = figures.total_usd(tasks.cost_per_completed_usd, tasks.unpriced)
    return markup.card(key, label, value, f"{tasks.completed:,} of {tasks.tasks:,} tasks done")


def _verdict(good: bool, limit: str) -> Html:
    return markup.verdict("good" if good else "bad", f"{'within' if good else 'over'} {limit}")


def _pace(calls: int, span_s: int) -> str:
    per_s = calls / span_s
    return f"{per_s:,.1f} a second" if per_s >= 1 else f"{60 * per_s:,.1f} a minute"


def _samples(latency: Latency) -> Content:
    if not latency.n:
        return "no samples"
    if latency.is_few:
        return markup.verdict("unsure", f"only {latency.n} samples")
    return f"n = {latency.n:,}"
