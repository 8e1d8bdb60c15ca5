"""Parameters that clients know from elsewhere and this API does not have: refused by name, with
what to do instead. A value that asks for nothing (null, or one listed here) is let through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Unsupported:
    advice: str
    harmless: tuple[Any, ...] = ()
    """Values that ask for what happens anyway."""


_PLAIN_TEXT_OUT = "the model answers in text only; remove it"
_TOOLS = "describe the tools in a message, and read the call from the answer's text"

_BOTH = {
    "response_format": Unsupported(
        "only {\"type\": \"text\"}; ask for the format in the prompt", ({"type": "text"},)
    ),
    "guided_json": Unsupported("ask for the format in the prompt"),
    "guided_regex": Unsupported("ask for the format in the prompt"),
    "guided_choice": Unsupported("ask for the format in the prompt"),
    "guided_grammar": Unsupported("ask for the format in the prompt"),
    "structured_outputs": Unsupported("ask for the format in the prompt"),
    "best_of": Unsupported("use n and choose among the answers", (1,)),
    "use_beam_search": Unsupported("use sampling, with n for several answers", (False,)),
    "length_penalty": Unsupported("there is no beam search; remove it", (1, 1.0)),
    "prompt_logprobs": Unsupported("use /v1/completions with echo and logprobs", (0,)),
    "skip_special_tokens": Unsupported("special tokens are never part of the text", (True,)),
    "include_stop_str_in_output": Unsupported("the text ends before the stop string", (False,)),
    "truncate_prompt_tokens": Unsupported("shorten the prompt before sending it"),
    "logits_processors": Unsupported("use logit_bias"),
    "priority": Unsupported("use service_tier: priority, default or flex", (0,)),
    "prompt_cache_retention": Unsupported("prefixes are cached without it; remove it"),
}

COMPLETION = {
    **_BOTH,
    "suffix": Unsupported("this model does not fill in the middle; send a prompt only", ("",)),
    "messages": Unsupported("send messages to /v1/chat/completions"),
    "max_completion_tokens": Unsupported("use max_tokens here"),
    "top_logprobs": Unsupported("use logprobs (a number) here"),
}

CHAT = {
    **_BOTH,
    "tools": Unsupported(_TOOLS, ([],)),
    "tool_choice": Unsupported(_TOOLS, ("none",)),
    "parallel_tool_calls": Unsupported(_TOOLS, (True, False)),
    "functions": Unsupported(_TOOLS, ([],)),
    "function_call": Unsupported(_TOOLS, ("none",)),
    "modalities": Unsupported(_PLAIN_TEXT_OUT, (["text"],)),
    "audio": Unsupported(_PLAIN_TEXT_OUT),
    "prediction": Unsupported("remove it"),
    "reasoning_effort": Unsupported("remove it", ("none",)),
    "verbosity": Unsupported("ask for it in a message"),
    "store": Unsupported("answers are not kept; remove it", (False,)),
    "moderation": Unsupported("answers are not moderated; remove it"),
    "web_search_options": Unsupported("there is no web search; remove it"),
    "prompt": Unsupported("send messages, or the prompt to /v1/completions"),
    "echo": Unsupported("use /v1/completions", (False,)),
    "suffix": Unsupported("use /v1/completions"),
}

STREAM_OPTIONS = {
    "include_obfuscation": Unsupported("events are not padded; remove it", (False,)),
}

MESSAGE = {
    "tool_calls": Unsupported(_TOOLS, ([],)),
    "tool_call_id": Unsupported(_TOOLS),
    "function_call": Unsupported(_TOOLS),
    "refusal": Unsupported("send what was said as content"),
    "audio": Unsupported("this model reads only text"),
    "annotations": Unsupported("remove it", ([],)),
    "reasoning_content": Unsupported("send what was said as content"),
    "reasoning": Unsupported("send what was said as content"),
}
