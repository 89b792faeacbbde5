"""What agents may ask a model's API for: what clients send passes, what the provider would fetch does not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import allowlist
from groups.choices import Provider

TEXT = {"type": "text", "text": "hello, [world]: {}", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
# As Claude Code 2.1.330 sends it, shortened.
CLAUDE_CODE = {
    "model": "claude-opus-5-5",
    "max_tokens": 32000,
    "stream": True,
    "metadata": {"user_id": '{"device_id":"d769","account_uuid":"","session_id":"56b1"}'},
    "thinking": {"type": "adaptive", "display": "updates"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "system": [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1"}, TEXT],
    "tools": [
        {
            "name": "Bash",
            "description": "Runs",
            "input_schema": {"type": "object", "properties": {"url": {"type": "x"}}},
        },
        {"name": "WebFetch", "description": "…", "input_schema": {"$schema": "x"}, "defer_loading": True},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 10},
    ],
    "messages": [
        {"role": "user", "content": [TEXT]},
        {"role": "system", "content": "be brief", "output_config": {"effort": "low"}},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "Eq=="},
                {"type": "redacted_thinking", "data": "Eq=="},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "WebFetch",
                    "input": {"url": "https://a", "type": ["url"]},
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "is_error": False,
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}},
                        {"type": "tool_reference", "tool_name": "WebFetch"},
                    ],
                },
                {
                    "type": "document",
                    "title": "x",
                    "citations": {"enabled": True},
                    "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                },
            ],
        },
    ],
}
CHAT = {
    "model": "gpt-x",
    "n": 2,
    "max_completion_tokens": 100,
    "stream_options": {"include_usage": True},
    "messages": [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "https://a", "name": None},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"url": 1}}}],
}
RESPONSES = {
    "model": "gpt-x",
    "input": [
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,iVBO"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}, {"type": "local_shell"}],
    "store": False,
}
EMBEDDINGS = {"model": "e", "input": [[1, 2], [3]], "dimensions": 10}
MOST = {id(CLAUDE_CODE): 32000, id(CHAT): 200}


@pytest.mark.parametrize(
    ("provider", "asked"),
    [
        (Provider.ANTHROPIC, CLAUDE_CODE),
        (Provider.OPENAI, CHAT),
        (Provider.OPENAI, RESPONSES),
        (Provider.OPENAI, EMBEDDINGS),
    ],
)
def test_what_clients_send_passes(provider: Provider, asked: dict[str, Any]) -> None:
    sent, most = allowlist.check_body(provider, json.dumps(asked).encode())
    assert json.loads(sent) == asked and most == MOST.get(id(asked), 0)


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def result(*blocks: Any) -> dict[str, Any]:
    return user({"type": "tool_result", "tool_use_id": "t", "content": list(blocks)})


URL, FILE = {"type": "url", "url": "https://a"}, {"type": "file", "file_id": "file_1"}
ANTHROPIC = [
    ({"mcp_servers": []}, ["field:mcp_servers"]),
    ({"container": {"skills": []}}, ["field:container"]),
    ({"inference_geo": "us"}, ["field:inference_geo"]),
    ({"Messages": []}, ["field:Messages"]),
    ({"tools": [{"type": "web_search_20250305", "name": "s"}]}, ["tool:web_search_20250305"]),
    ({"tools": [{"type": "code_execution_20250825", "name": "s"}]}, ["tool:code_execution_20250825"]),
    ({"tools": {"type": "mcp_toolset", "mcp_server_name": "s"}}, ["key:mcp_server_name", "tool:mcp_toolset"]),
    ({"tools": [{"type": ["custom"], "name": "s"}]}, ['tool:["custom"]']),
    (user({"type": "image", "source": URL}), ["key:url", "type:url"]),
    (user({"type": "document", "source": FILE}), ["key:file_id", "type:file"]),
    (result({"type": "image", "source": URL}), ["key:url", "type:url"]),
    (
        user({"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": URL}]}}),
        ["key:url", "type:url"],
    ),
    (user({"type": "container_upload", "file_id": "f"}), ["key:file_id", "type:container_upload"]),
    (user({"type": "mcp_tool_use", "id": "x", "server_name": "s"}), ["key:server_name", "type:mcp_tool_use"]),
    (user({"type": "server_tool_use", "id": "x", "name": "web_fetch"}), ["type:server_tool_use"]),
    (user({"type": "tool_addition", "tool": {"type": "web_fetch_20250910", "name": "w"}}), ["type:web_fetch_20250910"]),
    (user({"type": None, "source": URL}), ["key:url", "type:url"]),
    ({"system": [{"type": "image", "source": URL}]}, ["key:url", "type:url"]),
]
OPENAI = [
    (user({"type": "image_url", "image_url": {"url": "https://a"}}), ["key:url"]),
    (user({"type": "image_url", "image_url": "HTTP://a"}), ["key:image_url"]),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "//a"}]}]}, ["key:image_url"]),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://a"}]}]}, ["key:file_url"]),
    (user({"type": "file", "file": {"file_id": "f"}}), ["key:file_id"]),
    ({"input": [{"id": "msg_1"}]}, ["type:item_reference"]),
    ({"input": [{"id": "msg_1", "type": None}]}, ["type:item_reference"]),
    ({"prompt": {"id": "p"}, "background": True}, ["field:background", "field:prompt"]),
    ({"web_search_options": {}}, ["field:web_search_options"]),
    ({"model": "gpt-4o-search-preview"}, ["model:gpt-4o-search-preview"]),
    ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, ["tool:shell"]),
    ({"tools": [{"type": "web_search"}]}, ["tool:web_search"]),
]


@pytest.mark.parametrize(
    ("provider", "asked", "missing"),
    [*((Provider.ANTHROPIC, *row) for row in ANTHROPIC), *((Provider.OPENAI, *row) for row in OPENAI)],
)
def test_what_the_provider_would_fetch_needs_an_entry(
    provider: Provider, asked: dict[str, Any], missing: list[str]
) -> None:
    data = json.dumps(asked).encode()
    with pytest.raises(allowlist.NotAllowed) as refused:
        allowlist.check_body(provider, data)
    assert refused.value.entries == missing
    assert all(entry in str(refused.value) for entry in missing)
    if not allowlist.invalid_entries(missing):
        assert json.loads(allowlist.check_body(provider, data, missing)[0]) == asked


NAMES = st.sampled_from(
    ["type", "source", "content", "messages", "system", "tools", "input", "url", "role", "id", "model"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab:/é\ud83d", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text("ab:/é\ud83d", max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.sampled_from(list(Provider)), st.dictionaries(NAMES, JSON, max_size=5))
def test_any_body_is_passed_or_refused_and_never_with_an_address(provider: Provider, asked: dict[str, Any]) -> None:
    try:
        sent, _ = allowlist.check_body(provider, json.dumps(asked).encode())
    except (allowlist.NotAllowed, allowlist.InvalidBody):
        return
    for name in ("messages", "system"):
        assert '"url": "http' not in json.dumps(json.loads(sent).get(name))


@given(st.sampled_from(list(Provider)), st.binary(max_size=200))
def test_no_bytes_break_it(provider: Provider, data: bytes) -> None:
    for each in (data, b'{"messages": ' + data + b"}"):
        try:
            allowlist.check_body(provider, each)
        except (allowlist.NotAllowed, allowlist.InvalidBody):
            continue


def test_a_refusal_is_short_whatever_was_asked() -> None:
    with pytest.raises(allowlist.NotAllowed) as refused:
        allowlist.check_body(
            Provider.ANTHROPIC, json.dumps({f"x{'y' * 5000}{number}\n": 1 for number in range(99)}).encode()
        )
    assert len(str(refused.value)) < 1200 and "\n" not in str(refused.value)
