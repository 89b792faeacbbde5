"""What an agent may ask a model's API for: a list of what passes, since the provider would fetch the rest for it.

A provider calls servers (`mcp_servers`), reads pages (`web_fetch`), loads images and documents by their address, runs
code, and shows stored files, on the word of who asks. So fields, types of blocks, sources and tools, betas, headers
and parameters are listed by name; what is not listed is refused, with the entry that would let it pass. Operators add
entries in `BROKER_ALLOWED`. Pure.

Names are those of https://platform.claude.com/docs/en/api/messages and https://platform.openai.com/docs/api-reference,
and what Claude Code 2.1.197 and 2.1.330 were seen to send.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl

from groups.choices import Provider

KINDS = ("field", "type", "key", "tool", "model", "beta", "header", "parameter")
ENTRY = re.compile(rf"(?:{'|'.join(KINDS)}):[A-Za-z0-9_.:/=-]+\*?")
SEARCHING = ("*search*", "*:online")  # models that look things up on the web whether they have a tool for it or not
ENTRIES_SHOWN = 8  # entries that a refusal names
SURROGATE = re.compile("[\ud800-\udfff]")  # half a pair: UTF-8 has none, JSON can escape it
ITEMS_MAX = 1_000_000  # of a body, and commas of its texts: what it takes in memory is more than its bytes
NAME_SHOWN = 80  # characters of a name that a refusal repeats


class NotAllowed(Exception):
    """A request holds what is not passed on. `entries` would let it pass, if an operator adds them."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = sorted(set(entries))
        shown = ", ".join(self.entries[:ENTRIES_SHOWN]) + (", …" if len(self.entries) > ENTRIES_SHOWN else "")
        super().__init__(
            f"Berth's credential broker does not pass this on to the provider: {shown}. Leave it out, or ask an "
            "operator to add it to BROKER_ALLOWED (docs/secrets.md, “What agents may ask for”)."
        )


