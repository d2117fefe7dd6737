from __future__ import annotations

import pytest
from jinja2 import TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

from engine.chat_template import ChatTemplate, special_tokens
from engine.errors import InvalidRequest

MESSAGES = [{"role": "user", "content": "a <b> & 'ü'"}, {"role": "assistant", "content": "ok"}]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}\n  {% if m.role == 'user' %}\nU:{{ m.content }}\n  {% endif %}\n{% endfor %}",
        "{{ messages | tojson }}",
        "{{ messages | tojson(indent=2) }}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
        "{% generation %}{{ messages[0].content }}{% endgeneration %}",
        "{% if tools is none %}no tools{% endif %}{% if add_generation_prompt %}go{% endif %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{{ strftime_now('%Y') }}",
    ],
)
def test_templates_render_as_in_transformers(source: str) -> None:
    theirs, _ = render_jinja_template([MESSAGES], chat_template=source, add_generation_prompt=True)
    assert ChatTemplate(source, {}).render(MESSAGES) == theirs[0]


def test_special_tokens_are_variables() -> None:
    settings = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None, "use_fast": True}
    assert special_tokens(settings) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert ChatTemplate("{{ bos_token }}x{{ eos_token }}", special_tokens(settings)).render([]) == "<s>x</s>"


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ 1/0 }}"])
def test_templates_cannot_reach_out_nor_crash_the_server(source: str) -> None:
    with pytest.raises(InvalidRequest):
        print(ChatTemplate(source, {}).render(list(MESSAGES)))


def test_a_template_with_a_mistake_is_refused_when_read() -> None:
    with pytest.raises(TemplateSyntaxError):
        ChatTemplate("{% if %}", {})
