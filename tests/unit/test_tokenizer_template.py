"""Chat templates render as transformers renders them, and cannot leave their sandbox."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_tiny_model

from baton.engine.model.source import resolve_model
from baton.engine.tokenizer import ChatTemplate, load_tokenizer
from baton.protocol.errors import BatonError, ConfigError

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<b>Hi</b> & hello"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"a": "ü<1>"}}}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def test_the_embedded_model() -> None:
    tokenizer = load_tokenizer(resolve_model(None))
    assert tokenizer.render_chat([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer.encode_chat([{"role": "system", "content": "S"}], add_generation_prompt=False)
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>system\nS<|im_end|>\n"
    assert ids[0] == 1
    assert ids.count(2) == 1


@pytest.mark.parametrize(
    "template",
    [
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
        "{%- for m in messages %}\n    {%- if m.role == 'assistant' %}{% continue %}{% endif %}\n"
        "    {%- if loop.index > 3 %}{% break %}{% endif %}\n  {{ m.content | trim }}\n"
        "{%- endfor %}\n",
        "{% for t in tools or [] %}{{ t | tojson }}|{{ t.function | tojson(indent=2) }}"
        "{% endfor %}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ ns.n }}",
        "{% set d = dict(a=1) %}{{ d.a }}{{ custom }}{% if documents %}x{% endif %}"
        "{{ messages[0]['content'] }}",
        "    {% if true %}\n  indented\n    {% endif %}\nend",
    ],
)
def test_as_transformers(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    theirs, _ = render_jinja_template(
        [MESSAGES],
        tools=TOOLS,
        chat_template=template,
        add_generation_prompt=True,
        custom="c",
        **SPECIAL,
    )
    ours = ChatTemplate(template, SPECIAL).render(MESSAGES, tools=TOOLS, custom="c")
    assert ours == theirs[0]


def test_the_date() -> None:
    template = ChatTemplate("{{ strftime_now('%Y') }}", {})
    assert template.render([]) in (str(datetime.now().year), str(datetime.now().year + 1))


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content.nothing.at_all }}",
        "{{ messages[9]['role'] + 'x' }}",
        "{{ 1 / 0 }}",
        "{% set ns = namespace(__class__=1) %}",
    ],
)
def test_a_refused_conversation_is_the_callers_error(template: str) -> None:
    with pytest.raises(BatonError) as caught:
        ChatTemplate(template, {}).render(MESSAGES)
    assert (caught.value.status, caught.value.param) == (400, "messages")
    if "alternate" in template:
        assert "roles must alternate" in caught.value.message


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append(1) }}",
        "{% for x in range(10000000) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(template: str) -> None:
    with pytest.raises(BatonError):
        ChatTemplate(template, {}).render(MESSAGES)


def test_a_template_that_does_not_compile() -> None:
    with pytest.raises(ConfigError, match="does not compile"):
        ChatTemplate("{% for %}", {})


def test_where_a_directory_keeps_its_template(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "tiny")
    messages = [{"role": "user", "content": "Hi"}]
    tokenizer = load_tokenizer(resolve_model(str(directory)))
    assert tokenizer.render_chat(messages) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    (directory / "chat_template.jinja").write_text("{{ bos_token }}from the file")
    tokenizer = load_tokenizer(resolve_model(str(directory)))
    assert tokenizer.render_chat(messages) == "<|endoftext|>from the file"


def test_a_model_without_a_template(tmp_path: Path) -> None:
    directory = make_tiny_model(tmp_path / "tiny")
    (directory / "tokenizer_config.json").write_text("{}")
    tokenizer = load_tokenizer(resolve_model(str(directory)))
    assert tokenizer.chat_template is None
    with pytest.raises(BatonError, match="no chat template") as caught:
        tokenizer.render_chat([{"role": "user", "content": "Hi"}])
    assert caught.value.status == 400