class InvalidBody(Exception):
    """A body that is no JSON object; `str()` says why."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Grammar:
    """The names that requests to one provider may hold."""

    fields: frozenset[str]  # of the request itself
    with_blocks: frozenset[str]  # those of them that hold blocks: what the model is shown
    types: frozenset[str]  # what "type" may be within these: blocks, sources, annotations
    keys: frozenset[str]  # names within these
    opaque: frozenset[str]  # of these names, those whose value is data: a tool's input, a schema
    tools: frozenset[str]  # "type" of tools; "" is a tool without one, which the agent runs itself
    tool_keys: frozenset[str]
    betas: frozenset[str]
    beta_header: str
    parameters: frozenset[str]  # of the query
    inline: frozenset[str] = field(default=frozenset())  # names whose value may be a data: URL, but no other address


_CITED = "document_index document_title start_char_index end_char_index start_page_number end_page_number"
ANTHROPIC = Grammar(
    fields=_names(
        "model messages system max_tokens metadata stop_sequences stream temperature top_k top_p thinking tool_choice"
        " tools service_tier cache_control context_management output_config output_format diagnostics fallbacks"
        " fallback_credit_token"
    ),
    with_blocks=frozenset({"messages", "system"}),
    types=_names(
        "text image document search_result thinking redacted_thinking tool_use tool_result tool_reference tool_addition"
        " tool_removal custom compaction fallback base64 content ephemeral direct char_location page_location"
        " content_block_location search_result_location"
    ),
    keys=_names(
        "role content type text cache_control ttl scope id name input tool_use_id is_error tool_name thinking"
        f" signature data source media_type title context citations enabled cited_text {_CITED} start_block_index"
        " end_block_index search_result_index caller output_config effort tool description input_schema defer_loading"
        " encrypted_content from to model"
    ),
    opaque=frozenset({"input", "input_schema"}),
    # Those that have a type and are run by the agent: https://platform.claude.com/docs/en/agents-and-tools/tool-use
    tools=frozenset({"", "custom", "bash_*", "text_editor_*", "computer_*", "memory_*"}),
    tool_keys=_names(
        "type name description input_schema cache_control strict defer_loading eager_input_streaming input_examples"
        " allowed_callers display_width_px display_height_px display_number max_characters enable_zoom"
    ),
    # Not those that have the provider fetch, run, store or look up something: mcp-client-*, web-fetch-*, web-search-*,
    # code-execution-*, skills-*, files-api-*, message-batches-*, managed-agents-*, advisor-tool-*, resumption-*.
    betas=_names(
        "claude-code-20250219 interleaved-thinking-2025-05-14 context-1m-2025-08-07 context-management-2025-06-27"
        " thinking-token-count-2026-05-13 thinking-display-updates-2026-08-18 thinking-binding-controls-2026-08-01"
        " redact-thinking-2026-02-12 prompt-caching-2024-07-31 prompt-caching-scope-2026-01-05"
        " prompt-caching-evict-2026-05-12 extended-cache-ttl-2025-04-11 cache-diagnosis-2026-04-07"
        " mid-conversation-system-2026-04-07 mid-conversation-system-clear-at-2026-08-21"
        " mid-conversation-tool-changes-2026-07-01 inline-tools-2026-09-15 per-turn-control-2026-07-01"
        " timing-2026-09-09 effort-2025-11-24 task-budgets-2026-03-13 structured-outputs-2025-11-13"
        " structured-outputs-2025-12-15 token-efficient-tools-2025-02-19 fine-grained-tool-streaming-2025-05-14"
        " output-128k-2025-02-19 token-counting-2024-11-01 pdfs-2024-09-25 computer-use-2024-10-22"
        " computer-use-2025-01-24 computer-use-2025-11-24 advanced-tool-use-2025-11-20 tool-search-tool-2025-10-19"
        " tool-examples-2025-10-29 compact-2026-01-12 context-hint-2026-04-09 fallback-credit-2026-06-01"
        " server-side-fallback-2026-06-01 server-side-fallback-2026-07-01 auto-mode-classifier-2026-07-16"
        " afk-mode-2026-01-31 dangerous-tool-use-2026-09-03 claude-code-side-query-2026-09-29"
        " summarize-connector-text-2026-03-13 model-context-window-exceeded-2025-08-26"
    ),
    beta_header="anthropic-beta",
    parameters=frozenset({"beta", "limit", "after_id", "before_id"}),
)
# Left out besides: what refers to an earlier answer or a stored prompt, which another tenant may have left under the
# same key (previous_response_id, conversation, prompt, item_reference), and answers made later (background).
OPENAI = Grammar(
    fields=_names(
        "model messages input instructions audio frequency_penalty function_call functions logit_bias logprobs"
        " max_completion_tokens max_output_tokens max_tokens metadata modalities n parallel_tool_calls prediction"
        " presence_penalty reasoning reasoning_effort response_format safety_identifier prompt_cache_key"
        " prompt_cache_retention seed service_tier stop store stream stream_options temperature text tool_choice tools"
        " max_tool_calls top_logprobs top_p truncation user verbosity include dimensions encoding_format"
    ),
    with_blocks=frozenset({"messages", "input", "instructions"}),
    types=_names(
        "text image_url input_audio refusal file function custom message input_text input_image input_file output_text"
        " reasoning summary_text reasoning_text function_call function_call_output custom_tool_call"
        " custom_tool_call_output local_shell_call local_shell_call_output apply_patch_call apply_patch_call_output"
        " computer_call computer_call_output computer_screenshot exec compaction"
    ),
    keys=_names(
        "role content type text name refusal tool_calls tool_call_id id function arguments function_call custom input"
        " input_audio data format file filename detail audio status call_id output summary encrypted_content"
        " annotations logprobs phase action operation pending_safety_checks acknowledged_safety_checks"
    ),
    opaque=frozenset({"action", "operation", "logprobs"}),
    inline=frozenset({"url", "image_url", "file_data"}),
    tools=frozenset({"", "function", "custom", "local_shell", "apply_patch", "computer", "computer_use_preview"}),
    tool_keys=_names(
        "type name description parameters strict function custom format defer_loading display_width display_height"
        " environment"
    ),
    betas=frozenset({"responses=experimental"}),
    beta_header="openai-beta",
    parameters=frozenset({"limit", "after", "order"}),
)
GRAMMARS = {Provider.ANTHROPIC: ANTHROPIC, Provider.OPENAI: OPENAI}


def check_body(provider: Provider, data: bytes, extra: Iterable[str] = ()) -> tuple[bytes, int]:
    """The body to be sent in the place of an agent's, and the most output tokens that it asks for, 0 if it doesn't say.

    It is written anew, so that the provider reads what was read here: no second value of a name, no other encoding.
    `extra` are the operators' entries. Raises NotAllowed, InvalidBody.
    """
    if sum(map(data.count, (b",", b":", b"[", b"{"))) > ITEMS_MAX:
        raise InvalidBody("The body has too many items.")
    try:
        request = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidBody(f"The body is no JSON: {error}"[:300]) from None
    if not isinstance(request, dict):
        raise InvalidBody("The body has to be a JSON object.")
    missing = {entry for entry in _entries(GRAMMARS[provider], request) if not _listed(frozenset(extra), entry)}
    if missing:
        raise NotAllowed(missing)
    return _dumped(request), _max_tokens(request)


def check_query(provider: Provider, text: str, extra: Iterable[str] = ()) -> None:
    """Check the parameters of an address. Raises NotAllowed."""
    names = (name for name, _ in parse_qsl(text, keep_blank_values=True))
    _check("parameter", GRAMMARS[provider].parameters, names, frozenset(extra))


def check_betas(provider: Provider, headers: Iterable[tuple[bytes, bytes]], extra: Iterable[str] = ()) -> None:
    """Check the betas that the headers ask for. Raises NotAllowed."""
    grammar = GRAMMARS[provider]
    values = [
        value.decode("latin-1") for name, value in headers if name.decode("latin-1").lower() == grammar.beta_header
    ]
    names = (each.strip() for value in values for each in value.split(","))
    _check("beta", grammar.betas, (name for name in names if name), frozenset(extra))


def extra_headers(extra: Iterable[str]) -> frozenset[str]:
    """The names of the headers that operators let pass."""
    return frozenset(entry.partition(":")[2].lower() for entry in extra if entry.startswith("header:"))


def invalid_entries(entries: Iterable[str]) -> list[str]:
    """Those of the operators' entries that are none."""
    return [entry for entry in entries if not ENTRY.fullmatch(entry)]


