"""policy.yaml: what it becomes, what shapes inherit, and every mistake at once with line and key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config.load import DEFAULT_POLICY, load_policy, policy_hash, policy_text
from gateway.config.mistakes import ConfigError
from router.policy import Hedge, Policy, Retries, Rule, Shadow, ShapePolicy, Slo, Timeouts
from router.query import Query
from router.shapes import SHAPES

TARGETS = ("engine", "deepseek-flash", "claude")


def load(text: str) -> Policy:
    return load_policy(text, "policy.yaml", TARGETS)


def lines_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return str(caught.value).splitlines()


def test_an_empty_text_is_the_routers_defaults() -> None:
    assert load("") == Policy(hash=policy_hash(""), shapes={})


def test_every_setting_arrives() -> None:
    policy = load(
        "version: 1\n"
        "shapes:\n"
        "  short_chat:\n"
        "    objective: speed\n"
        "    candidates: [engine, deepseek-flash]\n"
        "    slo: {ttft_p95_s: 1.5, completion_p95_s: 9, timeout_rate: 0.005, truncation_rate: 0.01}\n"
        "    timeouts: {first_token_s: 3, idle_s: 10, total_s: 30}\n"
        "    fallback: [claude]\n"
        "defaults: {retries: {max: 1, budget: 0.1}, explore: 0.05, half_life_s: 30}\n"
        "rules:\n"
        "  - {when: {header.X-App: helpdesk, model: 'gpt-*'}, shape: support}\n"
    )
    assert policy.shapes == {
        "short_chat": ShapePolicy(
            objective="speed",
            candidates=("engine", "deepseek-flash"),
            fallback=("claude",),
            slo=Slo(1.5, 9.0, 0.005, 0.01),
            timeouts=Timeouts(3.0, 10.0, 30.0),
        )
    }
    assert (policy.retries, policy.explore, policy.half_life_s) == (Retries(1, 0.1), 0.05, 30.0)
    assert policy.rules == (Rule((("header.X-App", "helpdesk"), ("model", "gpt-*")), "support"),)
    call = Query("/v1/chat/completions", "gpt-4o", headers={"x-app": "helpdesk"})
    assert policy.rules[0].matches(call)


def test_shapes_inherit_setting_by_setting() -> None:
    policy = load(
        "defaults:\n"
        "  objective: speed\n"
        "  candidates: [engine]\n"
        "  fallback: [claude]\n"
        "  slo: {ttft_p95_s: 2, timeout_rate: 0.01}\n"
        "  timeouts: {first_token_s: 5, idle_s: 6, total_s: 70}\n"
        "shapes:\n"
        "  support: {fallback: [], slo: {ttft_p95_s: 1}, timeouts: {idle_s: 8}}\n"
    )
    assert policy.for_shape("general") == ShapePolicy(
        "speed", ("engine",), ("claude",), Slo(2.0, None, 0.01), Timeouts(5.0, 6.0, 70.0)
    )
    assert policy.for_shape("support") == ShapePolicy(
        "speed", ("engine",), (), Slo(1.0, None, 0.01), Timeouts(5.0, 8.0, 70.0)
    )


def test_an_inherited_wait_is_cut_to_the_whole_call() -> None:
    assert load("shapes: {support: {timeouts: {total_s: 20}}}").shapes["support"].timeouts == Timeouts(
        20, 20, 20
    )


def test_all_mistakes_are_listed_with_line_and_key() -> None:
    text = (
        "version: 2\n"
        "shapes:\n"
        "  short_chat: {objective: fast, candidates: [engine, enigne, engine], timeout: {}}\n"
        "  shortchat: {objective: ttft}\n"
        "  support:\n"
        "    slo: {timeout_rate: 3, ttft_p95_s: -1}\n"
        "    timeouts: {first_token_s: 700, idle_s: 0}\n"
        "    fallback: engine\n"
        "    slos: {}\n"
        "  general: {timeouts: {first_token_s: 9, total_s: 8}}\n"
        "defaults: {explore: .nan, half_life_s: 0, retries: {max: 1.5, budget: 2}}\n"
        "rules:\n"
        "  - {when: {header: x}, shape: supprot}\n"
        "  - {when: {metadata.tier: 1}, shape: support}\n"
        "  - {when: {}, shape: support}\n"
        "  - {when: {headr.x: y}}\n"
    )
    conditions = "header.<name>, metadata.<key>, model, caller, endpoint, workflow"
    assert lines_of(text) == [
        "policy.yaml:1: version: 2 is not one of 1",
        "policy.yaml:3: shapes.short_chat.timeout: unknown key; did you mean 'timeouts'?",
        "policy.yaml:3: shapes.short_chat.objective: 'fast' is not one of ttft, speed, completion_p95, "
        "cost_per_completed_task",
        "policy.yaml:3: shapes.short_chat.candidates[1]: no target is called 'enigne'; "
        "did you mean 'engine'?",
        "policy.yaml:4: shapes.shortchat: there is no task shape 'shortchat'; did you mean 'short_chat'?",
        "policy.yaml:6: shapes.support.slo.ttft_p95_s: should be greater than 0, not -1",
        "policy.yaml:6: shapes.support.slo.timeout_rate: should be less than or equal to 1, not 3",
        "policy.yaml:7: shapes.support.timeouts.first_token_s: 700 is more than total_s, 600.0, "
        "which holds here by default",
        "policy.yaml:7: shapes.support.timeouts.idle_s: should be greater than 0, not 0",
        "policy.yaml:8: shapes.support.fallback: should be a list, not 'engine'; write [engine]",
        "policy.yaml:9: shapes.support.slos: unknown key; did you mean 'slo'?",
        "policy.yaml:10: shapes.general.timeouts.first_token_s: 9 is more than total_s, 8",
        "policy.yaml:11: defaults.retries.max: should be a valid integer, not 1.5",
        "policy.yaml:11: defaults.retries.budget: should be less than or equal to 1, not 2",
        "policy.yaml:11: defaults.explore: should be a finite number, not nan",
        "policy.yaml:11: defaults.half_life_s: should be greater than 0, not 0",
        f"policy.yaml:13: rules[0].when.header: unknown condition; known: {conditions}",
        "policy.yaml:13: rules[0].shape: there is no task shape 'supprot'; did you mean 'support'?",
        "policy.yaml:14: rules[1].when.metadata.tier: should be text, not 1",
        "policy.yaml:15: rules[2].when: should not be empty",
        f"policy.yaml:16: rules[3].when.headr.x: unknown condition; known: {conditions}; did you mean 'header.x'?",
        "policy.yaml:16: rules[3].shape: is missing",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "shapes: {short_chat: {complete_when: explicit}}",
        "defaults: {keep_alive_s: 5}",
        "shapes: {short_chat: {retries: {max: 1}}}",
    ],
)
def test_keys_that_would_do_nothing_are_refused(text: str) -> None:
    (line,) = lines_of(text)
    assert "unknown key" in line


def test_when_tasks_are_completed_and_given_up_is_inherited_and_may_be_set_otherwise() -> None:
    text = """
