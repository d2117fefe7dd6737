"""From configuration files to a running worker's parts: the one place where they meet.

`load` reads and checks the files; `assembled` opens the database, loads policy and keys, starts the background
tasks (policy, keys, engines, other workers' news, spool) and closes all of it again. Knows no HTTP server.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from gateway.app import Parts
from gateway.callers.quotas import Quotas
from gateway.chores import every, running
from gateway.config.catalog import catalog
from gateway.config.deployment import (
    AnthropicTarget,
    AnyTarget,
    Deployment,
    EngineTarget,
    LitellmTarget,
    OpenAITarget,
    ServerTarget,
)
from gateway.config.load import load_deployment
from gateway.config.places import place_of
from gateway.config.variables import DATABASE_URL_VARIABLE, ENGINE_KEY_VARIABLE, METRICS_FOLDER_VARIABLE
from gateway.control import api, fleet_watch, key_watch, policy_watch, stored_responses
from gateway.control.fleet_watch import FleetWatch, SharedFleet
from gateway.control.key_watch import KeyWatch
from gateway.control.plane import Plane
from gateway.control.policy_watch import PolicyWatch
from gateway.control.quota_watch import QuotaWatch
from gateway.control.state_figures import StateFigures
from gateway.dispatch import engine_watch, shadow_budget
from gateway.dispatch.booking import Book
from gateway.dispatch.engine_watch import EngineWatch
from gateway.dispatch.gates import Gate
from gateway.dispatch.metrics import Metrics
from gateway.dispatch.search import Targets
from gateway.dispatch.serve import Dispatcher
from gateway.dispatch.shadow_budget import ShadowBudget
from gateway.dispatch.shadows import Shadows
from gateway.dispatch.threads import Threads
from gateway.ledger import joining
from gateway.ledger.costs import Price, price_for, unknown_price
from gateway.ledger.database import create_async_engine, resolve_url
from gateway.ledger.engine_hours import UpTime
from gateway.ledger.response_homes import HomeLedger
from gateway.ledger.spool import SYNC_EVERY_S, Spool
from gateway.ledger.targets import replace_targets
from gateway.ledger.tariff import Rates
from gateway.surfaces.homes import ResponseHomes
from gateway.telemetry.configured import server_of, telemetry_of
from gateway.telemetry.genai_names import GenAiNames, Served
from gateway.upstreams.base import Upstream
from gateway.upstreams.engine_sources import EngineSource, ServerSource, Source
from gateway.upstreams.litellm_provider import LitellmUpstream
from gateway.upstreams.openai_http import HttpUpstream
from gateway.wire.paths import MESSAGES, RESPONSES
from router import inference
from router.catalog import Catalog

METRICS_INTERVAL_S = 1.0
SHAPES_LOADED_AFTER_S = 1.0  # beside the first calls; else the first whose shape is inferred waits for it


@dataclass(frozen=True, slots=True)
class Files:
    """What the worker was started with, read and checked."""

    deployment: Deployment
    disabled: Mapping[str, str]
    policy: Path | None
    data_dir: Path
    database_url: str = field(repr=False)


def load(config: Path | None, policy: Path | None, data_dir: Path, engine_port: int | None) -> Files:
    """Raises `ConfigError` and `LedgerError` (no database)."""
    loaded = load_deployment(config, os.environ)
    deployment = loaded.deployment
    if engine_port is not None:
        deployment = deployment.model_copy(update={"engine_port": engine_port})
    url = resolve_url(os.environ.get(DATABASE_URL_VARIABLE) or deployment.database_url, data_dir)
    return Files(deployment, loaded.disabled, policy, data_dir, url)


@asynccontextmanager
async def assembled(files: Files, index: int) -> AsyncIterator[Parts]:
    """A worker, ready to take calls; on the way out its books are closed."""
    deployment = files.deployment
    targets = {target.name: target for target in deployment.effective_targets}
    database = create_async_engine(files.database_url, application=f"sparkgate-gateway-{index}")
    spool = Spool(files.data_dir / "spool", f"worker-{index}", deployment.ledger.max_spool_mb * 1024**2)
    upstreams = {name: _upstream(target) for name, target in targets.items()}
    try:
        prices = {name: price_for(target, deployment.engine) for name, target in targets.items()}
        notes = {name: note for name, price in prices.items() if (note := unknown_price(price))}
        policy = PolicyWatch(files.policy, database, tuple(targets))
        keys = KeyWatch(database)
        await policy.start()
        await keys.refresh()
        for price in filter(None, prices.values()):
            spool.append(price.record())
        if index == 0:
            async with database.begin() as connection:
                await replace_targets(connection, deployment, files.disabled, notes)
        fleet = SharedFleet(policy.current.half_life_s)
        places = {name: place_of(target, socket.gethostname()) for name, target in targets.items()}
        others = FleetWatch(fleet, database, places)
        await others.start()
        routes = with_prices(catalog(deployment, files.disabled), prices)
        sources = {
            name: source
            for name, target in targets.items()
            if (source := _source(target, upstreams[name])) is not None and name not in files.disabled
        }
        slots = {
            name: target.max_batch if isinstance(target, ServerTarget) else deployment.engine.max_batch
            for name, target in targets.items()
            if name in sources
        }

        def prefill_tokens_per_s(name: str) -> float:
            engine = fleet.health(name).engine
            return 0.0 if engine is None else engine.prefill_tokens_per_s

        registry = CollectorRegistry()
        metrics = Metrics(registry)
        book = Book(spool, metrics, prices, slots, deployment.ledger.on_full, prefill_tokens_per_s)
        gates = {
            name: Gate(target.max_parallel, target.queue)
            for name, target in targets.items()
            if target.max_parallel is not None
        }
        to_ask = Targets(routes, upstreams, fleet, gates)
        budget = ShadowBudget(database, lambda: policy.current)
        await budget.step()
        shadows = Shadows(to_ask, book, budget)
        telemetry = telemetry_of(deployment, os.environ)
        sampled = telemetry.sample if telemetry is not None and telemetry.has_traces else None
        threads = Threads(await joining.salt(database))
        dispatcher = Dispatcher(
            to_ask, lambda: policy.current, book, shadows.begin, threads, sampled_traces=sampled
        )
        quotas = Quotas(keys.spending, deployment.workers)
        place = f"{socket.gethostname()}:{files.data_dir.resolve()}:{index}"
        quota_watch = QuotaWatch(quotas, database, place)
        await quota_watch.start()
        release, now = version("sparkgate"), time.time()
        state = StateFigures(registry, to_ask, policy, spool, release)
        served = {
            name: Served(server_of(target).provider, routes.targets[name].model)
            for name, target in targets.items()
        }

        def refresh() -> None:
            metrics.flush()
            state.read()

        def collect() -> Collector:
            refresh()
            return GenAiNames(_all_workers() if METRICS_FOLDER_VARIABLE in os.environ else registry, served)

        async def show() -> None:
            refresh()

        up_times = {
            name: UpTime(name, places[name], paid.usd_per_hour if (paid := prices[name]) else None)
            for name in sources
            if index == 0
        }
        watch = EngineWatch(sources, fleet, database if index == 0 else None, up_times)
        plane = Plane(
            *(routes, fleet, policy, keys, spool, database, collect, release, now, notes),
            last_targets=dispatcher.last_targets,
            state_problems=watch.problems,
        )
        keepers = _keepers(routes, upstreams)
        homes = ResponseHomes(keepers, HomeLedger(database, spool))
        control = api.control_app(plane, stored_responses.router(homes, keepers, dispatcher))
        chores = [
            (spool.step, every(SYNC_EVERY_S)),
            (policy.step, every(policy_watch.INTERVAL_S)),
            (keys.step, every(key_watch.INTERVAL_S)),
            (show, every(METRICS_INTERVAL_S)),
            (watch.step, every(engine_watch.INTERVAL_S)),
            (others.step, every(fleet_watch.INTERVAL_S)),
            (budget.step, every(shadow_budget.INTERVAL_S)),
            (quota_watch.step, quota_watch.pause),
        ]
        async with aclosing(quota_watch), running(chores), aclosing(shadows):
            loop = asyncio.get_running_loop()
            loop.call_later(SHAPES_LOADED_AFTER_S, loop.run_in_executor, None, inference.shipped)
            yield Parts(dispatcher, keys, quotas, homes, control)
    finally:
        spool.close()
        for upstream in upstreams.values():
            await upstream.close()
        await database.dispose()


def _keepers(routes: Catalog, upstreams: Mapping[str, Upstream]) -> dict[str, HttpUpstream]:
    """The targets that keep responses."""
    return {
        name: upstream
        for name, upstream in upstreams.items()
        if isinstance(upstream, HttpUpstream)
        and RESPONSES in routes.targets[name].native
        and not routes.targets[name].disabled_reason
    }


def _upstream(target: AnyTarget) -> Upstream:
    if isinstance(target, LitellmTarget):
        drops_params = target.unsupported == "drop"
        return LitellmUpstream(target.model, target.api_key, target.base_url, drops_params=drops_params)
    if isinstance(target, EngineTarget):
        return HttpUpstream(target.url, os.environ.get(ENGINE_KEY_VARIABLE))
    if isinstance(target, ServerTarget):
        return HttpUpstream(target.url, target.api_key)
    return HttpUpstream(target.base_url, target.api_key, _api_key_headers(target))


def _source(target: AnyTarget, upstream: Upstream) -> Source | None:
    """Where a self-hosted target's state is read."""
    if isinstance(target, EngineTarget) and isinstance(upstream, HttpUpstream):
        return EngineSource(upstream)
    if isinstance(target, ServerTarget) and isinstance(upstream, HttpUpstream):
        return ServerSource(target.kind, upstream, target.model, target.max_batch)
    return None


def _api_key_headers(target: OpenAITarget | AnthropicTarget) -> tuple[str, ...]:
    """Where the target looks for its key: a server of both APIs may do so in either place."""
    if target.kind == "anthropic":
        return ("x-api-key",)
    has_both = MESSAGES in (target.endpoints or ())
    return ("authorization", "x-api-key") if has_both else ("authorization",)


def with_prices(routes: Catalog, prices: Mapping[str, Price | None]) -> Catalog:
    """Token prices that the configuration left to the price list, where the router can weigh them."""
    targets = dict(routes.targets)
    for name, price in prices.items():
        rates = Rates() if price is None else price.tariff.standard
        if rates.input is not None and rates.output is not None:
            targets[name] = replace(
                targets[name],
                input_usd_per_mtok=float(rates.input),
                output_usd_per_mtok=float(rates.output),
                cached_usd_per_mtok=None if rates.cached is None else float(rates.cached),
            )
    return replace(routes, targets=targets)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _all_workers() -> CollectorRegistry:
    """All workers' metrics and the drain's, from their shared files; the state of those that died is none."""
    folder = Path(os.environ[METRICS_FOLDER_VARIABLE])
    for pid in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}:
        if not _is_alive(int(pid)):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