def _check(kind: str, allowed: frozenset[str], names: Iterable[str], extra: frozenset[str]) -> None:
    missing = {_entry(kind, name) for name in names if name not in allowed}
    if missing := {entry for entry in missing if not _listed(extra, entry)}:
        raise NotAllowed(missing)


def _dumped(request: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(request, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return (json.dumps(request) if SURROGATE.search(text) else text).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidBody(f"The body is no JSON: {error}"[:300]) from None


def _entries(grammar: Grammar, request: dict[str, Any]) -> Iterator[str]:
    """What a request needs beyond the grammar, as entries."""
    for name, value in request.items():
        if name not in grammar.fields and value is not None:
            yield _entry("field", name)
        elif name == "model" and isinstance(value, str) and any(fnmatchcase(value, each) for each in SEARCHING):
            yield _entry("model", value)
        elif name == "tools":
            yield from _tools(grammar, value)
        elif name in grammar.with_blocks:
            yield from _blocks(grammar, value)


def _tools(grammar: Grammar, tools: Any) -> Iterator[str]:
    for tool in tools if isinstance(tools, list) else [tools]:
        if not isinstance(tool, dict):
            continue  # the provider takes none of these
        kind = tool.get("type") or ""
        if not isinstance(kind, str) or not _listed(grammar.tools, kind):
            yield _entry("tool", kind)
        yield from (_entry("key", name) for name in tool if name not in grammar.tool_keys and tool[name] is not None)


def _blocks(grammar: Grammar, value: Any) -> Iterator[str]:
    """Look at every name and type, however deep."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            if {name for name in item if item[name] is not None} == {"id"}:
                yield _entry("type", "item_reference")  # which is what an item is that has nothing else
            for name, inner in item.items():
                if inner is None or name in grammar.opaque:
                    continue
                if name == "type" and not (isinstance(inner, str) and inner in grammar.types):
                    yield _entry("type", inner)
                inline = name in grammar.inline and (_is_data(inner) if isinstance(inner, str) else True)
                if name not in grammar.keys and not inline:
                    yield _entry("key", name)
                waiting.append(inner)


def _is_data(url: str) -> bool:
    """Whether an address holds what it leads to (RFC 2397)."""
    return url[:5].lower() == "data:"


def _entry(kind: str, name: Any) -> str:
    text = name if isinstance(name, str) else json.dumps(name)
    return f"{kind}:{''.join(c if c.isprintable() else '�' for c in text[:NAME_SHOWN])}"


def _listed(names: frozenset[str], name: str) -> bool:
    return name in names or any(fnmatchcase(name, each) for each in names if each.endswith("*"))


def _max_tokens(request: dict[str, Any]) -> int:
    """The most tokens that a response may have: all of its choices."""
    values = [request.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    limits = [value for value in values if isinstance(value, int) and value > 0]
    count = request.get("n")
    return max(limits, default=0) * (count if isinstance(count, int) and count > 1 else 1)