defaults: {completed_when: json_valid}
shapes:
  agent_loop: {completed_when: tool_loop_ends, abandoned_after_s: 60}
"""
    policy = load(text)
    chat, agent = policy.for_shape("short_chat"), policy.for_shape("agent_loop")
    assert (chat.completed_when, chat.abandoned_after_s) == ("json_valid", 3600)
    assert (agent.completed_when, agent.abandoned_after_s) == ("tool_loop_ends", 60)
    (line,) = lines_of("shapes: {support: {completed_when: stop}}")
    assert "'stop' is not one of finish_stop, explicit, json_valid, tool_loop_ends" in line


def test_hedging_keep_alive_and_cache_are_inherited_and_may_be_set_otherwise() -> None:
    text = """
defaults: {hedge: {after: p95, budget: 0.1}, keepalive_s: 15, cache: {ttl_s: 300}}
shapes:
  short_chat: {hedge: {after: 0.5}, cache: {ttl_s: 10}}
  reasoning: {hedge: {budget: 0}}
"""
    policy = load(text)
    general, chat, reasoning = map(policy.for_shape, ("general", "short_chat", "reasoning"))
    assert (general.hedge, general.keepalive_s, general.cache_ttl_s) == (Hedge(None, 0.1), 15, 300)
    assert (chat.hedge, chat.keepalive_s, chat.cache_ttl_s) == (Hedge(0.5, 0.05), 15, 10)
    assert reasoning.hedge is None


def test_experiments_roles_and_stickiness_are_inherited_and_may_be_set_otherwise() -> None:
    text = """
defaults:
  candidates: [engine, {target: claude, weight: 0.1}]
  roles: {draft: [engine], final: [claude]}
  shadow: {target: deepseek-flash, share: 0.01, usd_per_day: 1.5}
shapes:
  support: {candidates: [deepseek-flash], roles: {final: []}, sticky: false, shadow: {target: claude, share: 0}}
"""
    policy = load(text)
    general, support = policy.for_shape("general"), policy.for_shape("support")
    assert (general.candidates, general.weights) == (("engine", "claude"), (("claude", 0.1),))
    assert general.roles == {"draft": ("engine",), "final": ("claude",)}
    assert (general.sticky, general.shadow) == (True, Shadow("deepseek-flash", 0.01, 1.5))
    assert (support.candidates, support.weights) == (("deepseek-flash",), ())
    assert support.roles == {"draft": ("engine",), "final": ()}
    assert (support.sticky, support.shadow) == (False, None)


def test_mistakes_in_experiments_and_roles_are_listed_with_line_and_key() -> None:
    text = """
