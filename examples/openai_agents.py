"""OpenAI's Agents SDK: an agent with a tool, over the Responses API, which the gateway speaks for every target.

pip install openai-agents
OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sg-… python openai_agents.py
"""

from agents import Agent, ModelSettings, Runner, function_tool, set_tracing_disabled

set_tracing_disabled(True)  # traces would go to OpenAI, with the gateway's key


@function_tool
def weather(city: str) -> str:
    """The weather in a city now."""
    print("tool:", city)
    return f"{city}: sunny, 21 degrees"


agent = Agent(
    name="Weather",
    instructions="Answer in one sentence.",
    model="auto",
    model_settings=ModelSettings(max_tokens=60, extra_headers={"X-Workflow": "weather"}),
    tools=[weather],
)
result = Runner.run_sync(agent, "What is the weather in Paris?")
print("answer:", result.final_output)
