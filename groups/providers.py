"""Where the model APIs are that the credential broker speaks to, and how their clients are led to it."""

from dataclasses import dataclass

from groups.choices import Provider


@dataclass(frozen=True, slots=True)
class ModelApi:
    """One API. `variable` is where its clients look for the address, `client_path` what they expect at its end."""

    base_url: str
    header: str  # carries the key
    variable: str
    client_path: str


# https://docs.claude.com/en/api and https://platform.openai.com/docs/api-reference
MODEL_APIS = {
    Provider.ANTHROPIC: ModelApi("https://api.anthropic.com", "x-api-key", "ANTHROPIC_BASE_URL", ""),
    Provider.OPENAI: ModelApi("https://api.openai.com", "authorization", "OPENAI_BASE_URL", "/v1"),
}