defaults: {shadow: {target: claude, share: 2}, sticky: 3}
shapes:
  support:
    candidates: [engine, {target: cladue, weight: 2}, {target: claude}, 5, {weigth: 1, target: engine}]
    roles: {drft: [engine], final: claude, draft: [enigne]}
    shadow: {share: 0.1}
  general: {candidates: [{target: engine, weight: 0.6}, {target: claude, weight: 0.6}]}
  reasoning: {candidates: [{target: engine, weight: 0.5}]}
  short_chat: {candidates: [engine, {target: engine, weight: 0}]}
  extraction: {candidates: [claude]}
  embedding: {candidates: [engine], shadow: {target: engine, share: 0.1}}
"""
    shadowed = "is the only candidate and gets these calls anyway; it cannot be its own shadow"
    assert lines_of(text) == [
        "policy.yaml:2: defaults.sticky: should be a valid boolean, not 3",
        "policy.yaml:2: defaults.shadow.share: should be less than or equal to 1, not 2",
        "policy.yaml:5: shapes.support.candidates[1].target: no target is called 'cladue'; did you mean 'claude'?",
        "policy.yaml:5: shapes.support.candidates[1].weight: should be less than or equal to 1, not 2",
        "policy.yaml:5: shapes.support.candidates[2].weight: is missing",
        "policy.yaml:5: shapes.support.candidates[3]: should be text, not 5",
        "policy.yaml:5: shapes.support.candidates[4].weigth: unknown key; did you mean 'weight'?",
        "policy.yaml:5: shapes.support.candidates[4].weight: is missing",
        "policy.yaml:6: shapes.support.roles.drft: unknown key; did you mean 'draft'?",
        "policy.yaml:6: shapes.support.roles.draft[0]: no target is called 'enigne'; did you mean 'engine'?",
        "policy.yaml:6: shapes.support.roles.final: should be a list, not 'claude'; write [claude]",
        "policy.yaml:7: shapes.support.shadow.target: is missing",
        "policy.yaml:8: shapes.general.candidates: the weights add up to 1.2; they are shares of the calls and "
        "may reach 1 together",
        "policy.yaml:9: shapes.reasoning.candidates: the weights add up to 0.5, and there is no candidate "
        "without one for the rest",
        "policy.yaml:10: shapes.short_chat.candidates[1].weight: should be greater than 0, not 0",
        f"policy.yaml:11: shapes.extraction.candidates: 'claude' {shadowed}",
        f"policy.yaml:12: shapes.embedding.shadow.target: 'engine' {shadowed}",
    ]


def test_weights_that_reach_one_need_no_other_candidate() -> None:
    policy = load("defaults: {candidates: [{target: engine, weight: 0.7}, {target: claude, weight: 0.3}]}")
    assert policy.defaults.weights == (("engine", 0.7), ("claude", 0.3))


def test_a_target_listed_twice_is_a_mistake() -> None:
    assert lines_of("defaults: {fallback: [engine, engine]}") == [
        "policy.yaml:1: defaults.fallback: 'engine' is listed twice"
    ]
    assert lines_of("defaults: {candidates: [engine, {target: engine, weight: 0.5}]}") == [
        "policy.yaml:1: defaults.candidates: 'engine' is listed twice"
    ]


def test_the_environment_is_not_read() -> None:
    assert lines_of('rules:\n  - when: {caller: "${WHO}"}\n    shape: support\n') == [
        "policy.yaml:2: rules[0].when.caller: ${...} is not expanded in a policy; write the value itself"
    ]


def test_without_known_targets_names_are_not_checked() -> None:
    policy = load_policy("defaults: {candidates: [anything]}", "policy.yaml", None)
    assert policy.defaults.candidates == ("anything",)


def test_the_default_policy_speaks_of_every_shape_and_suits_any_deployment() -> None:
    policy = load_policy(policy_text(None), "default policy", ())
    assert set(policy.shapes) == set(SHAPES)
    assert all(not shape.candidates and not shape.fallback for shape in policy.shapes.values())


def test_the_default_policy_gives_a_small_machine_time_to_answer() -> None:
    policy = load_policy(policy_text(None), "default policy", ())
    for name, shape in policy.shapes.items():
        assert shape.timeouts.first_token_s >= 30
        assert shape.timeouts.total_s >= 300 or name == "embedding"


def test_the_default_policys_examples_are_right_when_uncommented() -> None:
    text = re.sub(r"^(    )# |^#(?=  -)", r"\1", policy_text(None), flags=re.MULTILINE)
    text = text.replace("rules: []", "rules:")
    policy = load(text)
    assert policy.for_shape("support").fallback == ("engine",)
    assert len(policy.rules) == 2


def test_policy_text_is_the_files_or_the_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    assert policy_text(path) == DEFAULT_POLICY.read_text()
    path.write_text("version: 1\n")
    assert policy_text(path) == "version: 1\n"


def test_the_hash_is_of_the_text_less_blank_space_at_its_ends() -> None:
    text = "version: 1\nshapes: {}\n"
    assert load(text).hash == policy_hash("\nversion: 1  \r\nshapes: {}")
    assert len(policy_hash(text)) == 12
    assert policy_hash(text) != policy_hash("version: 1\nshapes:\n  {}\n")
