"""Pydantic AI: an agent with a tool.

pip install "pydantic-ai-slim[openai]"
OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sg-… python pydantic_ai_agent.py
"""

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

agent = Agent(
    OpenAIChatModel("auto", provider=OpenAIProvider()),
    model_settings={"max_tokens": 60, "extra_headers": {"X-Workflow": "weather"}},
)


@agent.tool_plain
def weather(city: str) -> str:
    """The weather in a city now."""
    print("tool:", city)
    return f"{city}: sunny, 21 degrees"


result = agent.run_sync("What is the weather in Paris?")
print("answer:", result.output)
print("calls:", result.usage.requests)
